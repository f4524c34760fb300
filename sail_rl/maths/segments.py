"""Sums and means over the samples of a micro-batch: tokens [L], and `segments` [L] with each token's sample."""

from __future__ import annotations

from torch import Tensor


def segment_sums(values: Tensor, segments: Tensor) -> Tensor:
    """Sum of each sample's values, at each of its tokens: [L] from values [L]."""
    if not len(segments):
        return values
    sums = values.new_zeros(int(segments.max()) + 1).index_add(0, segments, values)
    return sums[segments]


def segment_means(values: Tensor, segments: Tensor) -> Tensor:
    """Mean of each sample's values, at each of its tokens: [L] from values [L]."""
    return segment_sums(values, segments) / segment_sums(values.new_ones(len(values)), segments)
