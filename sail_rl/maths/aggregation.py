"""How token losses become one number: the weight of each token, and what the sum over the whole step is divided by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AggregationKind = Literal["token_mean", "sequence_mean", "fixed_length"]


@dataclass(frozen=True, slots=True)
class Aggregation:
    """loss = Σ over all tokens of the step (weight x token loss) / Σ over all samples of the step (mass).

    Both sums run over all micro-batches and ranks, so that neither packing nor the number of ranks matters.

    - "token_mean": every token counts alike (DAPO, arXiv 2503.14476, section 3.3; also cross-entropy).
    - "sequence_mean": mean over tokens within each sample, then over samples (GRPO, arXiv 2402.03300, eq. 3; GSPO).
    - "fixed_length": divided by a constant length instead of the sample's own (Dr. GRPO, arXiv 2503.20783, eq. 2).

    Args:
        kind: one of the above.
        length: the constant, in tokens ("fixed_length" only): the longest completion that is allowed.
    """

    kind: AggregationKind = "token_mean"
    length: int = 1

    def token_weight(self, tokens: int) -> float:
        """Weight of each of the `tokens` scored tokens of a sample."""
        match self.kind:
            case "token_mean":
                return 1.0
            case "sequence_mean":
                return 1.0 / max(1, tokens)
            case "fixed_length":
                return 1.0 / self.length

    def mass(self, tokens: int) -> float:
        """What a sample of `tokens` scored tokens adds to the denominator."""
        return float(tokens) if self.kind == "token_mean" else 1.0
