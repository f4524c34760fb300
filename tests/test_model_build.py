"""A base model from parts: every weight and token where it was, the adapter new; layouts converted there and back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXTS, picture
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import (
    Aimv2Config,
    Aimv2Model,
    Aimv2TextConfig,
    Aimv2VisionConfig,
    Aimv2VisionModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3MoeConfig,
)

from sail_rl.cli.main import main
from sail_rl.models.build import build_model
from sail_rl.models.files import read_tensors
from sail_rl.models.loading import load_model

VISION = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}
LANGUAGE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
}
MOE = {"moe_intermediate_size": 48, "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True}


def qwen_tokenizer(*, thinking: bool) -> PreTrainedTokenizerFast:
    """A tokenizer as Qwen3's base models have: ChatML tokens, `<|endoftext|>` as EOS and no image tokens."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if thinking:
        tokenizer.add_tokens([AddedToken(tag, special=False) for tag in ("<think>", "</think>")])
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end)


@pytest.fixture
def llm_dir(tmp_path: Path) -> Callable[..., Path]:
    """`llm_dir(llm, vocabulary, thinking, tied)`: folder of a small Qwen3 with its tokenizer."""

    def make(llm: str = "qwen3", vocabulary: int = 384, thinking: bool = True, tied: bool = True) -> Path:
        folder = tmp_path / f"{llm}-{vocabulary}-{thinking}-{tied}"
        torch.manual_seed(0)
        shared: dict[str, Any] = {**LANGUAGE, "vocab_size": vocabulary, "tie_word_embeddings": tied}
        config = Qwen3MoeConfig(**shared, **MOE) if llm == "qwen3_moe" else Qwen3Config(**shared)
        model = AutoModelForCausalLM.from_config(config)
        model.generation_config = GenerationConfig(eos_token_id=0, temperature=0.6, top_p=0.95, do_sample=True)
        model.save_pretrained(folder)
        qwen_tokenizer(thinking=thinking).save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def vision_dir(tmp_path: Path) -> Callable[..., Path]:
    """`vision_dir(kind)`: folder of a small AIMv2, alone with or without its head, or as a whole AIMv2."""

    def make(kind: str = "bare") -> Path:
        torch.manual_seed(1)
        text = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        if kind == "whole":
            config = Aimv2Config(vision_config=VISION, text_config=Aimv2TextConfig(**text, vocab_size=50).to_dict())
            model: Any = Aimv2Model(config)
        else:
            model = Aimv2VisionModel(Aimv2VisionConfig(**VISION, use_head=kind == "head"))
        model.save_pretrained(tmp_path / kind)
        return tmp_path / kind

    return make


def vision_weights(folder: Path, kind: str) -> dict[str, torch.Tensor]:
    """The encoder's tensors as transformers loads them."""
    model = (
        Aimv2Model.from_pretrained(folder).vision_model if kind == "whole" else Aimv2VisionModel.from_pretrained(folder)
    )
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("head.")}


@pytest.mark.parametrize("llm", ["qwen3", "qwen3_moe"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["bare", "head", "whole"])
def test_every_weight_of_the_parts_is_in_the_built_model(
    llm: str, tied: bool, kind: str, llm_dir: Callable[..., Path], vision_dir: Callable[..., Path], tmp_path: Path
) -> None:
    parts = {"vision_dir": vision_dir(kind), "llm_dir": llm_dir(llm, tied=tied)}
    build_model(**parts, output_dir=tmp_path / "built", seed=3)
    model = load_model(tmp_path / "built")
    encoder = vision_weights(parts["vision_dir"], kind)
    assert encoder.keys() == model.model.vision_tower.state_dict().keys()
    for name, tensor in model.model.vision_tower.state_dict().items():
        assert torch.equal(tensor, encoder[name]), name
    source = AutoModelForCausalLM.from_pretrained(parts["llm_dir"], dtype=torch.float32)
    for name, tensor in model.model.language_model.state_dict().items():
        assert torch.equal(tensor, source.model.state_dict()[name]), name
    assert torch.equal(model.lm_head.weight, source.lm_head.weight)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied


def test_the_adapter_depends_on_the_seed_alone(
    llm_dir: Callable[..., Path], vision_dir: Callable[..., Path], tmp_path: Path
) -> None:
    parts = {"vision_dir": vision_dir(), "llm_dir": llm_dir()}
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    adapters = [
        build_model(**parts, output_dir=tmp_path / str(number), seed=seed).model.multi_modal_projector.state_dict()
        for number, seed in enumerate([1, 1, 2])
    ]
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(adapters[0][name], adapters[1][name]) for name in adapters[0])
    assert not torch.equal(adapters[0]["linear_1.weight"], adapters[2]["linear_1.weight"])
    assert adapters[0]["linear_1.weight"].std() == pytest.approx(0.02, rel=0.05)
    assert torch.equal(adapters[0]["layer_norm.weight"], torch.ones(256))
    assert not adapters[0]["linear_2.bias"].any()


