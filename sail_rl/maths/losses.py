"""Losses per labelled token. They return values [L] and metrics [L]; the trainer owns the one denominator.

Every loss takes the model's output for the L labelled tokens of a micro-batch, their token fields, each [L], and the
`segments` [L] that say which sample a token belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from .kl import KLKind, kl_estimate
from .segments import segment_means
from .token_fields import TokenFields, present


class PolicyOutput(Protocol):
    """The model's output that losses read: `logprobs` and `entropies` [L] in nats, and the critic's `values` [L]."""

    logprobs: Tensor
    entropies: Tensor
    values: Tensor | None


@dataclass(slots=True)
class TokenLoss:
    """Differentiable `values` [L], and detached `metrics` [L] by name; the trainer averages metrics over the step."""

    values: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class LossFunction(Protocol):
    """Computes the losses of a micro-batch's labelled tokens."""

    def __call__(self, output: PolicyOutput, fields: TokenFields, segments: Tensor) -> TokenLoss: ...


def cross_entropy(output: PolicyOutput, fields: TokenFields, segments: Tensor) -> TokenLoss:
    """Next-token loss over thought and answer, -log P(T∘A | I) (SAIL-VL2 report, section 4.1); reads no fields."""
    return TokenLoss(-output.logprobs)


class Surrogate(Protocol):
    """A policy objective: the losses [L] of tokens from their differentiable log-ratios [L] to the old policy."""

    def __call__(self, log_ratio: Tensor, advantages: Tensor, logprobs: Tensor, segments: Tensor) -> TokenLoss: ...


@dataclass(frozen=True, slots=True)
class ClippedSurrogate:
    """PPO's clipped objective with separate limits ("clip-higher": DAPO, arXiv 2503.14476, eq. 8-9).

    -min(r·A, clip(r, 1 - clip_low, 1 + clip_high)·A). `level` defines the ratio r:

    - "token": r_t = π(token) / π_old(token) (PPO, arXiv 1707.06347, eq. 7).
    - "sequence": s = (π(completion) / π_old(completion))^(1/length), the same for all tokens of a completion (GSPO,
      arXiv 2507.18071, eq. 5-7). Use it with the aggregation "sequence_mean".
    - "sequence_token": the value of s with the gradient of each token's own log-prob (GSPO-token, eq. 13-14). The
      gradient equals that of "sequence" if all advantages of a completion are equal.
    """

    clip_low: float = 0.20
    clip_high: float = 0.28
    level: Literal["token", "sequence", "sequence_token"] = "token"

    def __call__(self, log_ratio: Tensor, advantages: Tensor, logprobs: Tensor, segments: Tensor) -> TokenLoss:
        if self.level != "token":
            sequence = segment_means(log_ratio, segments)
            log_ratio = sequence if self.level == "sequence" else sequence.detach() + logprobs - logprobs.detach()
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        values = -torch.minimum(ratio * advantages, clipped * advantages)
        return TokenLoss(values, _clip_metrics(ratio.detach(), advantages, 1 - self.clip_low, 1 + self.clip_high))


@dataclass(frozen=True, slots=True)
class CispoSurrogate:
    """CISPO: -sg(clip(r, 1 - clip_low, 1 + clip_high))·A·log π (arXiv 2506.13585, eq. 4-5); no gradient is clipped."""

    clip_low: float = 1.0
    clip_high: float = 0.28

    def __call__(self, log_ratio: Tensor, advantages: Tensor, logprobs: Tensor, segments: Tensor) -> TokenLoss:
        ratio = log_ratio.detach().exp()
        weights = ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        metrics = _clip_metrics(ratio, advantages, 1 - self.clip_low, 1 + self.clip_high)
        return TokenLoss(-weights * advantages * logprobs, metrics)


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """A surrogate with optional importance weights, KL penalty and entropy bonus.

    Needs the fields `advantages` and `rollout_logprobs`, and `reference_logprobs` if `kl_coef` is not 0. Uses
    `old_logprobs` and `importance_weights` where they are set.

    Args:
        surrogate: the policy objective.
        kl_coef: factor of the estimate of KL(policy || reference); `kl_kind`: which estimate, see `kl`.
        entropy_coef: factor of the entropy, which is subtracted.
    """

    surrogate: Surrogate = ClippedSurrogate()
    kl_coef: float = 0.0
    kl_kind: KLKind = "k3"
    entropy_coef: float = 0.0

    def __call__(self, output: PolicyOutput, fields: TokenFields, segments: Tensor) -> TokenLoss:
        logprobs, rollout = output.logprobs, present(fields.rollout_logprobs)
        loss = self.surrogate(logprobs - fields.ratio_logprobs, present(fields.advantages), logprobs, segments)
        # The trainer's divergence from the sampling policy: k3 with swapped roles, because the engine drew the tokens.
        loss.metrics["kl/rollout"] = kl_estimate(rollout, logprobs.detach(), "k3")
        if fields.importance_weights is not None:
            loss.values = loss.values * fields.importance_weights
            loss.metrics["importance/mean"] = fields.importance_weights
        if fields.reference_logprobs is not None:
            divergence = kl_estimate(logprobs, fields.reference_logprobs, self.kl_kind)
            loss.metrics["kl/reference"] = divergence.detach()
            loss.values = loss.values + self.kl_coef * divergence
        if self.entropy_coef:
            loss.values = loss.values - self.entropy_coef * output.entropies
        return loss


@dataclass(frozen=True, slots=True)
class ActorCriticLoss:
    """PPO's whole objective: the policy loss plus the critic's clipped squared error (arXiv 1707.06347, eq. 9).

    value_coef · (V - R)² / 2. With `value_clip` as in PPO2: the larger of this error and that of the clipped value,
    clip(V, V_old - value_clip, V_old + value_clip).

    Needs the fields of `PolicyLoss`, `returns` R and `old_values` V_old.

    Args:
        policy: the actor's loss.
        value_coef: factor of the critic's error.
        value_clip: distance from V_old beyond which the value gets no credit for a smaller error; None: no limit.
    """

    policy: LossFunction
    value_coef: float = 0.5
    value_clip: float | None = None

    def __call__(self, output: PolicyOutput, fields: TokenFields, segments: Tensor) -> TokenLoss:
        assert output.values is not None, "the model has no value head"
        loss = self.policy(output, fields, segments)
        returns, old = present(fields.returns), present(fields.old_values)
        error = (output.values - returns).square() / 2
        metrics = {"value/mean": output.values.detach(), "value/return": returns}
        if self.value_clip is not None:
            clipped = old + (output.values - old).clamp(-self.value_clip, self.value_clip)
            error = torch.maximum(error, (clipped - returns).square() / 2)
            metrics["value/clip_fraction"] = ((output.values - old).abs() > self.value_clip).float()
        metrics["value/loss"] = error.detach()
        return TokenLoss(loss.values + self.value_coef * error, loss.metrics | metrics)


@torch.no_grad()
def _clip_metrics(ratio: Tensor, advantages: Tensor, low: float, high: float) -> dict[str, Tensor]:
    return {
        "ratio/mean": ratio,
        "ratio/mean_square": ratio.square(),
        "ratio/clip_low_fraction": ((ratio < low) & (advantages < 0)).float(),
        "ratio/clip_high_fraction": ((ratio > high) & (advantages > 0)).float(),
    }
