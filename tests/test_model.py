"""The model: saving and loading, generation, mixed batches, packed scoring, the MoE's auxiliary loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import VARIANTS, picture, question
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from sail_rl.contracts import Rollout
from sail_rl.data.encoding import Encoder, Sample
from sail_rl.data.packing import collate
from sail_rl.models import SailVLForConditionalGeneration, SailVLProcessor
from sail_rl.models.loading import load_model


def completion(encoder: Encoder, name: str, images: int, length: int) -> Sample:
    """A sample with this many images and a completion of `length` arbitrary text tokens."""
    prompt_ids, pictures = encoder.prompt_inputs(question(encoder, name, [picture(i) for i in range(images)]))
    tokens = torch.arange(length) + 20
    return Sample(torch.cat([prompt_ids, tokens]), len(prompt_ids), **pictures)


def unpacked_logprobs(model: SailVLForConditionalGeneration, sample: Sample) -> torch.Tensor:
    """Log-probs of a sample's completion, from the full logits of a plain forward."""
    images = {"pixel_values": sample.pixel_values, "image_grid_thw": sample.image_grid_thw}
    logits = model(input_ids=sample.input_ids[None], **images).logits[0].log_softmax(-1)
    scored = slice(sample.prompt_length, None)
    return logits[sample.prompt_length - 1 : -1].gather(1, sample.input_ids[scored, None])[:, 0]


