"""From rewards to the advantage of each token: one value a completion, or GAE with a critic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sail_rl.data.encoding import Sample
from sail_rl.maths.advantages import ADVANTAGES, generalised_advantages
from sail_rl.maths.kl import kl_estimate
from sail_rl.maths.token_fields import present

from .distributed import gather_objects
from .groups import Group


@dataclass(frozen=True, slots=True)
class RolloutSample:
    """One of this rank's samples: rollout `index` of group number `position` of the step."""

    position: int
    index: int
    sample: Sample


class AdvantageEstimator(Protocol):
    """Sets the token field `advantages` to this rank's samples; every rank calls it with the same groups."""

    def __call__(self, groups: Sequence[Group], drawn: Sequence[RolloutSample]) -> None: ...


@dataclass(frozen=True, slots=True)
class CompletionAdvantages:
    """The same advantage for every token of a completion, from the rewards of all ranks' groups.

    Args:
        name: one of `maths.advantages.ADVANTAGES`.
        kl_coef: subtract this many times the completion's KL to the reference (k1, summed over its tokens) from its
            reward before the baseline is taken (RLOO, arXiv 2402.14740, eq. 2; REINFORCE++, arXiv 2501.03262).
    """

    name: str
    kl_coef: float = 0.0

    def __call__(self, groups: Sequence[Group], drawn: Sequence[RolloutSample]) -> None:
        if not groups:
            return
        rewards = torch.tensor([group.rewards for group in groups])
        if self.kl_coef:
            own = [(d.position, d.index, _penalties(d.sample).sum().item()) for d in drawn]
            for position, index, penalty in gather_objects(own):
                rewards[position, index] -= self.kl_coef * penalty
        advantages = ADVANTAGES[self.name](rewards)
        for d in drawn:
            d.sample.token_fields.advantages = advantages[d.position, d.index].expand(d.sample.completion_length)


@dataclass(frozen=True, slots=True)
class CriticAdvantages:
    """GAE with the critic's `old_values`; the reward comes with the last token (PPO, arXiv 1707.06347, eq. 11-12).

    Also sets `returns`. Advantages are whitened over all tokens of all ranks.

    Args:
        gamma, lam: discount and λ.
        kl_coef: subtract this many times each token's KL to the reference (k1) from its reward (InstructGPT, arXiv
            2203.02155, eq. 2).
    """

    gamma: float = 1.0
    lam: float = 0.95
    kl_coef: float = 0.0

    def __call__(self, groups: Sequence[Group], drawn: Sequence[RolloutSample]) -> None:
        longest = max((d.sample.completion_length for d in drawn), default=1)  # a rank may have none
        rewards, values = torch.zeros(len(drawn), longest), torch.zeros(len(drawn), longest)
        for row, d in enumerate(drawn):
            length, fields = d.sample.completion_length, d.sample.token_fields
            values[row, :length] = present(fields.old_values)
            rewards[row, length - 1] = groups[d.position].rewards[d.index]
            if self.kl_coef:
                rewards[row, :length] -= self.kl_coef * _penalties(d.sample)
        advantages, returns = generalised_advantages(rewards, values, gamma=self.gamma, lam=self.lam)
        lengths = [d.sample.completion_length for d in drawn]
        mean, deviation = _moments([advantages[row, :length] for row, length in enumerate(lengths)])
        for row, (d, length) in enumerate(zip(drawn, lengths, strict=True)):
            d.sample.token_fields.advantages = (advantages[row, :length] - mean) / (deviation + 1e-8)
            d.sample.token_fields.returns = returns[row, :length]


def _penalties(sample: Sample) -> Tensor:
    """k1 of each token: the policy's log-probs before the step's first update against the reference's."""
    fields = sample.token_fields
    return kl_estimate(fields.ratio_logprobs, present(fields.reference_logprobs), "k1")


def _moments(parts: Sequence[Tensor]) -> tuple[float, float]:
    """Mean and standard deviation over all elements of all ranks' tensors."""
    flat = torch.cat([*parts, torch.zeros(0)]).double()
    sums = gather_objects([(len(flat), flat.sum().item(), flat.square().sum().item())])
    count, total, squares = (sum(column) for column in zip(*sums, strict=True))
    mean = total / max(1, count)
    return mean, max(0.0, squares / max(1, count) - mean**2) ** 0.5
