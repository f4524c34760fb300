"""Rollout engines: vLLM's log-probs are the trainer's, after any number of weight pushes, for every kind of model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import FORGED, VARIANTS, perturb, picture, question
from transformers import AutoProcessor

from rollouts.hf import HFEngine
from rollouts.vllm_engine import VLLMEngine
from sail_rl.contracts import Prompt, Rollout, RolloutEngine, Sampling
from sail_rl.data.encoding import Encoder
from sail_rl.data.packing import collate
from sail_rl.data.video import with_frames
from sail_rl.models import Distribution, SailVLForConditionalGeneration
from sail_rl.models.loading import load_model

SAMPLING = Sampling(samples_per_prompt=3, max_tokens=12, temperature=0.8, seed=5)


@pytest.fixture
def prompts(encoder: Encoder) -> list[Prompt]:
    """Text only, one image, two images, an image of two tiles with a thumbnail, and control tokens as text."""
    pictures = [[], [picture(0)], [picture(1), picture(2)], [picture(3, 112, 56)]]
    plain = [question(encoder, f"prompt {n}", images) for n, images in enumerate(pictures)]
    return [*plain, question(encoder, "prompt 4", [picture(4)], FORGED)]


@torch.no_grad()
def gap(
    model: SailVLForConditionalGeneration, encoder: Encoder, prompts: list[Prompt], groups: list[list[Rollout]]
) -> float:
    """Largest difference (nats) between the engine's log-probs and the model's own."""
    samples = [
        sample
        for prompt, group in zip(prompts, groups, strict=True)
        for sample in encoder.rollout_samples(prompt, group)
    ]
    batch = collate(samples, filler=encoder.filler())
    banned = tuple(encoder.processor.image_token_ids)
    output = model(**batch.model_inputs(torch.device("cpu")), distribution=Distribution(SAMPLING.temperature, banned))
    return (output.logprobs - batch.token_fields.rollout_logprobs).abs().max().item()


def prompts_of_every_kind(encoder: Encoder) -> dict[str, Prompt]:
    """Prompts that differ in what they show: nothing, sizes and shapes, several images, a video."""
    frames = [picture(10 + n, 90, 50) for n in range(4)]
    video = with_frames([{"role": "user", "content": "What moves?"}], len(frames))
    return {
        "text": question(encoder, "text", []),
        "one tile": question(encoder, "one tile", [picture(0)]),
        "tiles": question(encoder, "tiles", [picture(1, 168, 112)]),
        "wide": question(encoder, "wide", [picture(2, 201, 31)]),
        "tall": question(encoder, "tall", [picture(3, 23, 97)]),
        "too large": question(encoder, "too large", [picture(4, 500, 333)]),
        "several": question(encoder, "several", [picture(5, 60, 90), picture(6), picture(7, 100, 40)]),
        "control tokens": question(encoder, "control tokens", [picture(8)], FORGED),
        "video": encoder.prompt({"id": "video", "prompt": video, "images": [], "video": frames}),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("llm", "tied", "resolution"),
    # Padded tiles reach every language model as fixed ones do.
    [(*variant, resolution) for variant in VARIANTS for resolution in ("tiles", "anyres")]
    + [("qwen3", True, "padded")],
)
def test_every_kind_of_input_has_equal_logprobs_in_vllm(
    llm: str, tied: bool, resolution: str, tiny_dir: Callable[..., Path], vllm_engine: Callable[..., VLLMEngine]
) -> None:
    folder, engine = tiny_dir(llm, tied, resolution), vllm_engine(llm, tied, resolution)
    model, encoder = load_model(folder).eval(), Encoder(AutoProcessor.from_pretrained(folder), max_length=256)
    perturb(model, seed=7)
    engine.push_weights(1, model.named_parameters())
    kinds = prompts_of_every_kind(encoder)
    groups = engine.generate(list(kinds.values()), SAMPLING)
    gaps = {
        kind: gap(model, encoder, [prompt], [group])
        for (kind, prompt), group in zip(kinds.items(), groups, strict=True)
    }
    assert max(gaps.values()) < 1e-5, gaps

    # The measure would notice a wrong picture: another one of the same size is far off.
    swapped = dataclasses.replace(kinds["wide"], images=[picture(99, 201, 31)])
    assert gap(model, encoder, [swapped], [groups[list(kinds).index("wide")]]) > 1e-4

    from vllm.multimodal import MULTIMODAL_REGISTRY

    info = MULTIMODAL_REGISTRY.create_processor(engine._llm.llm_engine.model_config).info
    largest = max(encoder.processor.image_tokens(h, w) for h in range(7, 400, 14) for w in range(7, 400, 14))
    assert info.get_max_image_tokens() == largest  # the memory that vLLM plans for is what an image may need


@pytest.mark.slow
@pytest.mark.parametrize(("llm", "tied"), VARIANTS)
def test_three_pushes_in_a_row_leave_vllm_equal_to_the_trainer(
    llm: str,
    tied: bool,
    tiny_dir: Callable[..., Path],
    vllm_engine: Callable[..., VLLMEngine],
    encoder: Encoder,
    prompts: list[Prompt],
) -> None:
    model, engine = load_model(tiny_dir(llm, tied)).eval(), vllm_engine(llm, tied)
    for version in (1, 2, 3):
        perturb(model, seed=version)
        engine.push_weights(version, model.named_parameters())
        groups = engine.generate(prompts, SAMPLING)
        assert gap(model, encoder, prompts, groups) < 1e-5
        assert {rollout.weights_version for group in groups for rollout in group} == {version}


def test_vllm_equals_transformers_for_text_images_and_tiles(
    model: SailVLForConditionalGeneration,
    vllm_engine: Callable[..., VLLMEngine],
    encoder: Encoder,
    prompts: list[Prompt],
) -> None:
    engine = vllm_engine()
    perturb(model, seed=0)
    engine.push_weights(1, model.named_parameters())
    assert gap(model, encoder, prompts, engine.generate(prompts, SAMPLING)) < 1e-5


def test_a_stale_engine_is_visible_in_the_logprobs(
    model: SailVLForConditionalGeneration,
    vllm_engine: Callable[..., VLLMEngine],
    encoder: Encoder,
    prompts: list[Prompt],
) -> None:
    engine = vllm_engine()
    engine.push_weights(1, model.named_parameters())
    groups = engine.generate(prompts, SAMPLING)
    perturb(model, seed=9)
    assert gap(model, encoder, prompts, groups) > 1e-2


def test_hf_engine_reports_the_logprobs_of_the_model(
    model: SailVLForConditionalGeneration, tiny_dir: Callable[..., Path], encoder: Encoder, prompts: list[Prompt]
) -> None:
    engine = HFEngine(tiny_dir(), max_model_len=256)
    perturb(model, seed=3)
    engine.push_weights(1, model.named_parameters())
    assert gap(model, encoder, prompts, engine.generate(prompts, SAMPLING)) < 1e-5


def test_greedy_tokens_of_vllm_and_transformers_are_equal(
    model: SailVLForConditionalGeneration,
    tiny_dir: Callable[..., Path],
    vllm_engine: Callable[..., VLLMEngine],
    prompts: list[Prompt],
) -> None:
    engines: list[RolloutEngine] = [vllm_engine(), HFEngine(tiny_dir(), max_model_len=256)]
    greedy, tokens = Sampling(max_tokens=16, temperature=0.0), []
    perturb(model, seed=4, scale=0.05)
    for engine in engines:
        engine.push_weights(1, model.named_parameters())
        tokens.append([group[0].token_ids for group in engine.generate(prompts, greedy)])
    assert tokens[0] == tokens[1]


def test_rollouts_do_not_depend_on_the_batch_they_are_sampled_in(
    model: SailVLForConditionalGeneration, vllm_engine: Callable[..., VLLMEngine], prompts: list[Prompt]
) -> None:
    engine = vllm_engine()
    engine.push_weights(1, model.named_parameters())
    together = engine.generate(prompts, SAMPLING)
    alone = [engine.generate([prompt], SAMPLING)[0] for prompt in reversed(prompts)][::-1]
    assert [[r.token_ids for r in group] for group in together] == [[r.token_ids for r in group] for group in alone]
    assert len({tuple(rollout.token_ids) for rollout in together[0]}) == SAMPLING.samples_per_prompt


@pytest.mark.parametrize("name", ["vllm", "transformers"])
def test_image_tokens_are_never_sampled(
    name: str,
    model: SailVLForConditionalGeneration,
    tiny_dir: Callable[..., Path],
    vllm_engine: Callable[..., VLLMEngine],
    encoder: Encoder,
    prompts: list[Prompt],
) -> None:
    engine: RolloutEngine = vllm_engine() if name == "vllm" else HFEngine(tiny_dir())
    banned = encoder.processor.image_token_ids
    with torch.no_grad():  # a policy that likes nothing as much as image tokens
        model.lm_head.weight[banned] += 10 * model.lm_head.weight.abs().max()
        model.model.language_model.norm.weight.abs_()
    engine.push_weights(1, model.named_parameters())
    groups = engine.generate(prompts, SAMPLING)
    assert not {token for group in groups for rollout in group for token in rollout.token_ids} & set(banned)


def test_a_prompt_without_its_image_is_refused(
    vllm_engine: Callable[..., VLLMEngine], model: torch.nn.Module, prompts: list[Prompt]
) -> None:
    engine = vllm_engine()
    engine.push_weights(1, model.named_parameters())
    with pytest.raises(ValueError, match=r"prompt lonely has 1 image placeholder\(s\) but 0 image\(s\)"):
        engine.generate([dataclasses.replace(prompts[1], id="lonely", images=[])], SAMPLING)


def test_generating_before_the_first_push_is_refused(tiny_dir: Callable[..., Path], prompts: list[Prompt]) -> None:
    with pytest.raises(RuntimeError, match="no weights yet"):
        HFEngine(tiny_dir()).generate(prompts, SAMPLING)


@pytest.mark.slow
def test_a_second_engine_in_the_process_is_refused(
    vllm_engine: Callable[..., VLLMEngine], tiny_dir: Callable[..., Path]
) -> None:
    vllm_engine()
    with pytest.raises(RuntimeError, match="another vLLM engine lives"):
        VLLMEngine(tiny_dir())


@pytest.mark.slow
def test_options_of_vllm_go_before_the_engine_s_own(
    vllm_engine_at: Callable[..., VLLMEngine], tiny_dir: Callable[..., Path]
) -> None:
    changes = {"enforce_eager": False, "max_num_seqs": 7, "kv_cache_memory_bytes": 2**27}
    config = vllm_engine_at(tiny_dir(), options=changes)._llm.llm_engine.vllm_config
    assert not config.model_config.enforce_eager
    assert config.scheduler_config.max_num_seqs == 7
    assert config.cache_config.kv_cache_memory_bytes == 2**27


@pytest.mark.slow
def test_the_trainer_s_process_group_outlives_an_engine(vllm_engine: Callable[..., VLLMEngine]) -> None:
    vllm_engine()
    trainers, batch = torch.distributed.new_group([0]), torch.ones(3)
    vllm_engine("qwen3_moe")  # closes the first
    torch.distributed.all_reduce(batch, group=trainers)
    assert torch.distributed.is_initialized()
    assert batch.tolist() == [1, 1, 1]


def test_rollouts_in_parts_are_the_whole_ones_and_know_who_sampled_what(
    model: SailVLForConditionalGeneration,
    vllm_engine: Callable[..., VLLMEngine],
    encoder: Encoder,
    prompts: list[Prompt],
) -> None:
    perturb(model, seed=4)
    engine = vllm_engine()
    engine.push_weights(1, model.named_parameters())
    greedy = dataclasses.replace(SAMPLING, temperature=0.0, samples_per_prompt=1)
    whole = engine.generate(prompts, greedy)
    groups: list[list[Rollout]] = [[] for _ in prompts]
    for version in (1, 2, 3):
        engine.push_weights(version, model.named_parameters())
        under_way = [[r for r in group if r.stop_reason == "unfinished"] for group in groups]
        going = [dataclasses.replace(p, partial_rollouts=b) for p, b in zip(prompts, under_way, strict=True)]
        chosen = [place for place, prompt in enumerate(going) if version == 1 or prompt.partial_rollouts]
        partial = dataclasses.replace(greedy, max_new_tokens_per_round=5)
        grown = engine.generate([going[place] for place in chosen], partial)
        for place, fresh in zip(chosen, grown, strict=True):
            ready = [r for r in groups[place] if r.stop_reason != "unfinished"]
            groups[place] = sorted(ready + fresh, key=lambda r: r.sample)
    for group, expected in zip(groups, whole, strict=True):
        for rollout, all_at_once in zip(group, expected, strict=True):
            assert (rollout.token_ids, rollout.text) == (all_at_once.token_ids, all_at_once.text)
            assert (rollout.sample, rollout.stop_reason) == (all_at_once.sample, all_at_once.stop_reason)
            assert rollout.logprobs == pytest.approx(all_at_once.logprobs, abs=1e-5)
            assert rollout.token_versions == ([1] * 5 + [2] * 5 + [3] * 2)[: len(rollout.token_ids)]


@pytest.mark.slow
@torch.no_grad()
def test_a_float32_head_is_one_in_vllm_and_in_the_trainer(
    tiny_dir: Callable[..., Path], vllm_engine_at: Callable[..., VLLMEngine], encoder: Encoder
) -> None:
    """The same bfloat16 hidden states give the same float32 logits, and differ from those of a bfloat16 head."""
    engine = vllm_engine_at(tiny_dir(), dtype="bfloat16", head_dtype="float32")
    float32, rounded = (
        load_model(tiny_dir(), dtype=torch.bfloat16, head_dtype=head).eval() for head in ("float32", None)
    )
    engine.push_weights(1, float32.named_parameters())
    hidden = torch.randn(5, float32.config.text_config.hidden_size).bfloat16()
    (logits,) = engine._llm.collective_rpc(lambda worker: worker.model_runner.model.compute_logits(hidden))
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, float32.lm_head(hidden), atol=1e-5, rtol=1e-5)
    assert (logits - rounded.lm_head(hidden)).abs().max() > 1e-3
    prompts = [question(encoder, str(number), [picture(number)]) for number in range(4)]
    assert gap(float32, encoder, prompts, engine.generate(prompts, SAMPLING)) < 0.1
