"""The base class of all engines: `stream` yields groups as they finish, and `generate` collects them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence

from sail_rl.contracts import Prompt, Rollout, Sampling


class EngineError(RuntimeError):
    """The engine's workers or servers failed too often, or none of them is reachable."""


class StreamingEngine(ABC):
    """A `RolloutEngine` without `push_weights` and `close`; by default it runs in the trainer's process."""

    shares_gpu: bool = True
    runs_out_of_process: bool = False
    supports_partial_rollouts: bool = False
    captures_routed_experts: bool = False

    @abstractmethod
    def stream(self, prompts: Sequence[Prompt], sampling: Sampling) -> Generator[tuple[int, list[Rollout]]]:
        """Yield (position of the prompt, its group) as groups finish."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Rollout]]:
        """Return all groups in the order of the prompts."""
        groups = dict(self.stream(prompts, sampling))
        return [groups[position] for position in range(len(prompts))]
