"""Estimates of KL(policy || reference) from log-probs of sampled tokens (Schulman, "Approximating KL divergence")."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

KLKind = Literal["k1", "k2", "k3"]


def kl_estimate(logprobs: Tensor, reference_logprobs: Tensor, kind: KLKind) -> Tensor:
    """Per-token estimate [L], in nats, from log-probs [L] of tokens sampled from the policy.

    k1 = log π - log ref: unbiased, high variance, can be negative; its own gradient is zero on average, so use it in
    the reward. k2 = (log π - log ref)² / 2: biased, but its gradient is that of the KL divergence. k3 = ref/π - 1 -
    log(ref/π): unbiased and never negative (GRPO, arXiv 2402.03300, eq. 4).
    """
    log_ratio = reference_logprobs - logprobs
    if kind == "k1":
        return -log_ratio
    if kind == "k2":
        return log_ratio.square() / 2
    return log_ratio.expm1() - log_ratio
