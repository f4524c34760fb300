"""Advantages of tokens from rewards: one value for each completion, or GAE with a critic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sail_rl.data.encoding import Sample
from sail_rl.imports import resolve
from sail_rl.maths.advantages import ADVANTAGES, generalised_advantages
from sail_rl.maths.kl import kl_estimate
from sail_rl.maths.token_fields import present

from .distributed import gather_objects
from .groups import Group


@dataclass(frozen=True, slots=True)
class RolloutSample:
    """One of this rank's samples: rollout number `index` of the step's group number `position`."""

    position: int
    index: int
    sample: Sample


class AdvantageEstimator(Protocol):
    """Sets the token field `advantages` of this rank's samples. Every rank passes the same groups (collective)."""

    def __call__(self, groups: Sequence[Group], samples: Sequence[RolloutSample]) -> None: ...


@dataclass(frozen=True, slots=True)
class CompletionAdvantages:
    """One advantage for all tokens of a completion, from the rewards of all ranks' groups.

    Args:
        name: one of `maths.advantages.ADVANTAGES`, or the path of a function of your own from rewards [P, G] to
            advantages [P, G].
        kl_coef: subtract this many times the completion's KL to the reference (k1, summed over its tokens) from its
            reward before the baseline is taken (RLOO, arXiv 2402.14740, eq. 2; REINFORCE++, arXiv 2501.03262).
    """

    name: str
    kl_coef: float = 0.0

    def __call__(self, groups: Sequence[Group], samples: Sequence[RolloutSample]) -> None:
        if not groups:
            return
        rewards = torch.tensor([group.rewards for group in groups], dtype=torch.float64)
        if self.kl_coef:
            own = [(s.position, s.index, _penalties(s.sample).sum().item()) for s in samples]
            for position, index, penalty in gather_objects(own):
                rewards[position, index] -= self.kl_coef * penalty
        estimate = ADVANTAGES[self.name] if self.name in ADVANTAGES else resolve(self.name)
        advantages = estimate(rewards)
        if advantages.shape != rewards.shape:
            raise ValueError(
                f"advantages: {self.name} made {list(advantages.shape)} of rewards {list(rewards.shape)}; return one "
                "advantage for each reward"
            )
        for s in samples:
            advantage = advantages[s.position, s.index].float()
            s.sample.token_fields.advantages = advantage.expand(s.sample.completion_length)


@dataclass(frozen=True, slots=True)
class CriticAdvantages:
    """GAE with the critic's `old_values` (PPO, arXiv 1707.06347, eq. 11-12); sets `returns`, too.

    The last token of a completion gets its reward. Advantages are whitened over all tokens of all ranks.

    Args:
        gamma: discount of rewards; `lam`: λ of GAE.
        kl_coef: subtract this many times each token's KL to the reference (k1) from its reward (InstructGPT, arXiv
            2203.02155, eq. 2).
    """

    gamma: float = 1.0
    lam: float = 0.95
    kl_coef: float = 0.0

    def __call__(self, groups: Sequence[Group], samples: Sequence[RolloutSample]) -> None:
        lengths = [s.sample.completion_length for s in samples]
        rewards, values = (torch.zeros(len(samples), max(lengths, default=1)) for _ in range(2))
        for number, (s, length) in enumerate(zip(samples, lengths, strict=True)):
            values[number, :length] = present(s.sample.token_fields.old_values)
            rewards[number, length - 1] = groups[s.position].rewards[s.index]
            if self.kl_coef:
                rewards[number, :length] -= self.kl_coef * _penalties(s.sample)
        advantages, returns = generalised_advantages(rewards, values, gamma=self.gamma, lam=self.lam)
        mean, deviation = _moments([advantages[number, :length] for number, length in enumerate(lengths)])
        for number, (s, length) in enumerate(zip(samples, lengths, strict=True)):
            s.sample.token_fields.advantages = (advantages[number, :length] - mean) / (deviation + 1e-8)
            s.sample.token_fields.returns = returns[number, :length]


def _penalties(sample: Sample) -> Tensor:
    """KL penalty (k1) of each token: old policy against reference."""
    fields = sample.token_fields
    return kl_estimate(fields.ratio_logprobs, present(fields.reference_logprobs), "k1")


def _moments(parts: Sequence[Tensor]) -> tuple[float, float]:
    """Mean and standard deviation over all elements of all ranks' tensors."""
    flat = torch.cat([*parts, torch.zeros(0)]).double()
    sums = gather_objects([(len(flat), flat.sum().item(), flat.square().sum().item())])
    count, total, squares = (sum(column) for column in zip(*sums, strict=True))
    mean = total / max(1, count)
    return mean, max(0.0, squares / max(1, count) - mean**2) ** 0.5
