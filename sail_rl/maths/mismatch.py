"""The training–inference mismatch: how far the log-probs of engine and trainer differ under the same weights."""

from __future__ import annotations

import math
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
    def of(cls, differences: Tensor, *, completions: int) -> Mismatch:
        """Measure `differences` [N], trainer - engine log-probs of N > 0 tokens that the engine sampled for so many
        completions."""
        differences = differences.double()
        sizes = differences.abs()
        return cls(
            mean=sizes.mean().item(),
            p99=sizes.kthvalue(math.ceil(0.99 * len(sizes))).values.item(),
            kl=kl_estimate(torch.zeros_like(differences), differences, "k3").sum().item() / completions,
            max=sizes.max().item(),
        )

    def beyond(self, limits: MismatchLimits) -> list[str]:
        """Names of the statistics that exceed their limits or are NaN."""
        return [name for name, limit in asdict(limits).items() if not getattr(self, name) <= limit]
