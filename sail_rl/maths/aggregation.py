"""Aggregation of token losses into one number: the weight of each token, and the denominator of the whole step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AggregationKind = Literal["token_mean", "sequence_mean", "fixed_length"]


@dataclass(frozen=True, slots=True)
class Aggregation:
    """loss = Σ over all tokens of the step (weight x token loss) / Σ over all samples of the step (denominator).

    Both sums run over all micro-batches and ranks, so the loss depends neither on packing nor on the number of ranks.

    - "token_mean": all tokens have the same weight (DAPO, arXiv 2503.14476, section 3.3; also cross-entropy).
    - "sequence_mean": mean over tokens within each sample, then over samples (GRPO, arXiv 2402.03300, eq. 3; GSPO).
    - "fixed_length": divided by a constant length instead of the sample's own (Dr. GRPO, arXiv 2503.20783, eq. 2).

    Args:
        kind: one of the above.
        length: the constant, in tokens ("fixed_length" only): the longest allowed completion.
    """

    kind: AggregationKind = "token_mean"
    length: int = 1

    def token_weight(self, tokens: int) -> float:
        """Weight of each token of a sample of `tokens` labelled tokens."""
        match self.kind:
            case "token_mean":
                return 1.0
            case "sequence_mean":
                return 1.0 / max(1, tokens)
            case "fixed_length":
                return 1.0 / self.length

    def denominator(self, tokens: int) -> float:
        """The part of the step's denominator that a sample of `tokens` labelled tokens adds."""
        return float(tokens) if self.kind == "token_mean" else 1.0
