"""Configurations of the published SAIL-VL2-2B, -8B and -30B-A3B (report arXiv 2509.14033, section 2), for estimates.

The vision encoder is SAIL-ViT-Huge, with the sizes of AIMv2-Huge (arXiv 2411.14402). The language models are
Qwen3-1.7B, -8B and -30B-A3B. These reproduce the report's totals (2.6B, 8.8B, 31.1B; encoder 0.6B) if a tied head is
counted, and the encoder only up to `select_layer` -4 (21 of 24 blocks), the default of the published configuration.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from .configuration import SailVLConfig
from .published import DEFAULTS

VISION = {
    "hidden_size": 1536,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 12,
    "image_size": 448,
    "patch_size": 14,
    "rms_norm_eps": 1e-5,
}
LANGUAGE: dict[str, Any] = {
    "vocab_size": 151936,
    "head_dim": 128,
    "num_key_value_heads": 8,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}
SIZES: dict[str, dict[str, Any]] = {
    "2B": {
        "model_type": "qwen3",
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "tie_word_embeddings": True,
    },
    "8B": {
        "model_type": "qwen3",
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "tie_word_embeddings": False,
    },
    "30B-A3B": {
        "model_type": "qwen3_moe",
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
        "tie_word_embeddings": False,
    },
}


def published_size(name: str) -> SailVLConfig:
    """The configuration of a published model; `name` is a key of `SIZES`."""
    fields = {field: DEFAULTS[field] for field in ("downsample_ratio", "select_layer", "ps_version")}
    return SailVLConfig(vision_config=VISION, text_config=LANGUAGE | SIZES[name], **fields)


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """The number of parameters of a `SailVLForConditionalGeneration` by part; a tied head counts once."""
    parts = {"vision encoder": "model.vision_tower.", "adapter": "model.multi_modal_projector."}
    counts = dict.fromkeys([*parts, "language model"], 0)
    for name, parameter in model.named_parameters():
        part = next((part for part, prefix in parts.items() if name.startswith(prefix)), "language model")
        counts[part] += parameter.numel()
    return counts
