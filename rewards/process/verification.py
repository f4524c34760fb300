"""Verification in worker processes, shared by all rewards and guards of this process, under limits that always hold."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rewards.verify.verifiers import longest_symbolic_answer

from .cache import Result
from .handle import Target
from .pool import GIBIBYTE, WorkerPool

TOGETHER = 64  # answers of one pipe message
WORKER = Target("rewards.verify.questions:Questions")
_POOLS: dict[tuple[str, int, int], WorkerPool] = {}


class Verification:
    """Asks `rewards.verify.questions` in worker processes; those of equal `memory_gib` and `workers` share one pool.

    Only killing a process stops regular expressions and big integers, so this process compares no answers itself.

    Args:
        timeout_s: the time limit for one question in seconds.
        batch_timeout_s: the time limit for all questions of a call in seconds.
        memory_gib: the address space of each process in GiB.
        workers: the number of processes, which start with the first question.
    """

    def __init__(
        self,
        *,
        timeout_s: float = 2.0,
        batch_timeout_s: float = 600.0,
        memory_gib: float = 1.0,
        workers: int = 2,
    ) -> None:
        for name, value in locals().items():
            if name != "self" and not value > 0:
                raise ValueError(f"{name} is {value}: give a number above 0")
        self._timeout_s, self._batch_timeout_s = timeout_s, batch_timeout_s
        self._memory_bytes, self._workers = int(memory_gib * GIBIBYTE), workers

    @property
    def pool(self) -> WorkerPool:
        """The shared pool."""
        key = (WORKER.path, self._memory_bytes, self._workers)
        if key not in _POOLS:
            _POOLS[key] = WorkerPool(WORKER, workers=self._workers, memory_bytes=self._memory_bytes)
        return _POOLS[key]

    def ask(self, questions: Sequence[tuple[Any, ...]]) -> list[Result]:
        """The results of quick questions: the name of one of the worker's methods, and its arguments."""
        return self._run(questions, self._batch_timeout_s, together=TOGETHER)

    def scores(self, answers: Sequence[tuple[Any, ...]]) -> list[Result]:
        """The scores of answers (kind, gold answer, given answer, columns) as results.

        The rules come first, many answers at a time. Those that no rule decides go to sympy one by one, the
        shortest first: if the batch's time runs out, it is at the expense of the longest.
        """
        with self.pool.lock:
            end = time.monotonic() + self._batch_timeout_s
            results = self.ask([("rules", *answer) for answer in answers])
            asked: dict[int, tuple[str, str, str]] = {}
            for number in sorted(range(len(answers)), key=lambda number: len(answers[number][2])):
                result, gold, given = results[number], str(answers[number][1]).strip(), answers[number][2]
                if result.status != "ok" or result.value is not None:
                    continue
                if len(given) > longest_symbolic_answer(gold):
                    message = "no rule decides it, and it is too long for sympy"
                    results[number] = replace(result, value=0.0, status="too_long", message=message)
                else:
                    asked[number] = "symbolic", gold, given
            verdicts = self._run(list(asked.values()), max(0.0, end - time.monotonic()), together=1)
        for number, verdict in zip(asked, verdicts, strict=True):
            results[number] = replace(verdict, value=float(bool(verdict.value)))
        return results

    def close(self) -> None:
        """Stop the processes; the next question starts new ones, whoever asks it."""
        self.pool.close()

    def _run(self, questions: Sequence[tuple[Any, ...]], seconds: float, *, together: int) -> list[Result]:
        return self.pool.run(questions, timeout_s=self._timeout_s, batch_timeout_s=seconds, together=together)
