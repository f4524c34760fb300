"""Advantages from rewards [P, G]: P prompts, G samples each, all ranks together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

EPSILON = 1e-4  # as in TRL; bounds the advantages of groups with nearly equal rewards
ROUNDING = 1e-6  # rewards that differ by no more than this are equal: their terms were summed in another order


def informative(lowest: Any, highest: Any) -> Any:
    """Whether groups with these extreme rewards carry a signal: whether they differ (DAPO, arXiv 2503.14476, 3.2).

    This is the only definition: estimators give the other groups advantages of exactly 0, dynamic sampling replaces
    them, and the trainer skips samples whose advantages are all 0.
    """
    return highest - lowest > ROUNDING


def group_advantages(rewards_PG: Tensor) -> Tensor:  # noqa: N803
    """GRPO: (reward - group mean) / (group standard deviation + epsilon) (DeepSeekMath, arXiv 2402.03300, 4.1.2).

    The deviation is the sample's (divided by G - 1), as in TRL. A group whose rewards are all equal gets zeros.
    """
    centred = centred_advantages(rewards_PG)
    return centred / (centred.std(dim=1, keepdim=True) + EPSILON)


def centred_advantages(rewards_PG: Tensor) -> Tensor:  # noqa: N803
    """Dr. GRPO: reward - group mean, as the division favours very easy and hard questions (arXiv 2503.20783, eq. 3).

    A group whose rewards are all equal gets zeros: exact ones, which a mean in floating point would not give.
    """
    centred = _groups(rewards_PG) - rewards_PG.mean(dim=1, keepdim=True)
    differ = informative(rewards_PG.amin(dim=1, keepdim=True), rewards_PG.amax(dim=1, keepdim=True))
    return torch.where(differ, centred, 0.0)


def leave_one_out_advantages(rewards_PG: Tensor) -> Tensor:  # noqa: N803
    """RLOO: reward - mean of the *other* samples of the group (arXiv 2402.14740, eq. 6): unbiased, not scaled."""
    size = rewards_PG.shape[1]
    return centred_advantages(rewards_PG) * size / (size - 1)


ADVANTAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "grpo": group_advantages,
    "dr_grpo": centred_advantages,
    "rloo": leave_one_out_advantages,
}
"""Estimators by their names in recipes: rewards [P, G] → advantages [P, G], one value for each completion."""


def penalties_to_go(penalties: Tensor) -> Tensor:
    """Σ_{i≥t} penalty_i at each token t of one completion: [T] from [T]."""
    return penalties.flip(0).cumsum(0).flip(0)


def generalised_advantages(
    rewards_BT: Tensor,  # noqa: N803
    values_BT: Tensor,  # noqa: N803
    *,
    gamma: float,
    lam: float | Tensor,
) -> Tensor:
    """GAE: A_t = Σ_k (γλ)^k δ_{t+k} with δ_t = r_t + γ V_{t+1} - V_t (arXiv 1506.02438, eq. 16); V after the end is 0.

    Args:
        rewards_BT: [B, T] reward of each token, right-padded with 0.
        values_BT: [B, T] value estimates of the state before each token, right-padded with 0.
        gamma: discount of rewards.
        lam: λ, 1 for Monte-Carlo returns, 0 for one-step differences; one for all or one for each completion [B].

    Returns:
        Advantages [B, T], 0 in the padding. Advantage + value is a return, a target of the critic.
    """
    advantages = torch.zeros_like(values_BT)
    following = torch.zeros_like(values_BT[:, 0])  # advantage of the next token
    next_values = torch.zeros_like(following)
    for t in reversed(range(values_BT.shape[1])):
        delta = rewards_BT[:, t] + gamma * next_values - values_BT[:, t]
        following = delta + gamma * lam * following
        advantages[:, t] = following
        next_values = values_BT[:, t]
    return advantages


def length_adaptive_lams(lengths: Tensor, alpha: float) -> Tensor:
    """λ = 1 - 1 / (alpha · length) of each completion, at least 0 (VAPO, arXiv 2504.05118, "length-adaptive GAE").

    The coefficients of GAE then sum to about alpha · length, so a reward at the end reaches the first tokens of long
    completions, too.

    Args:
        lengths: [B] tokens of each completion.
        alpha: share of the length over which GAE averages.
    """
    return (1 - 1 / (alpha * lengths)).clamp(min=0)


def _groups(rewards_PG: Tensor) -> Tensor:  # noqa: N803
    if rewards_PG.shape[1] < 2:
        raise ValueError(
            f"a group has {rewards_PG.shape[1]} sample(s): a group baseline needs samples_per_prompt of 2 or more"
        )
    return rewards_PG