@pytest.mark.parametrize(
    ("vocabulary", "thinking", "expected"), [(384, True, 384), (384, False, 384), (302, True, 320)]
)
def test_text_tokens_keep_their_ids_and_embeddings_grow_only_if_they_must(
    vocabulary: int,
    thinking: bool,
    expected: int,
    llm_dir: Callable[..., Path],
    vision_dir: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """Room for 384 ids is room for 305; 302 are not, and grow to a multiple of 64."""
    source = llm_dir(vocabulary=vocabulary, thinking=thinking)
    build_model(vision_dir=vision_dir(), llm_dir=source, output_dir=tmp_path / "built", seed=0)
    before, after = AutoTokenizer.from_pretrained(source), AutoProcessor.from_pretrained(tmp_path / "built").tokenizer
    assert before.get_vocab().items() <= after.get_vocab().items()
    added = {"<img>", "<IMG_CONTEXT>", "</img>"} | (set() if thinking else {"<think>", "</think>"})
    assert after.get_vocab().keys() - before.get_vocab().keys() == added
    for text in [TEXTS[0] if thinking else "What is the sum?", "<|im_start|>user\nwhat?<|im_end|>"]:
        assert before(text)["input_ids"] == after(text)["input_ids"]
    model = load_model(tmp_path / "built")
    assert len(model.lm_head.weight) == len(model.get_input_embeddings().weight) == expected
    assert model.config.text_config.vocab_size == expected
    rows = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).get_input_embeddings().weight
    assert torch.equal(model.get_input_embeddings().weight[:vocabulary], rows[:vocabulary])
    assert after.decode(after("<think>a</think><img>")["input_ids"], skip_special_tokens=True) == "<think>a</think>"


def test_a_turn_ends_with_chatmls_end_and_generation_settings_are_kept(
    llm_dir: Callable[..., Path], vision_dir: Callable[..., Path], tmp_path: Path
) -> None:
    build_model(vision_dir=vision_dir(), llm_dir=llm_dir(), output_dir=tmp_path / "built", seed=0)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "built")
    processor = AutoProcessor.from_pretrained(tmp_path / "built")
    end, pad = (processor.tokenizer.convert_tokens_to_ids(name) for name in ("<|im_end|>", "<|endoftext|>"))
    assert processor.tokenizer.eos_token_id == model.config.text_config.eos_token_id == end
    assert processor.tokenizer.pad_token_id == model.config.text_config.pad_token_id == pad
    settings = model.generation_config
    assert (settings.eos_token_id, settings.pad_token_id) == ([end, pad], pad)
    assert (settings.temperature, settings.top_p, settings.do_sample) == (0.6, 0.95, True)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}]
    expected = "<|im_start|>user\n<IMG_CONTEXT>\nwhat?<|im_end|><|im_start|>assistant\n"
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == expected
    assert processor.image_token_id == model.config.image_token_id


