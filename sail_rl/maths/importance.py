"""Importance weights that correct for a sampling policy unlike the trainer's: kernels, precision, older weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .segments import segment_sums


@dataclass(frozen=True, slots=True)
class ImportanceCorrection:
    """Weights that multiply the policy loss of each token.

    The weight is w = trainer probability / engine probability of the token, or of the whole sequence. "truncate"
    (TIS): min(w, high) ("Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", Yao et al. 2025);
    "mask" (MIS): w inside [low, high] and 0 outside (IcePop, "Every Step Evolves", arXiv 2510.18855, section 3).

    Args:
        mode: "truncate" or "mask".
        level: "token" or "sequence".
        high: upper limit of w; `low`: lower limit of w ("mask" only).
    """

    mode: Literal["truncate", "mask"] = "truncate"
    level: Literal["token", "sequence"] = "token"
    high: float = 2.0
    low: float = 0.0

    def __call__(self, logprobs: Tensor, rollout_logprobs: Tensor, segments: Tensor) -> Tensor:
        """Weights [L], detached, from the trainer's and the engine's log-probs [L] (nats)."""
        log_weights = logprobs.detach() - rollout_logprobs
        if self.level == "sequence":
            log_weights = segment_sums(log_weights, segments)
        weights = log_weights.exp()
        if self.mode == "truncate":
            return weights.clamp(max=self.high)
        return torch.where((weights >= self.low) & (weights <= self.high), weights, 0.0)


def effective_sample_share(mean_weight: float, mean_square_weight: float) -> float:
    """Effective sample size over sample size, (E w)² / E w²: 1 if all weights are equal, near 0 if a few dominate."""
    return mean_weight**2 / mean_square_weight if mean_square_weight > 0 else 0.0
