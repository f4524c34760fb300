"""Tensor names of published checkpoints, which transformers converts to ours when loading and back when saving.

The encoder has the names of the remote AIMv2 code: one `qkv` for query, key and value, and fc1, fc3 and fc2 for the
gate, up and down projections of its SwiGLU, `fc2(silu(fc1 x) * fc3 x)`. The adapter has InternVL's `mlp1`, and the
language model has Qwen3's names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from transformers.conversion_mapping import get_model_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.core_model_loading import (
    Chunk,
    ConversionOps,
    WeightConverter,
    WeightRenaming,
    WeightTransform,
    rename_source_key,
)

ENCODER = "model.vision_tower."
BLOCK = {
    "attn.proj": "attention.out_proj",
    "norm_1": "rms_norm1",
    "norm_2": "rms_norm2",
    "mlp.fc1": "ffn.gate_proj",
    "mlp.fc2": "ffn.down_proj",
    "mlp.fc3": "ffn.up_proj",
}
PREFIXES = {
    "vision_model.preprocessor.patchifier.proj.": f"{ENCODER}embeddings.patch_embed.",
    "vision_model.preprocessor.pos_embed": f"{ENCODER}pos_embed",
    "vision_model.preprocessor.patchifier.norm.": f"{ENCODER}embeddings.rms_norm.",
    "vision_model.trunk.post_trunk_norm.": f"{ENCODER}rms_norm.",
    "mlp1.0.": "model.multi_modal_projector.layer_norm.",
    "mlp1.1.": "model.multi_modal_projector.linear_1.",
    "mlp1.3.": "model.multi_modal_projector.linear_2.",
    "language_model.model.": "model.language_model.",
    "language_model.lm_head.": "lm_head.",
}


class DropBatchAxis(ConversionOps):
    """[1, N, C] → [N, C], because the published position embeddings have a batch axis."""

    def convert(
        self, input_dict: dict[str, Any], source_patterns: list[str], target_patterns: list[str], **kwargs: Any
    ) -> dict[str, Any]:
        (tensors,) = input_dict.values()
        tensor = tensors[0] if isinstance(tensors, list) else tensors
        return {target_patterns[0]: self._reshape(tensor)}

    def _reshape(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.squeeze(0)

    @property
    def reverse_op(self) -> ConversionOps:
        return AddBatchAxis()


class AddBatchAxis(DropBatchAxis):
    """[N, C] → [1, N, C]."""

    def _reshape(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.unsqueeze(0)

    @property
    def reverse_op(self) -> ConversionOps:
        return DropBatchAxis()


def published_names() -> list[WeightTransform]:
    """The conversions from published to our names. They don't match our names, so that both layouts load."""
    blocks, layers = r"^vision_model\.trunk\.blocks\.(\d+)\.", rf"{ENCODER}encoder.layers.\1."
    within = BLOCK | {"attn.qkv": "attn.qkv"}
    return [
        *(WeightRenaming(f"^{re.escape(theirs)}", own) for theirs, own in PREFIXES.items()),
        *(WeightRenaming(rf"{blocks}{re.escape(theirs)}\.", f"{layers}{own}.") for theirs, own in within.items()),
        # Converters come after renamings.
        WeightConverter("attn.qkv.weight", [f"attention.{part}_proj.weight" for part in "qkv"], [Chunk(dim=0)]),
        WeightConverter("pos_embed", "embeddings.position_embedding.weight", [DropBatchAxis()]),
    ]


def register_published_names(model_type: str) -> None:
    """Let `from_pretrained` of this model type read both layouts."""
    register_checkpoint_conversion_mapping(model_type, published_names())


def saving_names(model: Any, *, published: bool) -> list[WeightTransform]:
    """The conversions that saving reverts: those of the language model (separate experts), or all if `published`.

    By default, transformers reverts the conversions that loading applied, so that the saved layout would depend on the
    model's origin.
    """
    transforms = get_model_conversion_mapping(model, add_legacy=False)
    return [transform for transform in transforms if published or transform.scope_prefix is not None]


def in_our_names(tensors: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Convert named tensors of either layout to ours, for readers other than transformers (vLLM)."""
    transforms = published_names()
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    by_pattern = {converter.source_patterns[0]: converter for converter in converters}
    for name, tensor in tensors:
        renamed, pattern = rename_source_key(name, renamings, converters)
        if pattern is None:
            yield renamed, tensor
        else:
            by_pattern[pattern].add_tensor(renamed, name, pattern, tensor)
            yield from by_pattern[pattern].convert(renamed).items()
