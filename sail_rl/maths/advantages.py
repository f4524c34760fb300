"""Advantages from rewards [P, G]: P prompts, G samples each."""

from __future__ import annotations

import torch

EPSILON = 1e-4  # TRL's; keeps a group with tiny spread from exploding


def group_advantages(rewards_PG: torch.Tensor) -> torch.Tensor:  # noqa: N803
    """GRPO: (reward - group mean) / (group standard deviation + epsilon) (DeepSeekMath, arXiv 2402.03300, eq. 3).

    The deviation is the sample's (divided by G - 1), as in TRL. A group whose rewards are all equal gets zeros.

    Args:
        rewards_PG: [P, G], G at least 2.

    Returns:
        Advantages [P, G].
    """
    if rewards_PG.shape[1] < 2:
        raise ValueError(
            f"group of {rewards_PG.shape[1]} sample(s): a group baseline needs samples_per_prompt of 2 or more"
        )
    centred = rewards_PG - rewards_PG.mean(dim=1, keepdim=True)
    return centred / (rewards_PG.std(dim=1, keepdim=True) + EPSILON)


def informative_groups(rewards_PG: torch.Tensor) -> torch.Tensor:  # noqa: N803
    """Which groups [P] have rewards that differ; the others carry no signal (DAPO, arXiv 2503.14476, section 3.2)."""
    return (rewards_PG != rewards_PG[:, :1]).any(dim=1)
