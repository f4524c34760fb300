"""Checkpoints in the published layout, written here with plain torch: read, compared and written back bit-exactly."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TEXTS, picture
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from torch.nn import functional
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    Qwen3Config,
    Qwen3MoeConfig,
)

from rollouts.vllm_engine import VLLMEngine
from sail_rl.contracts import Sampling
from sail_rl.data.encoding import Encoder
from sail_rl.models import SailVLConfig, SailVLForConditionalGeneration, SailVLProcessor
from sail_rl.models.loading import load_model
from sail_rl.models.sizes import SIZES, parameters_by_part, published_size
from sail_rl.models.tensor_names import in_our_names

VISION = {
    "model_type": "aimv2",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "num_channels": 3,
    "image_size": 56,
    "patch_size": 14,
    "rms_norm_eps": 1e-5,
    "attention_dropout": 0.0,
    "projection_dropout": 0.0,
    "qkv_bias": False,
    "use_bias": False,
    "torch_dtype": "bfloat16",
}
LANGUAGE = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "vocab_size": 512,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_scaling": None,
    "max_position_embeddings": 1024,
    "hidden_act": "silu",
    "attention_bias": False,
    "torch_dtype": "bfloat16",
}
MOE = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "moe_intermediate_size": 32,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
TOP = {
    "model_type": "sailvl",
    "architectures": ["SAILVLModel"],
    "auto_map": {
        "AutoConfig": "configuration_sailvl.SAILVLConfig",
        "AutoModel": "somebody/elsewhere--modeling_sailvl.SAILVLModel",
        "AutoModelForCausalLM": "modeling_sailvl.SAILVLModel",
        "AutoProcessor": "processing_sailvl.Processor",
    },
    "downsample_ratio": 0.5,
    "select_layer": -4,
    "ps_version": "v1",
    "force_image_size": 56,
    "dynamic_image_size": True,
    "min_dynamic_patch": 1,
    "max_dynamic_patch": 4,
    "use_thumbnail": True,
    "pad2square": False,
    "template": "sailvl-chat",
    "transformers_version": "4.51.3",
}
KINDS = [("qwen3", True), ("qwen3", False), ("qwen3_moe", True), ("qwen3_moe", False)]


def vision_shapes() -> dict[str, tuple[int, ...]]:
    """Names and shapes of encoder and adapter; the fields are those of `VISION`."""
    width, inner, language = 64, 96, 64
    shapes: dict[str, tuple[int, ...]] = {
        "vision_model.preprocessor.patchifier.proj.weight": (width, 3, 14, 14),
        "vision_model.preprocessor.patchifier.proj.bias": (width,),
        "vision_model.preprocessor.patchifier.norm.weight": (width,),
        "vision_model.preprocessor.pos_embed": (1, 16, width),
        "vision_model.trunk.post_trunk_norm.weight": (width,),
        "mlp1.0.weight": (4 * width,),
        "mlp1.0.bias": (4 * width,),
        "mlp1.1.weight": (language, 4 * width),
        "mlp1.1.bias": (language,),
        "mlp1.3.weight": (language, language),
        "mlp1.3.bias": (language,),
    }
    for block in range(5):
        prefix = f"vision_model.trunk.blocks.{block}"
        shapes |= {
            f"{prefix}.attn.qkv.weight": (3 * width, width),
            f"{prefix}.attn.proj.weight": (width, width),
            f"{prefix}.norm_1.weight": (width,),
            f"{prefix}.norm_2.weight": (width,),
            f"{prefix}.mlp.fc1.weight": (inner, width),
            f"{prefix}.mlp.fc2.weight": (width, inner),
            f"{prefix}.mlp.fc3.weight": (inner, width),
        }
    return shapes


def language_shapes(llm: str, tied: bool) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published Qwen3 or Qwen3-MoE (experts one by one); the fields are those of `LANGUAGE`."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (512, 64), "model.norm.weight": (64,)}
    if not tied:
        shapes["lm_head.weight"] = (512, 64)
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        shapes |= {f"{prefix}.{name}_layernorm.weight": (64,) for name in ("input", "post_attention")}
        shapes |= {f"{prefix}.self_attn.{name}_norm.weight": (64,) for name in "qk"}
        shapes |= {f"{prefix}.self_attn.{name}_proj.weight": (64, 64) for name in "kv"}
        shapes |= {f"{prefix}.self_attn.q_proj.weight": (128, 64), f"{prefix}.self_attn.o_proj.weight": (64, 128)}
        experts = [f".experts.{expert}" for expert in range(4)] if llm == "qwen3_moe" else [""]
        inner = 32 if llm == "qwen3_moe" else 96
        for expert in experts:
            shapes |= {f"{prefix}.mlp{expert}.{name}_proj.weight": (inner, 64) for name in ("gate", "up")}
            shapes |= {f"{prefix}.mlp{expert}.down_proj.weight": (64, inner)}
        if llm == "qwen3_moe":
            shapes[f"{prefix}.mlp.gate.weight"] = (4, 64)
    return shapes


def random_tensors(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {name: (torch.randn(shape, generator=generator) * 0.1).to(dtype) for name, shape in shapes.items()}


def qwen_tokenizer() -> Tokenizer:
    """A tokenizer with its ids as in Qwen2's: words first, added tokens after them."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>"])
    tokenizer.add_tokens(["<think>", "</think>"])
    return tokenizer


