"""Groups of rollouts, complete or partial, in a form that travels between ranks and through checkpoints."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from sail_rl.contracts import Rollout
from sail_rl.maths.advantages import informative


@dataclass(frozen=True, slots=True)
class Group:
    """All rollouts of one prompt with their total rewards.

    `row` is the prompt's row number in the dataset, where every rank can read it; so a group holds no images.
    `prompt_tokens` counts the tokens of the expanded prompt, `visual_tokens` those of its images.
    """

    row: int
    rollouts: list[Rollout]
    rewards: list[float]
    prompt_tokens: int
    visual_tokens: int

    @property
    def informative(self) -> bool:
        """True if the rewards differ (see `maths.advantages.informative`)."""
        return bool(informative(min(self.rewards), max(self.rewards)))

    def size(self, sample: int) -> tuple[int, int]:
        """Number of tokens and of visual tokens of one sample, prompt included."""
        return self.prompt_tokens + len(self.rollouts[sample].token_ids), self.visual_tokens

    def to_json(self) -> dict[str, Any]:
        """JSON values; floats survive exactly."""
        return asdict(replace(self, rollouts=[])) | {"rollouts": rollouts_to_json(self.rollouts)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Group:
        """The inverse of `to_json`."""
        return cls(**values | {"rollouts": rollouts_from_json(values["rollouts"])})


@dataclass(frozen=True, slots=True)
class PartialGroup:
    """A prompt whose group isn't complete: its row, and its rollouts so far (empty before its first round)."""

    row: int
    rollouts: list[Rollout] = field(default_factory=list)

    @property
    def finished(self) -> list[Rollout]:
        """The finished rollouts, which wait for the unfinished ones."""
        return [rollout for rollout in self.rollouts if rollout.stop_reason != "unfinished"]

    @property
    def unfinished(self) -> list[Rollout]:
        """The rollouts that the next round continues."""
        return [rollout for rollout in self.rollouts if rollout.stop_reason == "unfinished"]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {"row": self.row, "rollouts": rollouts_to_json(self.rollouts)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> PartialGroup:
        """The inverse of `to_json`."""
        return cls(values["row"], rollouts_from_json(values["rollouts"]))


def rollouts_to_json(rollouts: Sequence[Rollout]) -> list[dict[str, Any]]:
    """JSON values; routed experts become base64 of 16-bit integers."""
    experts = [rollout.routed_experts for rollout in rollouts]
    return [
        asdict(replace(rollout, routed_experts=None)) | {"routed_experts": None if array is None else _text(array)}
        for rollout, array in zip(rollouts, experts, strict=True)
    ]


def rollouts_from_json(values: Sequence[dict[str, Any]]) -> list[Rollout]:
    """The inverse of `rollouts_to_json`."""
    return [
        Rollout(**each | {"routed_experts": _array(text) if (text := each["routed_experts"]) else None})
        for each in values
    ]


def _text(array: np.ndarray) -> dict[str, Any]:
    return {"shape": array.shape, "base64": base64.b64encode(array.tobytes()).decode()}


def _array(text: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text["base64"]), dtype=np.int16).reshape(text["shape"])
