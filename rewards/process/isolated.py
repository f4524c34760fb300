"""Isolated: a custom reward function in killable processes, one rollout at a time, with limits of time and memory.

It protects the run from code that hangs, crashes or eats memory. It is no sandbox: the code has your files and network.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from rewards.combine.calls import ArgumentsError, awaited, chosen_arguments
from rewards.combine.score import Score
from sail_rl.imports import resolve

from .handle import Target
from .pool import GIBIBYTE, Result, WorkerPool


class Isolated:
    """A reward function with TRL's signature that calls the one at `path` elsewhere; its code isn't imported here.

    A rollout that takes too long has a TimeoutError for a score, one that raises, crashes or needs too much memory a
    RuntimeError: the recipe's `on_error` says what they count as.

    Args:
        path: `module:function` or `file.py:function`, or a class made with `kwargs`.
        kwargs: passed to the function, or to the class.
        timeout_s: seconds that one rollout may take.
        batch_timeout_s: seconds that all of them may take.
        memory_gib: address space of each process.
        workers: processes.
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
        """Find out whether the function can be imported in a worker, before a model loads.

        Raises:
            ValueError: with the real error.
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
    """What a worker calls: the reward function, with lists of one entry."""

    def __init__(self, path: str, kwargs: dict[str, Any]) -> None:
        self._path = path
        target: Any = resolve(path)
        self._function: Any = target(**kwargs) if inspect.isclass(target) else functools.partial(target, **kwargs)

    def __call__(self, row: dict[str, Any] | None) -> Any:
        """Score one rollout; None only shows that the worker is up."""
        if row is None:
            return None
        arguments = chosen_arguments(self._path, self._function, {name: [value] for name, value in row.items()})
        scores = awaited(self._function(**arguments))
        if not isinstance(scores, Sequence) or len(scores) != 1:
            raise ValueError(f"returned {scores!r:.200}; it must return a list of 1 score for 1 completion")
        if isinstance(scores[0], Exception):
            raise scores[0]
        return scores[0]


def _score(result: Result) -> Any:
    if result.status == "ok":
        numeric = isinstance(result.value, float | bool)
        return Score(result.value, seconds=result.seconds) if numeric else result.value
    if result.message.startswith(ArgumentsError.__name__):
        raise ArgumentsError(result.message.partition(": ")[2])
    return TimeoutError(result.message) if result.status == "timeout" else RuntimeError(result.message)