def write_tokenizer(folder: Path, *, files: str = "fast") -> None:
    """A Qwen2 tokenizer as transformers 4 wrote it: with tokenizer.json, or in the files of a slow one only."""
    tokenizer = qwen_tokenizer()
    made = json.loads(tokenizer.to_str())
    added = {entry["content"]: entry["id"] for entry in made["added_tokens"]}
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "added_tokens_decoder": {entry.pop("id"): entry for entry in made["added_tokens"]},
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "add_prefix_space": False,
        "model_max_length": 1024,
        "chat_template": "not {{ ours }}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").unlink(missing_ok=True)
    if files == "fast":
        tokenizer.save(str(folder / "tokenizer.json"))
        return
    (folder / "vocab.json").write_text(json.dumps(made["model"]["vocab"]))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in made["model"]["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (folder / "added_tokens.json").write_text(json.dumps(added))


class Published:
    """A directory in the published layout, and the tensors in it."""

    def __init__(self, folder: Path, llm: str, tied: bool, dtype: torch.dtype, shards: int = 3) -> None:
        self.folder, self.dtype = folder, str(dtype).removeprefix("torch.")
        language = random_tensors(language_shapes(llm, tied), dtype)
        self.tensors = random_tensors(vision_shapes(), dtype)
        self.tensors |= {f"language_model.{name}": tensor for name, tensor in language.items()}
        self.language = LANGUAGE | (MOE if llm == "qwen3_moe" else {}) | {"tie_word_embeddings": tied}
        folder.mkdir()
        self.configure()
        write_tokenizer(folder)
        self.write(shards)
        # Remote code that would be noticed if it ran.
        for name in ("configuration", "modeling", "processing"):
            (folder / f"{name}_sailvl.py").write_text("raise AssertionError('remote code ran')")

    def configure(self, *, without: str = "", **changes: Any) -> None:
        """Write config.json with these fields changed; "vision__" and "language__" lead to the parts."""
        config = {**TOP, "torch_dtype": self.dtype, "vision_config": dict(VISION), "llm_config": dict(self.language)}
        sections = {"vision": config["vision_config"], "language": config["llm_config"]}
        for name, value in changes.items():
            part, _, field = name.rpartition("__")
            sections.get(part, config)[field] = value  # type: ignore[index]
        part, _, field = without.rpartition("__")
        sections.get(part, config).pop(field, None)  # type: ignore[attr-defined]
        (self.folder / "config.json").write_text(json.dumps(config))

    def write(self, shards: int) -> None:
        """Write the tensors in shards with an index, as they are now."""
        for old in self.folder.glob("*.safetensors"):
            old.unlink()
        names = sorted(self.tensors)
        weight_map = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(names)}
        for file in set(weight_map.values()):
            part = {name: self.tensors[name] for name in names if weight_map[name] == file}
            save_file(part, self.folder / file, metadata={"format": "pt"})
        index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (self.folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.fixture
def published(tmp_path: Path) -> Callable[..., Published]:
    def make(llm: str = "qwen3", tied: bool = True, dtype: torch.dtype = torch.float32) -> Published:
        return Published(tmp_path / "published", llm, tied, dtype)

    return make


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any connection fails the test, whatever the environment says about being offline."""

    def refuse(*arguments: Any) -> None:
        raise AssertionError(f"a network call to {arguments[1:]}")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def expected_tensors(source: Published) -> dict[str, torch.Tensor]:
    """Our names and tensors, by hand from the published ones."""
    ours = {}
    for name, tensor in source.tensors.items():
        if name.startswith("vision_model.trunk.blocks."):
            block, part = name.removeprefix("vision_model.trunk.blocks.").split(".", 1)
            prefix = f"model.vision_tower.encoder.layers.{block}."
            if part == "attn.qkv.weight":
                ours[prefix + "attention.q_proj.weight"] = tensor[:64]
                ours[prefix + "attention.k_proj.weight"] = tensor[64:128]
                ours[prefix + "attention.v_proj.weight"] = tensor[128:]
            else:
                names = {
                    "attn.proj.weight": "attention.out_proj.weight",
                    "norm_1.weight": "rms_norm1.weight",
                    "norm_2.weight": "rms_norm2.weight",
                    "mlp.fc1.weight": "ffn.gate_proj.weight",
                    "mlp.fc2.weight": "ffn.down_proj.weight",
                    "mlp.fc3.weight": "ffn.up_proj.weight",
                }
                ours[prefix + names[part]] = tensor
        elif ".experts." not in name:
            names = {
                "vision_model.preprocessor.patchifier.proj.weight": "model.vision_tower.embeddings.patch_embed.weight",
                "vision_model.preprocessor.patchifier.proj.bias": "model.vision_tower.embeddings.patch_embed.bias",
                "vision_model.preprocessor.patchifier.norm.weight": "model.vision_tower.embeddings.rms_norm.weight",
                "vision_model.preprocessor.pos_embed": "model.vision_tower.embeddings.position_embedding.weight",
                "vision_model.trunk.post_trunk_norm.weight": "model.vision_tower.rms_norm.weight",
                "mlp1.0.weight": "model.multi_modal_projector.layer_norm.weight",
                "mlp1.0.bias": "model.multi_modal_projector.layer_norm.bias",
                "mlp1.1.weight": "model.multi_modal_projector.linear_1.weight",
                "mlp1.1.bias": "model.multi_modal_projector.linear_1.bias",
                "mlp1.3.weight": "model.multi_modal_projector.linear_2.weight",
                "mlp1.3.bias": "model.multi_modal_projector.linear_2.bias",
                "language_model.lm_head.weight": "lm_head.weight",
            }
            own = names.get(name) or name.replace("language_model.model.", "model.language_model.")
            ours[own] = tensor[0] if name.endswith("pos_embed") else tensor
    if "num_experts" in source.language:
        for layer in range(2):
            theirs, own = (
                f"{name}.layers.{layer}.mlp.experts" for name in ("language_model.model", "model.language_model")
            )
            parts = {
                part: [source.tensors[f"{theirs}.{expert}.{part}_proj.weight"] for expert in range(4)]
                for part in ("gate", "up", "down")
            }
            pairs = zip(parts["gate"], parts["up"], strict=True)
            ours[f"{own}.gate_up_proj"] = torch.stack([torch.cat(pair) for pair in pairs])
            ours[f"{own}.down_proj"] = torch.stack(parts["down"])
    ours.setdefault("lm_head.weight", source.tensors["language_model.model.embed_tokens.weight"])
    return ours


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def files_in(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("llm", "tied"), KINDS)
def test_every_published_tensor_is_loaded_where_it_belongs(
    llm: str, tied: bool, dtype: torch.dtype, published: Callable[..., Published], offline: None
) -> None:
    source = published(llm, tied, dtype)
    for loaded in (
        SailVLForConditionalGeneration.from_pretrained(source.folder),
        AutoModelForImageTextToText.from_pretrained(source.folder),
        AutoModelForCausalLM.from_pretrained(source.folder, trust_remote_code=False),
    ):
        assert type(loaded) is SailVLForConditionalGeneration
        assert_same(dict(loaded.state_dict()), expected_tensors(source))
    load_model(source.folder)
    trunk = AutoModel.from_pretrained(source.folder).state_dict()
    whole = {f"model.{name}": tensor for name, tensor in trunk.items()}
    assert_same({**whole, "lm_head.weight": expected_tensors(source)["lm_head.weight"]}, expected_tensors(source))


@pytest.mark.parametrize(("llm", "tied"), KINDS)
def test_both_layouts_are_written_whichever_was_read(
    llm: str, tied: bool, published: Callable[..., Published], tmp_path: Path
) -> None:
    """Published → ours → published: the same names, shapes and bits, in shards."""
    source = published(llm, tied, torch.bfloat16)
    model = SailVLForConditionalGeneration.from_pretrained(source.folder)
    model.save_pretrained(tmp_path / "ours", max_shard_size="100KB")
    assert all(name.startswith(("model.", "lm_head.")) for name in files_in(tmp_path / "ours"))
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 2
    assert "llm_config" not in json.loads((tmp_path / "ours" / "config.json").read_text())
    again = SailVLForConditionalGeneration.from_pretrained(tmp_path / "ours")
    assert_same(dict(again.state_dict()), expected_tensors(source))
    for number, either in enumerate([model, again]):
        either.save_pretrained(tmp_path / str(number), save_original_format=True, max_shard_size="100KB")
        assert len(list((tmp_path / str(number)).glob("*.safetensors"))) > 2
        assert_same(files_in(tmp_path / str(number)), source.tensors)
    again.save_pretrained(tmp_path / "ours-again")
    assert_same(files_in(tmp_path / "ours-again"), files_in(tmp_path / "ours"))


@pytest.mark.parametrize("llm", ["qwen3", "qwen3_moe"])
def test_vllms_loader_sees_our_names_in_both_layouts(
    llm: str, published: Callable[..., Published], tmp_path: Path
) -> None:
    source = published(llm, False)
    SailVLForConditionalGeneration.from_pretrained(source.folder).save_pretrained(tmp_path / "ours")
    ours = files_in(tmp_path / "ours")
    assert_same(dict(in_our_names(source.tensors.items())), ours)
    assert_same(dict(in_our_names(ours.items())), ours)


def test_a_published_config_written_back_says_the_same(published: Callable[..., Published], tmp_path: Path) -> None:
    for llm in ("qwen3", "qwen3_moe"):
        source = Published(tmp_path / llm, llm, False, torch.bfloat16)
        model = SailVLForConditionalGeneration.from_pretrained(source.folder)
        model.save_pretrained(tmp_path / f"{llm}-ours")
        model = SailVLForConditionalGeneration.from_pretrained(tmp_path / f"{llm}-ours")
        model.save_pretrained(tmp_path / f"{llm}-back", save_original_format=True)
        read, back = (json.loads((tmp_path / name / "config.json").read_text()) for name in (llm, f"{llm}-back"))
        for written, original in [
            (back, read),
            *((back[part], read[part]) for part in ("vision_config", "llm_config")),
        ]:
            lost = {"transformers_version", "torch_dtype", "vision_config", "llm_config"}
            assert {name: written.get(name, "absent") for name in original.keys() - lost} == {
                name: value for name, value in original.items() if name not in lost
            }
        assert back["torch_dtype"] == "bfloat16"


def test_a_model_without_language_model_head_or_with_a_critic_has_no_published_layout(
    tiny_dir: Callable[..., Path], tmp_path: Path
) -> None:
    for model in (load_model(tiny_dir(), critic="head"), load_model(tiny_dir()).model):
        with pytest.raises(ValueError, match="without a critic"):
            model.save_pretrained(tmp_path / "out", save_original_format=True)


def rms_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return weight * x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def reference_tokens(t: dict[str, torch.Tensor], tiles: torch.Tensor, *, layer: int, version: str) -> torch.Tensor:
    """Visual tokens [tiles, 4, 64] of [tiles, 3, 56, 56] in plain torch, straight from the published description."""
    pre = "vision_model.preprocessor."
    patches = functional.conv2d(tiles, t[f"{pre}patchifier.proj.weight"], t[f"{pre}patchifier.proj.bias"], stride=14)
    x = rms_norm(patches.flatten(2).transpose(1, 2), t[f"{pre}patchifier.norm.weight"]) + t[f"{pre}pos_embed"]
    states = [x]
    for block in range(5):
        own = {
            name.split(".", 4)[4]: w for name, w in t.items() if name.startswith(f"vision_model.trunk.blocks.{block}.")
        }
        qkv = functional.linear(rms_norm(x, own["norm_1.weight"]), own["attn.qkv.weight"])
        q, k, v = qkv.reshape(len(x), 16, 3, 2, 32).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / 32**0.5).softmax(-1)
        x = x + functional.linear((weights @ v).transpose(1, 2).reshape(len(x), 16, 64), own["attn.proj.weight"])
        h = rms_norm(x, own["norm_2.weight"])
        gate = functional.silu(functional.linear(h, own["mlp.fc1.weight"]))
        x = x + functional.linear(gate * functional.linear(h, own["mlp.fc3.weight"]), own["mlp.fc2.weight"])
        states.append(x)
    x = rms_norm(x, t["vision_model.trunk.post_trunk_norm.weight"]) if layer == -1 else states[layer]
    # InternVL's pixel shuffle: [N, W, H, C] → join pairs along H, swap, join pairs along W; v2 swaps back.
    x = x.reshape(len(x), 4, 4, 64).reshape(len(x), 4, 2, 128).transpose(1, 2).reshape(len(x), 2, 2, 256)
    if version == "v2":
        x = x.transpose(1, 2)
    x = functional.layer_norm(x.reshape(len(x), 4, 256), (256,), t["mlp1.0.weight"], t["mlp1.0.bias"])
    x = functional.gelu(functional.linear(x, t["mlp1.1.weight"], t["mlp1.1.bias"]))
    return functional.linear(x, t["mlp1.3.weight"], t["mlp1.3.bias"])


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("layer", [-1, -2, -4])
@torch.no_grad()
def test_visual_tokens_equal_a_forward_written_from_the_description(
    version: str, layer: int, published: Callable[..., Published]
) -> None:
    source = published()
    source.configure(ps_version=version, select_layer=layer)
    model = load_model(source.folder).model
    tiles = torch.randn(3, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    patches = tiles.reshape(3, 3, 4, 14, 4, 14).permute(0, 2, 4, 1, 3, 5).reshape(48, 3 * 14 * 14)
    (tokens,) = model.get_image_features(patches, torch.tensor([[3, 4, 4]]))
    expected = reference_tokens(source.tensors, tiles, layer=layer, version=version)
    torch.testing.assert_close(tokens, expected.flatten(0, 1), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(("llm", "tied"), KINDS)
@torch.no_grad()
def test_logits_equal_transformers_language_model_fed_with_the_reference_tokens(
    llm: str, tied: bool, published: Callable[..., Published], tmp_path: Path
) -> None:
    """From a picture to logits: processor and model of the folder against an independent encoder and plain Qwen3."""
    source = published(llm, tied)
    kind = Qwen3MoeConfig if llm == "qwen3_moe" else Qwen3Config
    kind(**{name: value for name, value in source.language.items() if name != "torch_dtype"}).save_pretrained(tmp_path)
    names = {name: tensor for name, tensor in source.tensors.items() if name.startswith("language_model.")}
    own = {name.removeprefix("language_model."): tensor for name, tensor in names.items()}
    save_file(own, tmp_path / "model.safetensors", metadata={"format": "pt"})
    qwen = AutoModelForCausalLM.from_pretrained(tmp_path)

    processor = AutoProcessor.from_pretrained(source.folder)
    inputs = processor(images=[picture(0, 112, 56)], text="<IMG_CONTEXT>\nWhat is the sum?", return_tensors="pt")
    tiles = inputs["pixel_values"].reshape(3, 4, 4, 3, 14, 14).permute(0, 3, 1, 4, 2, 5).reshape(3, 3, 56, 56)
    tokens = reference_tokens(source.tensors, tiles, layer=-4, version="v1").flatten(0, 1)
    embeddings = qwen.get_input_embeddings()(inputs["input_ids"])
    embeddings[inputs["input_ids"] == processor.image_token_id] = tokens
    expected = qwen(inputs_embeds=embeddings).logits
    torch.testing.assert_close(load_model(source.folder)(**inputs).logits, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("files", ["fast", "slow"])
def test_processor_and_image_token_come_from_the_folders_tokenizer_and_config(
    files: str, published: Callable[..., Published], offline: None
) -> None:
    source = published()
    source.configure(template="something else")
    write_tokenizer(source.folder, files=files)
    known = qwen_tokenizer()
    wanted = known.token_to_id("<IMG_CONTEXT>")
    assert AutoConfig.from_pretrained(source.folder).image_token_id == wanted
    assert SailVLConfig.from_pretrained(source.folder).image_token_id == wanted
    processor = AutoProcessor.from_pretrained(source.folder)
    assert type(processor) is SailVLProcessor
    assert processor.image_token_ids == [known.token_to_id(name) for name in ("<IMG_CONTEXT>", "<img>", "</img>")]
    for text in ("<|im_start|><img>", "What is the sum of the digits?", "<think>x</think>"):
        assert processor.tokenizer(text)["input_ids"] == known.encode(text).ids
    assert processor.tokenizer.eos_token == "<|im_end|>"
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "sum?"}]}]
    assert processor.apply_chat_template(messages) == "<|im_start|>user\n<IMG_CONTEXT>\nsum?<|im_end|>"


@pytest.mark.parametrize(
    ("changes", "tiles"),
    [
        ({}, 5),  # 4 tiles in a row and the thumbnail
        ({"use_thumbnail": False}, 4),
        ({"dynamic_image_size": False}, 1),
        ({"max_dynamic_patch": 2}, 3),
        ({"min_dynamic_patch": 5, "max_dynamic_patch": 12}, 13),  # 12 x 1 is nearest to the picture's 12:1 … and one
    ],
)
def test_tile_limits_and_thumbnail_reach_the_image_processor(
    changes: dict[str, Any], tiles: int, published: Callable[..., Published]
) -> None:
    source = published()
    source.configure(**changes)
    inputs = AutoProcessor.from_pretrained(source.folder)(images=[picture(0, 672, 56)], text="<IMG_CONTEXT>")
    assert inputs["image_grid_thw"].tolist() == [[tiles, 4, 4]]


def test_fields_that_are_absent_have_the_remote_classs_defaults(published: Callable[..., Published]) -> None:
    source = published()
    config = json.loads((source.folder / "config.json").read_text())
    absent = (
        "downsample_ratio",
        "select_layer",
        "ps_version",
        "min_dynamic_patch",
        "max_dynamic_patch",
        "force_image_size",
    )
    left = {name: value for name, value in config.items() if name not in absent}
    (source.folder / "config.json").write_text(json.dumps(left))
    read, images = (
        SailVLConfig.from_pretrained(source.folder),
        AutoProcessor.from_pretrained(source.folder).image_processor,
    )
    assert (read.downsample_ratio, read.select_layer, read.ps_version, read.vision_config.image_size) == (
        0.5,
        -4,
        "v1",
        56,
    )
    assert (images.min_patches, images.max_patches, images.size["height"]) == (1, 6, 56)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision__qkv_bias": True}, r"vision_config.qkv_bias is True, but SAIL-ViT has False"),
        ({"vision__use_bias": True}, r"vision_config.use_bias"),
        ({"vision__projection_dropout": 0.1}, r"vision_config.projection_dropout is 0.1"),
        ({"vision__hidden_act": "gelu"}, r"vision_config.hidden_act is 'gelu'"),
        ({"without": "vision__rms_norm_eps"}, r"vision_config lacks rms_norm_eps"),
        ({"without": "vision_config"}, r"config.json has no vision_config"),
        ({"without": "language__rope_theta"}, r"llm_config has no rope_theta"),
        ({"without": "language__tie_word_embeddings"}, r"llm_config lacks tie_word_embeddings"),
        ({"language__model_type": "llama"}, r"text_config.model_type is 'llama'"),
        ({"language__model_type": "qwen3_moe"}, r"llm_config lacks num_experts, num_experts_per_tok"),
        ({"ps_version": "v3"}, r"ps_version is 'v3'"),
        ({"force_image_size": 84}, r"position embeddings are for 16 patches, but 84-pixel tiles .* have 36"),
        ({"language__intermediate_size": 80}, r"gate_proj.weight has shape \[96, 64\], not \[80, 64\]"),
        ({"language__tie_word_embeddings": False}, r"lm_head.weight is missing"),
    ],
)
def test_a_config_that_is_another_model_is_refused(
    change: dict[str, Any], message: str, published: Callable[..., Published]
) -> None:
    source = published()
    source.configure(**change)
    with pytest.raises(ValueError, match=message):
        load_model(source.folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"pad2square": True}, "pad2square"), ({"without": "use_thumbnail"}, "config.json lacks use_thumbnail")],
)
def test_a_config_that_asks_for_other_pictures_is_refused(
    change: dict[str, Any], message: str, published: Callable[..., Published]
) -> None:
    source = published()
    source.configure(**change)
    with pytest.raises(ValueError, match=message):
        AutoProcessor.from_pretrained(source.folder)


def test_missing_and_unknown_tensors_are_refused(published: Callable[..., Published]) -> None:
    source = published()
    taken = source.tensors.pop("mlp1.3.bias")
    source.write(2)
    with pytest.raises(ValueError, match=r"multi_modal_projector.linear_2.bias is missing"):
        load_model(source.folder)
    source.tensors |= {"mlp1.3.bias": taken, "vision_model.trunk.blocks.0.attn.proj.bias": torch.zeros(64)}
    source.write(2)
    with pytest.raises(ValueError, match=r"layers.0.attention.out_proj.bias is unknown"):
        load_model(source.folder)


def test_a_folder_without_the_image_token_is_refused(published: Callable[..., Published]) -> None:
    source = published()
    path = source.folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<IMG_CONTEXT>", "<IMG_OTHER>"))
    config = source.folder / "tokenizer_config.json"
    config.write_text(config.read_text().replace("<IMG_CONTEXT>", "<IMG_OTHER>"))
    with pytest.raises(ValueError, match="its tokenizer has no <IMG_CONTEXT>"):
        AutoConfig.from_pretrained(source.folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source.folder / name).unlink()
    with pytest.raises(ValueError, match="no tokenizer"):
        AutoConfig.from_pretrained(source.folder)


@pytest.mark.parametrize(("size", "billions"), [("2B", 2.6), ("8B", 8.8), ("30B-A3B", 31.1)])
def test_true_sizes_have_the_reports_parameter_counts(size: str, billions: float) -> None:
    """Counted as the report's figures come out: encoder blocks that are used (select_layer -4), a head of its own."""
    config = published_size(size)
    with torch.device("meta"):
        model = SailVLForConditionalGeneration(config)
    counts = parameters_by_part(model)
    assert sum(counts.values()) == model.num_parameters()
    unused = sum(p.numel() for block in model.model.vision_tower.encoder.layers[-3:] for p in block.parameters())
    head = model.lm_head.weight.numel() if config.tie_word_embeddings else 0
    assert round((counts["vision encoder"] - unused) / 1e9, 1) == 0.6
    assert round((sum(counts.values()) - unused + head) / 1e9, 1) == billions
    assert SIZES[size]["model_type"] == config.text_config.model_type
    assert config.tokens_per_tile == 256


@pytest.mark.slow
def test_the_vllm_engine_runs_on_a_published_folder(
    published: Callable[..., Published], vllm_engine_at: Callable[[Path], VLLMEngine]
) -> None:
    """Config, tokenizer and processor are read by vLLM itself; the weights come from the trainer."""
    source = published()
    model, processor = load_model(source.folder).eval(), AutoProcessor.from_pretrained(source.folder)
    encoder = Encoder(processor, max_length=256)
    engine = vllm_engine_at(source.folder)
    engine.push_weights(1, model.named_parameters())
    content = [{"type": "image"}, {"type": "text", "text": "What is the sum?"}]
    row = {"id": "a", "prompt": [{"role": "user", "content": content}], "images": [picture(0, 112, 56)]}
    prompt = encoder.prompt(row)
    ((rollout,),) = engine.generate([prompt], Sampling(samples_per_prompt=1, temperature=1.0, max_tokens=8, seed=0))
    ids, images = encoder.prompt_inputs(prompt)
    whole = torch.cat([ids, torch.tensor(rollout.token_ids)])[None]
    with torch.no_grad():
        logits = model(input_ids=whole, **images).logits[0, len(ids) - 1 : -1]
    logits[:, processor.image_token_ids] = -100.0
    expected = logits.log_softmax(-1)[torch.arange(len(rollout.token_ids)), rollout.token_ids]
    torch.testing.assert_close(torch.tensor(rollout.logprobs), expected, atol=1e-4, rtol=0)
