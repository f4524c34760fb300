"""Causal attention over micro-batches: one call per sample, so that packed samples never attend to each other.

A micro-batch of T tokens holds S samples delimited by `cu_seq_lens_q` [S + 1] (0, first end, …, T), FlashAttention's
varlen convention. Without these boundaries the function is transformers' SDPA attention, so `generate` works unchanged.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
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
    cu_seq_lens_q: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each sample of a micro-batch.

    Args:
        query: [1, heads, T, head_dim]; `key` and `value`: [1, kv_heads, T, head_dim].
        attention_mask: ignored when `cu_seq_lens_q` is given.
        cu_seq_lens_q: [S + 1] boundaries of the samples, or None for plain SDPA attention.

    Returns:
        The attended values [1, T, heads, head_dim] and None (no attention weights).
    """
    if cu_seq_lens_q is None:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output, None
    lengths = cu_seq_lens_q.diff().tolist()
    # The gradient of a slice has the length of the whole sequence, so S slices would cost S x T; `split` avoids this.
    segments = [
        functional.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, scale=scaling, is_causal=True, enable_gqa=query.shape[1] != key.shape[1]
        )
        for q, k, v in zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    ]
    return torch.cat(segments, dim=2).transpose(1, 2), None


AttentionInterface.register(PACKED_ATTENTION, packed_attention_forward)
AttentionMaskInterface.register(PACKED_ATTENTION, sdpa_mask)
