"""Groups of rollouts: what is sampled, scored, gathered from all ranks, kept for the next step and saved."""

from __future__ import annotations

import base64
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

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
        """Plain values; floats survive JSON exactly, and routes go as base64 of 16-bit integers."""
        routes = [None if r.routes is None else _text(r.routes) for r in self.rollouts]
        plain = replace(self, rollouts=[replace(rollout, routes=None) for rollout in self.rollouts])
        return asdict(plain) | {"routes": routes}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Group:
        """The inverse of `to_json`."""
        values = dict(values)
        routes = [text and _array(text) for text in values.pop("routes")]
        rollouts = [Rollout(**r | {"routes": own}) for r, own in zip(values["rollouts"], routes, strict=True)]
        return cls(**values | {"rollouts": rollouts})


def _text(routes: np.ndarray) -> dict[str, Any]:
    return {"shape": routes.shape, "base64": base64.b64encode(routes.tobytes()).decode()}


def _array(text: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text["base64"]), dtype=np.int16).reshape(text["shape"])
