"""Converts the config.json of published checkpoints to ours and back; `tensor_names` does so for their tensors.

The releases (report arXiv 2509.14033) come with remote code for transformers <= 4.51, which we never run. A missing
field that changes the mathematics is an error, unless the default of the remote class is known.
"""

from __future__ import annotations

from typing import Any

import torch

DEFAULTS: dict[str, Any] = {
    "downsample_ratio": 0.5,
    "select_layer": -4,
    "ps_version": "v1",
    "min_dynamic_patch": 1,
    "max_dynamic_patch": 6,
}
"""The known defaults of the remote configuration class."""

IMAGE_FIELDS = ("dynamic_image_size", "min_dynamic_patch", "max_dynamic_patch", "use_thumbnail")
VISION_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "patch_size",
    "rms_norm_eps",
)
VISION_OPTIONS = ("num_channels", "attention_dropout", "initializer_range")
LANGUAGE_FIELDS = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "rms_norm_eps",
    "tie_word_embeddings",
)
MOE_FIELDS = ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob")
# The constants of SAIL-ViT (report, section 2.1); other values mean another encoder.
VISION_CONSTANTS = {
    "qkv_bias": False,
    "use_bias": False,
    "mlp_bias": False,
    "use_head": False,
    "is_native": False,
    "projection_dropout": 0.0,
    "hidden_act": "silu",
}


def is_published(config: dict[str, Any]) -> bool:
    """True if a config.json is in the published layout, which has `llm_config`."""
    return "llm_config" in config


def from_published(config: dict[str, Any], image_token_id: int) -> dict[str, Any]:
    """`SailVLConfig`'s arguments from a published config.json.

    Fields without a counterpart in `SailVLConfig` are kept in `published`, so that they can be written back.

    Raises:
        ValueError: names a field that is missing, or whose value belongs to another model.
    """
    vision, language = _section(config, "vision_config"), _section(config, "llm_config")
    fields = DEFAULTS | {name: value for name, value in config.items() if value is not None}
    tile = fields.get("force_image_size") or vision.get("image_size")
    if not tile:
        raise ValueError("config.json has neither force_image_size nor vision_config.image_size, the tile size")
    if language.get("rope_theta") is None and not language.get("rope_parameters"):
        raise ValueError("config.json's llm_config has no rope_theta; the published language models have 1000000")
    _need(language, LANGUAGE_FIELDS, "llm_config")
    if language["model_type"] == "qwen3_moe":
        _need(language, MOE_FIELDS, "llm_config")
    ours = {name: fields[name] for name in ("downsample_ratio", "select_layer", "ps_version")}
    ours |= {name: fields[name] for name in ("dtype", "torch_dtype", "name_or_path") if name in fields}
    elsewhere = ("llm_config", "vision_config", "model_type", "architectures", "transformers_version", "image_token_id")
    used = {*elsewhere, "force_image_size"}
    return ours | {
        "vision_config": _vision(vision, tile),
        "text_config": language,
        "image_token_id": image_token_id,
        "architectures": ["SailVLForConditionalGeneration"],
        "published": {name: value for name, value in config.items() if name not in used | set(ours)},
    }


def to_published(config: Any) -> dict[str, Any]:
    """The published config.json of a `SailVLConfig`, with tile limits from its `published` fields."""
    vision, language = config.vision_config, config.text_config.to_dict()
    rope = dict(language.get("rope_parameters") or {})
    language["rope_theta"] = rope.pop("rope_theta", None)  # where the remote code for transformers 4 reads it
    scaled = rope.get("rope_type", "default") != "default"
    language["rope_scaling"] = rope if scaled else None
    language["architectures"] = ["Qwen3MoeForCausalLM" if config.is_moe else "Qwen3ForCausalLM"]
    if config.is_moe:
        language["num_experts"] = config.text_config.num_experts
    kept = {name: getattr(vision, name) for name in (*VISION_FIELDS, *VISION_OPTIONS)}
    constants = {name: VISION_CONSTANTS[name] for name in ("qkv_bias", "use_bias", "projection_dropout")}
    dtype = str(config.dtype or torch.float32).removeprefix("torch.")
    return {
        **(config.published or {}),
        "model_type": "sailvl",
        "architectures": ["SAILVLModel"],
        "vision_config": kept | constants | {"image_size": vision.image_size, "model_type": "aimv2"},
        "llm_config": language,
        "downsample_ratio": config.downsample_ratio,
        "select_layer": config.select_layer,
        "ps_version": config.ps_version,
        "force_image_size": vision.image_size,
        "torch_dtype": dtype,
    }


def image_options(config: Any) -> dict[str, Any]:
    """The arguments of `SailVLImageProcessor` from a published configuration.

    Raises:
        ValueError: if a field is missing, or sets the unsupported padding to squares.
    """
    fields = DEFAULTS | {name: value for name, value in config.published.items() if value is not None}
    _need(fields, IMAGE_FIELDS, "config.json")
    if fields.get("pad2square"):
        raise ValueError("config.json has pad2square true: pictures padded to squares aren't supported, only tiles")
    side = config.vision_config.image_size
    return {
        "size": {"height": side, "width": side},
        "crop_to_patches": fields["dynamic_image_size"],
        "min_patches": fields["min_dynamic_patch"],
        "max_patches": fields["max_dynamic_patch"],
        "use_thumbnail": fields["use_thumbnail"],
        "patch_size": config.vision_config.patch_size,
        "merge_size": config.shuffle,
    }


def published_options(processor: Any) -> dict[str, Any]:
    """The fields of a published config.json from a `SailVLImageProcessor`, the inverse of `image_options`."""
    if processor.resolution != "tiles":
        raise ValueError(
            f"the published layout supports tiles only, but this model has resolution {processor.resolution}"
        )
    return {
        "dynamic_image_size": processor.crop_to_patches,
        "min_dynamic_patch": processor.min_patches,
        "max_dynamic_patch": processor.max_patches,
        "use_thumbnail": processor.use_thumbnail,
        "pad2square": False,
    }


def _vision(values: dict[str, Any], tile: int) -> dict[str, Any]:
    """The arguments of `Aimv2VisionConfig` from fields of the remote AIMv2 code, for tiles of `tile` pixels."""
    _need(values, VISION_FIELDS, "vision_config")
    for name, expected in VISION_CONSTANTS.items():
        if values.get(name) is not None and values[name] != expected:
            raise ValueError(
                f"config.json's vision_config.{name} is {values[name]!r}, but SAIL-ViT has {expected!r}; sail-rl "
                "doesn't support other encoders"
            )
    known = {name: values[name] for name in (*VISION_FIELDS, *VISION_OPTIONS) if name in values}
    return known | {"image_size": tile, "use_head": False}


def _section(config: dict[str, Any], name: str) -> dict[str, Any]:
    """An object in config.json."""
    if not isinstance(config.get(name), dict):
        raise ValueError(f"config.json has no {name}, which a published SAIL-VL2 has")
    return config[name]


def _need(values: dict[str, Any], names: tuple[str, ...], where: str) -> None:
    """Raise ValueError for missing fields, whose class defaults we don't know."""
    missing = [name for name in names if values.get(name) is None]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}; give the values this checkpoint was trained with")
