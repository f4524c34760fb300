"""Causal attention over micro-batches: one call per segment, so that packed samples never attend to each other.

A micro-batch of T tokens is a list of `segments`. Each attends causally to itself and, if it is a completion that
shares its prompt with others, to all of the prompt's segment. Without segments the function is transformers' SDPA
attention, so `generate` works unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED_ATTENTION = "sail_packed"


def packed_attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    segments: Sequence[Any] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each segment of a micro-batch and to its prefix.

    Args:
        query: [1, heads, T, head_dim]; `key` and `value`: [1, kv_heads, T, head_dim].
        attention_mask: ignored when `segments` are given.
        segments: objects with `length` and `prefix` (see `data.packing.Segment`), or None for plain SDPA attention.

    Returns:
        The attended values [1, T, heads, head_dim] and None (no attention weights).
    """
    if segments is None:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output, None
    options: dict[str, Any] = {"dropout_p": dropout, "scale": scaling, "enable_gqa": query.shape[1] != key.shape[1]}
    lengths = [segment.length for segment in segments]
    # The gradient of a slice has the length of the whole sequence, so S slices would cost S x T; `split` avoids this.
    queries, keys, values = (tensor.split(lengths, 2) for tensor in (query, key, value))
    outputs = []
    for segment, q, k, v in zip(segments, queries, keys, values, strict=True):
        if segment.prefix is None:
            outputs.append(functional.scaled_dot_product_attention(q, k, v, is_causal=True, **options))
            continue
        k, v = torch.cat([keys[segment.prefix], k], 2), torch.cat([values[segment.prefix], v], 2)
        mask: Any = causal_lower_right(q.shape[2], k.shape[2])
        outputs.append(functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, **options))
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def segment_mask(config: Any, segments: Sequence[Any] | None, device: torch.device) -> dict[str, torch.Tensor]:
    """The mask argument of a language model with this `config` for a micro-batch: none of size [T, T] is ever built.

    Raises:
        ValueError: if there are several segments and the attention would mix them.
    """
    if config._attn_implementation == PACKED_ATTENTION:  # a 4-D mask is passed through as it is, and then ignored
        return {"attention_mask": torch.empty((1, 1, 0, 0), dtype=torch.bool, device=device)}
    if segments and len(segments) > 1:
        attention = config._attn_implementation
        raise ValueError(f"attention {attention!r} would mix the samples of a micro-batch; use {PACKED_ATTENTION!r}")
    return {}


AttentionInterface.register(PACKED_ATTENTION, packed_attention_forward)
AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)
