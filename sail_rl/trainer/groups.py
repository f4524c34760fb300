"""Groups of rollouts: what is sampled, scored, gathered from all ranks, kept for the next step and saved."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sail_rl.contracts import Rollout


@dataclass(frozen=True, slots=True)
class Group:
    """All rollouts of one prompt with their total rewards.

    `row` is the prompt's row number in the dataset: every rank can read it there, so groups travel between ranks and
    through checkpoints without images. `prompt_tokens` counts the expanded prompt, `visual_tokens` its images' part.
    """

    row: int
    rollouts: list[Rollout]
    rewards: list[float]
    prompt_tokens: int
    visual_tokens: int

    @property
    def informative(self) -> bool:
        """Whether the rewards differ: a group of equal ones has no gradient (DAPO, arXiv 2503.14476, section 3.2)."""
        return any(reward != self.rewards[0] for reward in self.rewards)

    def cost(self, sample: int) -> tuple[int, int]:
        """Tokens and visual tokens of one sample, prompt included."""
        return self.prompt_tokens + len(self.rollouts[sample].token_ids), self.visual_tokens

    def to_json(self) -> dict[str, Any]:
        """Plain values; floats survive JSON exactly."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Group:
        """The inverse of `to_json`."""
        return cls(**(values | {"rollouts": [Rollout(**rollout) for rollout in values["rollouts"]]}))
