"""What every rank knows about the groups of a step: a few numbers. The rollouts stay on the rank that sampled them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sail_rl.contracts import Rollout
from sail_rl.maths.advantages import informative


@dataclass(frozen=True, slots=True)
class NumberedPrompt:
    """Prompt number `number` of the endless order of prompts, and its row number in the dataset."""

    number: int
    row: int


@dataclass(frozen=True, slots=True)
class RolloutSummary:
    """One complete rollout in numbers.

    `length` counts its tokens. `truncated` is True if it was cut at the token limit. `oldest_version` is the smallest
    of its tokens' weights versions, and `version_sum` their sum.
    """

    reward: float
    length: int
    truncated: bool
    oldest_version: int
    version_sum: int

    @classmethod
    def of(cls, rollout: Rollout, reward: float) -> RolloutSummary:
        """The summary of a rollout and its total reward."""
        versions = rollout.token_versions
        return cls(reward, len(versions), rollout.stop_reason == "length", min(versions), sum(versions))


@dataclass(frozen=True, slots=True)
class Group:
    """A complete group: all rollouts of one prompt in numbers, cheap to send to all ranks.

    Attributes:
        prompt: the prompt; any rank can read its row.
        rank: the rank that sampled the rollouts and holds them.
        rollouts: the summaries [G].
        prompt_tokens: number of tokens of the expanded prompt.
        visual_tokens: number of visual tokens among them.
    """

    prompt: NumberedPrompt
    rank: int
    rollouts: list[RolloutSummary]
    prompt_tokens: int
    visual_tokens: int

    @classmethod
    def of(
        cls,
        prompt: NumberedPrompt,
        rollouts: Sequence[Rollout],
        rewards: Sequence[float],
        *,
        rank: int,
        size: tuple[int, int],
    ) -> Group:
        """The group of these rollouts [G] with their total rewards [G]; `size` is (tokens, visual tokens) of the
        prompt."""
        summaries = [RolloutSummary.of(*pair) for pair in zip(rollouts, rewards, strict=True)]
        return cls(prompt, rank, summaries, *size)

    @property
    def row(self) -> int:
        """The prompt's row number in the dataset."""
        return self.prompt.row

    @property
    def rewards(self) -> list[float]:
        """The total rewards [G]."""
        return [rollout.reward for rollout in self.rollouts]

    @property
    def informative(self) -> bool:
        """True if the rewards differ (see `maths.advantages.informative`)."""
        return bool(informative(min(self.rewards), max(self.rewards)))

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Number of tokens and of visual tokens of each sample [G], prompt included."""
        return [(self.prompt_tokens + rollout.length, self.visual_tokens) for rollout in self.rollouts]

    def to_json(self) -> dict[str, Any]:
        """JSON values; floats survive exactly."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Group:
        """The inverse of `to_json`."""
        rollouts = [RolloutSummary(**each) for each in values["rollouts"]]
        return cls(**values | {"prompt": NumberedPrompt(**values["prompt"]), "rollouts": rollouts})


@dataclass(frozen=True, slots=True)
class PartialGroup:
    """A prompt that this rank samples, and its rollouts so far (none before its first round)."""

    prompt: NumberedPrompt
    rollouts: Sequence[Rollout] = ()

    @property
    def finished(self) -> list[Rollout]:
        """The finished rollouts, which wait for the unfinished ones."""
        return [rollout for rollout in self.rollouts if rollout.stop_reason != "unfinished"]

    @property
    def unfinished(self) -> list[Rollout]:
        """The rollouts that the next round continues."""
        return [rollout for rollout in self.rollouts if rollout.stop_reason == "unfinished"]