@pytest.mark.parametrize("llm", ["qwen3", "qwen3_moe"])
def test_the_built_model_learns_from_an_image_in_one_step(
    llm: str, llm_dir: Callable[..., Path], vision_dir: Callable[..., Path], tmp_path: Path
) -> None:
    build_model(vision_dir=vision_dir(), llm_dir=llm_dir(llm), output_dir=tmp_path / "built", seed=0)
    model, processor = load_model(tmp_path / "built"), AutoProcessor.from_pretrained(tmp_path / "built")
    batch = processor(images=[picture(0, 112, 56)], text="<IMG_CONTEXT>\nThe sum is 10", return_tensors="pt")
    labels = batch["input_ids"].masked_fill(
        torch.isin(batch["input_ids"], torch.tensor(processor.image_token_ids)), -100
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = model(**batch, labels=labels).loss
    before.backward()
    untouched = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not untouched
    optimizer.step()
    assert model(**batch, labels=labels).loss < before


def test_a_sail_vl2_in_either_layout_lends_its_encoder(
    tiny_dir: Callable[..., Path], llm_dir: Callable[..., Path], tmp_path: Path
) -> None:
    assert main(["model", "convert", str(tiny_dir()), str(tmp_path / "published"), "--published"]) == 0
    tower = load_model(tiny_dir()).model.vision_tower.state_dict()
    for number, source in enumerate([tiny_dir(), tmp_path / "published"]):
        model = build_model(vision_dir=source, llm_dir=llm_dir(), output_dir=tmp_path / str(number), seed=0)
        built = model.model.vision_tower.state_dict()
        assert tower.keys() == built.keys()
        assert all(torch.equal(tower[name], built[name]) for name in tower)


def test_wrong_folders_are_refused_with_what_was_found_and_what_is_wanted(
    llm_dir: Callable[..., Path],
    vision_dir: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    vision, llm = str(vision_dir()), str(llm_dir())

    def error(**options: str) -> str:
        given = {"vision": vision, "llm": llm, "out": str(tmp_path / "out"), **options}
        assert main(["model", "build", *(word for name in given for word in (f"--{name}", given[name]))]) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    assert "has model_type 'qwen3'; give a folder with aimv2_vision_model, aimv2, sailvl" in error(vision=llm)
    assert "has model_type 'aimv2_vision_model'; give a folder with qwen3, qwen3_moe" in error(llm=vision)
    assert "doesn't exist; give a model's folder" in error(vision=str(tmp_path / "nowhere"))
    assert "is not empty" in error(out=llm)
    config = Path(vision, "config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"image_size": 84}))
    assert "position embeddings are for 16 patches, but 84-pixel tiles" in error()


@pytest.mark.parametrize("llm", ["qwen3", "qwen3_moe"])
def test_converting_there_and_back_changes_nothing(
    llm: str, tiny_dir: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, published, back = tiny_dir(llm, False), tmp_path / "published", tmp_path / "back"
    assert main(["model", "convert", str(source), str(published), "--published"]) == 0
    assert main(["model", "convert", str(published), str(back)]) == 0
    assert "total" in capsys.readouterr().out
    assert not (published / "processor_config.json").exists()
    first, last = load_model(source), load_model(back)
    assert first.state_dict().keys() == last.state_dict().keys()
    for name, tensor in last.state_dict().items():
        assert torch.equal(tensor, first.state_dict()[name]), name
    processors = [AutoProcessor.from_pretrained(folder) for folder in (source, published, back)]
    # max_pixels belongs to AnyRes, which the published layout doesn't have.
    settings = [{**processor.image_processor.to_dict(), "max_pixels": None} for processor in processors]
    assert settings[0] == settings[1] == settings[2]
    assert first.generation_config.eos_token_id == last.generation_config.eos_token_id


def test_a_resolution_that_the_published_layout_doesnt_have_is_refused(
    tiny_dir: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tiny_dir("qwen3", True, "anyres"))
    assert main(["model", "convert", folder, str(tmp_path / "out"), "--published"]) == 2
    assert "supports tiles only" in capsys.readouterr().err


def test_an_encoder_written_by_aimv2_s_remote_code_is_read(
    tiny_dir: Callable[..., Path], llm_dir: Callable[..., Path], tmp_path: Path
) -> None:
    """Its names are the published SAIL-VL2's without their prefix; its config.json has the fields on top."""
    assert main(["model", "convert", str(tiny_dir()), str(tmp_path / "published"), "--published"]) == 0
    prefix = "vision_model."
    tensors = {name.removeprefix(prefix): t for name, t in read_tensors(tmp_path / "published") if prefix in name}
    tower = load_model(tiny_dir()).model.vision_tower
    remote = tmp_path / "remote"
    remote.mkdir()
    save_file(tensors, remote / "model.safetensors")
    fields = tower.config.to_dict() | {"model_type": "aimv2", "dtype": "float32"}
    (remote / "config.json").write_text(json.dumps(fields))
    built = build_model(vision_dir=remote, llm_dir=llm_dir(), output_dir=tmp_path / "built", seed=0)
    found = built.model.vision_tower.state_dict()
    assert found.keys() == tower.state_dict().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tower.state_dict().items())
    del tensors["trunk.post_trunk_norm.weight"]
    save_file(tensors, remote / "model.safetensors")
    with pytest.raises(ValueError, match=r"rms_norm.weight is missing"):
        build_model(vision_dir=remote, llm_dir=llm_dir(), output_dir=tmp_path / "other", seed=0)


def test_a_head_that_tying_would_lose_is_refused(tiny_dir: Callable[..., Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_dir("qwen3", False), tmp_path / "untied"))
    config = json.loads((folder / "config.json").read_text())
    config["tie_word_embeddings"] = config["text_config"]["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="set tie_word_embeddings to false"):
        load_model(folder)
