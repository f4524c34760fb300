"""Advantages of tokens from rewards: one value for each completion, or GAE with a critic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sail_rl.data.encoding import Sample
from sail_rl.imports import resolve
from sail_rl.maths.advantages import (
    ADVANTAGES,
    EPSILON,
    centred_advantages,
    generalised_advantages,
    length_adaptive_lams,
    penalties_to_go,
)
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
            reward before the baseline is taken (RLOO, arXiv 2402.14740, eq. 2).
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
class BatchAdvantages:
    """REINFORCE++: A_t = r - kl_coef · Σ_{i≥t} KL_i, normalised over all tokens of all ranks (arXiv 2501.03262, eq. 7).

    A token is charged for the KL (k1) of itself and of the tokens after it, which it can influence.

    Args:
        kl_coef: factor of the KL to the reference.
    """

    kl_coef: float = 0.0

    def __call__(self, groups: Sequence[Group], samples: Sequence[RolloutSample]) -> None:
        first = groups[0].rewards[0] if groups else 0.0  # a common offset: equal rewards are then exactly 0
        rewards = [[reward - first for reward in group.rewards] for group in groups]
        advantages = _token_advantages(torch.tensor(rewards, dtype=torch.float64), samples, self.kl_coef)
        mean, deviation = _moments(advantages)
        for s, values in zip(samples, advantages, strict=True):
            s.sample.token_fields.advantages = ((values - mean) / (deviation + EPSILON)).float()


@dataclass(frozen=True, slots=True)
class BatchGroupAdvantages:
    """REINFORCE++-baseline: A_t = r - group mean - kl_coef · Σ_{i≥t} KL_i, divided by the deviation over all tokens of
    all ranks (arXiv 2501.03262, section 3.2).

    The mean over the batch is not subtracted. It is 0 over completions, so groups without a signal keep exactly 0.

    Args:
        kl_coef: factor of the KL to the reference (k1).
    """

    kl_coef: float = 0.0

    def __call__(self, groups: Sequence[Group], samples: Sequence[RolloutSample]) -> None:
        rewards = torch.tensor([group.rewards for group in groups], dtype=torch.float64)
        centred = centred_advantages(rewards) if groups else rewards
        advantages = _token_advantages(centred, samples, self.kl_coef)
        _, deviation = _moments(advantages)
        for s, values in zip(samples, advantages, strict=True):
            s.sample.token_fields.advantages = (values / (deviation + EPSILON)).float()


def _token_advantages(rewards_PG: Tensor, samples: Sequence[RolloutSample], kl_coef: float) -> list[Tensor]:  # noqa: N803
    """The reward of each sample [T] at each of its tokens, less `kl_coef` times the KL from this token on."""
    found = []
    for s in samples:
        values = rewards_PG[s.position, s.index].expand(s.sample.completion_length)
        found.append(values - kl_coef * penalties_to_go(_penalties(s.sample).double()) if kl_coef else values)
    return found


@dataclass(frozen=True, slots=True)
class CriticAdvantages:
    """GAE with the critic's `old_values` (PPO, arXiv 1707.06347, eq. 11-12); sets `returns`, too.

    The last token of a completion gets its reward. Advantages are whitened over all tokens of all ranks. The critic's
    targets have a λ of their own (decoupled GAE, VC-PPO, arXiv 2503.01491).

    Args:
        gamma: discount of rewards.
        lam: λ of the advantages.
        length_alpha: length-adaptive λ instead of `lam`, see `length_adaptive_lams`.
        value_lam: λ of the returns.
        kl_coef: subtract this many times each token's KL to the reference (k1) from its reward (InstructGPT, arXiv
            2203.02155, eq. 2).
    """

    gamma: float = 1.0
    lam: float = 1.0
    length_alpha: float | None = None
    value_lam: float = 1.0
    kl_coef: float = 0.0

    def __call__(self, groups: Sequence[Group], samples: Sequence[RolloutSample]) -> None:
        lengths = [s.sample.completion_length for s in samples]
        rewards, values = (torch.zeros(len(samples), max(lengths, default=1)) for _ in range(2))
        for number, (s, length) in enumerate(zip(samples, lengths, strict=True)):
            values[number, :length] = present(s.sample.token_fields.old_values)
            rewards[number, length - 1] = groups[s.position].rewards[s.index]
            if self.kl_coef:
                rewards[number, :length] -= self.kl_coef * _penalties(s.sample)
        lam = length_adaptive_lams(torch.tensor(lengths), self.length_alpha) if self.length_alpha else self.lam
        advantages = generalised_advantages(rewards, values, gamma=self.gamma, lam=lam)
        returns = values + generalised_advantages(rewards, values, gamma=self.gamma, lam=self.value_lam)
        mean, deviation = _moments([advantages[number, :length] for number, length in enumerate(lengths)])
        for number, (s, length) in enumerate(zip(samples, lengths, strict=True)):
            s.sample.token_fields.advantages = (advantages[number, :length] - mean) / (deviation + 1e-8)
            s.sample.token_fields.returns = returns[number, :length]


def explained_variance(samples: Sequence[Sample]) -> float:
    """1 - Var(return - old value) / Var(return) over all tokens of all ranks (collective); 0 for equal returns.

    0 is a constant estimate, 1 a perfect one. Below 0 the critic is worse than a constant.
    """
    fields = [sample.token_fields for sample in samples]
    _, whole = _moments([present(each.returns) for each in fields])
    _, left = _moments([present(each.returns) - present(each.old_values) for each in fields])
    return 1 - (left / whole) ** 2 if whole else 0.0


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
