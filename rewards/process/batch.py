"""The items of one call of the pool: in which jobs they wait, and what becomes of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from .cache import Result
from .handle import Worker

JOB_SHARE = 0.25  # of an item's time limit: the limit of a job of several items, which are then tried alone


class Batch:
    """Jobs of up to `together` pickled items that wait for a worker, and the results by item number."""

    def __init__(
        self, payloads: Sequence[bytes], *, timeout_s: float, batch_timeout_s: float, together: int, workers: int
    ) -> None:
        self.payloads = payloads
        self.timeout_s, self.batch_timeout_s = timeout_s, batch_timeout_s
        self.deadline = time.monotonic() + batch_timeout_s
        size = max(1, min(together, -(-len(payloads) // workers)))
        numbers = range(len(payloads))
        self.waiting = deque(tuple(numbers[start : start + size]) for start in numbers[::size])
        self.results: dict[int, Result] = {}
        self._retried: set[int] = set()

    def give(self, worker: Worker) -> bool:
        """Send the next job to a worker; False, and the job waits again, if the worker doesn't take it."""
        job = self.waiting.popleft()
        limit = self.timeout_s * (1.0 if len(job) == 1 else JOB_SHARE)
        given = worker.give(job, [self.payloads[number] for number in job], limit)
        if not given:
            self.waiting.appendleft(job)
        return given

    def take(self, job: tuple[int, ...], results: Sequence[dict[str, Any]]) -> None:
        """Note a worker's results; a job without a result for each of its items is split."""
        if len(results) < len(job):
            self._split(job)
            return
        for number, result in zip(job, results, strict=True):
            if "error" in result:
                self.results[number] = Result(None, "error", str(result["error"]), result["seconds"])
            else:
                self.results[number] = Result(result["value"], seconds=result["seconds"])

    def late(self, job: tuple[int, ...], seconds: float) -> None:
        """Time out a job's only item, or split the job."""
        if len(job) > 1:
            self._split(job)
        else:
            self.results[job[0]] = Result(None, "timeout", f"no result within {self.timeout_s:g} s", seconds)

    def died(self, job: tuple[int, ...], seconds: float) -> None:
        """Retry the job of a dead worker, since it may have died of something else; an item alone only once."""
        if len(job) > 1:
            self._split(job)
        elif job[0] in self._retried:
            self.results[job[0]] = Result(None, "error", "its worker died twice", seconds)
        else:
            self._retried.add(job[0])
            self.waiting.appendleft(job)

    def give_up(self) -> None:
        """Time out all items without a result."""
        message = f"the batch took longer than {self.batch_timeout_s:g} s"
        for number in range(len(self.payloads)):
            self.results.setdefault(number, Result(None, "timeout", message, final=False))

    def _split(self, job: tuple[int, ...]) -> None:
        """Let each item wait alone, after the jobs that have harmed nobody."""
        self.waiting.extend((number,) for number in job)