@pytest.mark.parametrize(("llm", "tied"), VARIANTS)
def test_saved_model_loads_bit_exactly_through_the_auto_classes(
    llm: str, tied: bool, tiny_dir: Callable[..., Path], tmp_path: Path
) -> None:
    model = load_model(tiny_dir(llm, tied))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert type(loaded) is SailVLForConditionalGeneration
    assert loaded.config.tie_word_embeddings == loaded.config.text_config.tie_word_embeddings == tied
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied
    expected = model.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_processor_survives_saving(processor: SailVLProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    text = "<|im_start|>user\n<IMG_CONTEXT>\nHow many?<|im_end|><|im_start|>assistant\n"
    before = processor(images=[picture(0, 100, 50)], text=text, return_tensors="pt")
    after = loaded(images=[picture(0, 100, 50)], text=text, return_tensors="pt")
    assert torch.equal(before["input_ids"], after["input_ids"])
    assert torch.equal(before["pixel_values"], after["pixel_values"])
    assert torch.equal(before["image_grid_thw"], after["image_grid_thw"])


def test_tiny_models_have_two_to_five_million_parameters(tiny_dir: Callable[..., Path]) -> None:
    for llm, tied in VARIANTS:
        assert 2e6 < load_model(tiny_dir(llm, tied)).num_parameters() < 5e6


def test_wide_image_becomes_tiles_and_a_thumbnail(processor: SailVLProcessor) -> None:
    inputs = processor(images=[picture(0, 112, 56)], text="<IMG_CONTEXT>", return_tensors="pt")
    assert inputs["image_grid_thw"].tolist() == [[3, 4, 4]]  # two tiles, one thumbnail
    assert inputs["pixel_values"].shape == (3 * 16, 3 * 14 * 14)
    assert (inputs["input_ids"] == processor.image_token_id).sum() == 3 * 4


@pytest.mark.parametrize("images", [0, 2])
def test_wrong_number_of_placeholders_is_an_error_before_the_forward(processor: SailVLProcessor, images: int) -> None:
    with pytest.raises(ValueError, match=rf"1 image placeholder.*but {images} image"):
        processor(images=[picture(i) for i in range(images)], text="<IMG_CONTEXT> what?")


@pytest.mark.parametrize("llm", ["qwen3", "qwen3_moe"])
def test_generation_with_cache_equals_without(llm: str, tiny_dir: Callable[..., Path], encoder: Encoder) -> None:
    model = load_model(tiny_dir(llm)).eval()
    ids, images = encoder.prompt_inputs(question(encoder, "a", [picture(0)]))
    kwargs = {**images, "max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    kwargs["suppress_tokens"] = encoder.processor.image_token_ids
    cached = model.generate(ids[None], use_cache=True, **kwargs)
    assert torch.equal(cached, model.generate(ids[None], use_cache=False, **kwargs))


def test_mixed_padded_batch_equals_one_row_at_a_time(
    model: SailVLForConditionalGeneration, processor: SailVLProcessor, encoder: Encoder
) -> None:
    prompts = [question(encoder, str(n), [picture(i) for i in range(n)], "So" + " what" * n) for n in (0, 1, 2)]
    batch = processor(
        images=[image for prompt in prompts for image in prompt.images],
        text=[prompt.text for prompt in prompts],
        padding=True,
        return_tensors="pt",
    )
    position_ids = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    logits = model(**batch, position_ids=position_ids).logits
    for row, prompt in enumerate(prompts):
        ids, images = encoder.prompt_inputs(prompt)
        alone = model(input_ids=ids[None], **images).logits[0]
        torch.testing.assert_close(logits[row, -len(ids) :], alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("llm", ["qwen3", "qwen3_moe"])
def test_packed_logprobs_and_gradients_equal_unpacked(
    llm: str, tiny_dir: Callable[..., Path], encoder: Encoder
) -> None:
    samples = [completion(encoder, str(n), images=n % 3, length=5 + 7 * n) for n in range(4)]
    packed, alone = load_model(tiny_dir(llm)), load_model(tiny_dir(llm))
    batch = collate(samples, filler=encoder.filler())
    scores = packed(**batch.model_inputs(torch.device("cpu")))
    expected = torch.cat([unpacked_logprobs(alone, sample) for sample in samples])
    torch.testing.assert_close(scores.logprobs, expected, atol=2e-6, rtol=1e-5)
    weights = torch.linspace(-1, 1, len(expected))
    (scores.logprobs * weights).sum().backward()
    (expected * weights).sum().backward()
    for (name, left), right in zip(packed.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, atol=2e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("llm", ["qwen3", "qwen3_moe"])
def test_a_group_s_prompt_is_computed_once_and_changes_nothing(
    llm: str, tiny_dir: Callable[..., Path], encoder: Encoder
) -> None:
    rollouts = [Rollout("p", n, list(range(20, 30 + n)), [-1.0] * (10 + n), "", "stop", 1) for n in range(3)]
    group = encoder.rollout_samples(question(encoder, "p", [picture(0), picture(1, 112, 56)]), rollouts)
    other = completion(encoder, "other", images=1, length=4)
    other.token_fields.rollout_logprobs = torch.zeros(4)
    samples = [group[0], other, *group[1:]]
    batch = collate(samples, filler=encoder.filler())
    assert batch.input_ids.numel() == group[0].prompt_length + sum(s.completion_length for s in group) + len(other)
    together, alone = load_model(tiny_dir(llm)), load_model(tiny_dir(llm))
    scores = together(**batch.model_inputs(torch.device("cpu")))
    expected = torch.cat([unpacked_logprobs(alone, sample) for sample in samples])
    torch.testing.assert_close(scores.logprobs, expected, atol=2e-6, rtol=1e-5)
    weights = torch.linspace(-1, 1, len(expected))
    (scores.logprobs * weights).sum().backward()
    (expected * weights).sum().backward()
    for (name, left), right in zip(together.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, atol=2e-5, rtol=1e-3, msg=name)


def test_text_only_row_gets_an_image_that_changes_nothing(
    model: SailVLForConditionalGeneration, encoder: Encoder
) -> None:
    sample = completion(encoder, "text", images=0, length=9)
    batch = collate([sample], filler=encoder.filler())
    assert batch.image_grid_thw.tolist() == [[1, 4, 4]]
    assert batch.labelled == 9
    scores = model(**batch.model_inputs(torch.device("cpu")))
    torch.testing.assert_close(scores.logprobs, unpacked_logprobs(model, sample), atol=2e-6, rtol=1e-5)


def test_moe_loss_contains_the_load_balancing_loss(moe: SailVLForConditionalGeneration, encoder: Encoder) -> None:
    ids, images = encoder.prompt_inputs(question(encoder, "a", [picture(0)]))
    labels = ids.clone()
    labels[labels == encoder.processor.image_token_id] = -100
    output = moe(input_ids=ids[None], **images, labels=labels[None])
    shifted = output.logits[0, :-1]
    plain = torch.nn.functional.cross_entropy(shifted, labels[1:], ignore_index=-100)
    assert output.aux_loss > 1  # its minimum, at perfect balance, is experts_per_token = 2 for the sum over the top 2
    torch.testing.assert_close(output.loss, plain + 0.01 * output.aux_loss)


def test_config_refuses_another_language_model() -> None:
    with pytest.raises(ValueError, match="'llama'; give one of qwen3, qwen3_moe"):
        AutoConfig.for_model("sailvl", text_config={"model_type": "llama"})
