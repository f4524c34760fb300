"""The training–inference mismatch: how far the log-probs of engine and trainer differ under the same weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from .kl import kl_estimate


@dataclass(frozen=True, slots=True)
class MismatchLimits:
    """The largest allowed values of the fields of `Mismatch` with these names, in nats."""

    mean: float
    p99: float
    kl: float


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Statistics of the differences between trainer and engine, in nats.

    Attributes:
        mean: mean |difference| of a token.
        p99: 99th percentile of the tokens' |differences|.
        kl: KL(engine || trainer) of a completion: the k3 estimate (see `kl`), summed over its tokens, mean over
            completions.
        max: largest |difference|. It has no limit, because it grows with the number of tokens by rounding alone.
    """

    mean: float
    p99: float
    kl: float
    max: float

    @classmethod
    def of(
        cls, differences: Tensor, *, completions: int, all_sum: Callable[[Tensor], Tensor] = lambda values: values
    ) -> Mismatch | None:
        """Measure the differences of all ranks, exactly; None if there are none (collective).

        Args:
            differences: trainer - engine log-probs (nats) of the tokens that the engine sampled for this rank's
                completions, float32 [N].
            completions: number of this rank's completions.
            all_sum: sums a tensor over the ranks. It gets a few hundred numbers, not the tokens.
        """
        sizes = differences.abs().double()
        kl = kl_estimate(torch.zeros_like(sizes), differences.double(), "k3")
        own = torch.tensor([len(sizes), completions, sizes.sum(), kl.sum()], dtype=torch.float64)
        tokens, completions, size, divergence = all_sum(own).tolist()
        if not tokens:
            return None
        return cls(
            mean=size / tokens,
            p99=order_statistic(differences.abs(), math.ceil(0.99 * tokens), all_sum),
            kl=divergence / completions,
            max=order_statistic(differences.abs(), int(tokens), all_sum),
        )

    def beyond(self, limits: MismatchLimits) -> list[str]:
        """Names of the statistics that exceed their limits or are NaN."""
        return [name for name, limit in asdict(limits).items() if not getattr(self, name) <= limit]


def order_statistic(values: Tensor, place: int, all_sum: Callable[[Tensor], Tensor]) -> float:
    """The value at `place` (1: the smallest) among all ranks' float32 `values` [N], which are at least 0 or NaN.

    Radix selection: the bits of non-negative floats are ordered as their values are, NaN last. So counts of one byte
    after the other, summed over the ranks, find the value exactly.
    """
    bits, found = values.view(torch.int32), 0
    for shift in (24, 16, 8, 0):
        bytes_ = bits >> shift & 255
        counts = all_sum(torch.bincount(bytes_, minlength=256))
        smaller = counts.cumsum(0) - counts
        byte = int((smaller < place).nonzero().max())
        place -= int(smaller[byte])
        bits, found = bits[bytes_ == byte], found << 8 | byte
    return torch.tensor([found], dtype=torch.int32).view(torch.float32).item()
