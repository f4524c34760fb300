"""Runs a custom reward function in killable processes, one rollout at a time, with limits on time and memory.

This protects the run from code that hangs, crashes or exhausts memory. It is not a sandbox: the code can access your
files and your network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rewards.combine.calls import ArgumentsError, as_list, called, chosen_arguments
from rewards.combine.loading import load_reward
from rewards.combine.score import Score

from .handle import Target
from .pool import GIBIBYTE, Result, WorkerPool


class Isolated:
    """A reward function with TRL's signature that calls the one at `path` in worker processes only.

    The score of a rollout that takes too long is a TimeoutError. It is a RuntimeError if the function raises, crashes
    or needs too much memory. The recipe's `on_error` says how these are scored.

    Args:
        path: `module:function`, `file.py:function`, or a class to instantiate with `kwargs`.
        kwargs: keyword arguments of the function or the class.
        timeout_s: the time limit for one rollout in seconds.
        batch_timeout_s: the time limit for all rollouts of a call in seconds.
        memory_gib: the address space of each process in GiB.
        workers: the number of processes.
    """

    def __init__(
        self,
        path: str,
        kwargs: Mapping[str, Any],
        *,
        timeout_s: float = 10.0,
        batch_timeout_s: float = 600.0,
        memory_gib: float = 2.0,
        workers: int = 2,
    ) -> None:
        self.pool = WorkerPool(
            Target("rewards.process.isolated:OneRollout", {"path": path, "kwargs": dict(kwargs)}),
            workers=workers,
            timeout_s=timeout_s,
            batch_timeout_s=batch_timeout_s,
            memory_bytes=int(memory_gib * GIBIBYTE),
            cache_size=0,
        )
        self._tried = False

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[Any]:
        """Score completions."""
        arguments = {"completions": completions, **columns}
        rows = [({name: values[i] for name, values in arguments.items()},) for i in range(len(completions))]
        return [_score(result) for result in self.pool.run(rows)]

    def check_gold(self, answer: Any, **_: Any) -> None:
        """Check, before a model loads, that a worker can import the function.

        Raises:
            ValueError: if it can't, with the original error.
        """
        if not self._tried:
            try:
                self.pool.run([(None,)])
            except RuntimeError as error:
                raise ValueError(str(error)) from error
            self._tried = True

    def close(self) -> None:
        """End the processes."""
        self.pool.close()


class OneRollout:
    """The callable of a worker: calls the reward function with lists of one entry."""

    def __init__(self, path: str, kwargs: dict[str, Any]) -> None:
        self._path, self._function = path, load_reward(path, kwargs)

    def __call__(self, row: dict[str, Any] | None) -> Any:
        """Score one rollout; a row of None only shows that the worker runs."""
        if row is None:
            return None
        arguments = chosen_arguments(self._path, self._function, {name: [value] for name, value in row.items()})
        returned = called(self._function, arguments)
        scores = as_list(returned)
        if scores is None or len(scores) != 1:
            raise ValueError(f"returned {returned!r:.200}; it must return a list of 1 score for 1 completion")
        if isinstance(scores[0], Exception):
            raise scores[0]
        return scores[0]


def _score(result: Result) -> Any:
    if result.status == "ok":
        numeric = isinstance(result.value, float | bool)
        return Score(result.value, seconds=result.seconds) if numeric else result.value
    if result.message.startswith(ArgumentsError.__name__):
        raise ArgumentsError(result.message.partition(": ")[2])
    message = result.message.removeprefix("RuntimeError: ")
    return TimeoutError(message) if result.status == "timeout" else RuntimeError(message)
