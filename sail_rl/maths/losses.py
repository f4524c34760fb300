"""Losses per labelled token. They return values [L] and per-token metrics [L]; the trainer owns the one denominator.

Every loss takes the current log-probs [L] (differentiable) and the row's token fields, each [L].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch


@dataclass(slots=True)
class TokenLoss:
    """`values` [L], differentiable; `metrics` by name, each [L], detached, averaged over all tokens of the step."""

    values: torch.Tensor
    metrics: dict[str, torch.Tensor] = field(default_factory=dict)


class LossFunction(Protocol):
    """Scores the labelled tokens of one packed row."""

    def __call__(self, logprobs: torch.Tensor, fields: Mapping[str, torch.Tensor]) -> TokenLoss: ...


def cross_entropy(logprobs: torch.Tensor, fields: Mapping[str, torch.Tensor]) -> TokenLoss:
    """Next-token loss over thought and answer, -log P(T∘A | I) (SAIL-VL2 report, section 4.1); `fields` is not read."""
    return TokenLoss(-logprobs)


@dataclass(frozen=True, slots=True)
class ClippedPolicyLoss:
    """PPO's clipped objective with separate limits ("clip-higher": DAPO, arXiv 2503.14476, eq. 8-9).

    -min(r·A, clip(r, 1 - clip_low, 1 + clip_high)·A) with r = exp(logprob - rollout_logprob). Averaged over all tokens
    of the step this is DAPO's token-level loss (section 3.3 of that paper).

    Fields: "advantages" [L] and "rollout_logprobs" [L] (the sampling policy's, in nats).
    """

    clip_low: float = 0.20
    clip_high: float = 0.28

    def __call__(self, logprobs: torch.Tensor, fields: Mapping[str, torch.Tensor]) -> TokenLoss:
        advantages, log_ratio = fields["advantages"], logprobs - fields["rollout_logprobs"]
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        values = -torch.minimum(ratio * advantages, clipped * advantages)
        with torch.no_grad():
            metrics = {
                "ratio/mean": ratio.detach(),
                "ratio/clip_low_fraction": ((ratio < 1 - self.clip_low) & (advantages < 0)).float(),
                "ratio/clip_high_fraction": ((ratio > 1 + self.clip_high) & (advantages > 0)).float(),
                # k3 estimate of KL(sampler || trainer) (Schulman, "Approximating KL divergence"): r - 1 - log r >= 0
                "kl/rollout": (ratio - 1 - log_ratio).detach(),
            }
        return TokenLoss(values, metrics)
