"""A pool of killable worker processes, so that no call exceeds its time limit.

Threads and signal handlers can't stop sympy in the middle of `9^{9^{9^{9}}}`; only killing its process can.
"""

from __future__ import annotations

import os
import selectors
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

from .handle import Target, Worker

GIBIBYTE = 1024**3
MAX_FAILED_STARTS = 3  # in a row, before the pool gives up
RETRY_AFTER_SECONDS = 600.0  # after which an item that timed out may be tried again
Status = Literal["ok", "timeout", "error"]


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one item: its `value` if `status` is "ok", else a `message` that says what went wrong."""

    value: Any = None
    status: Status = "ok"
    message: str = ""
    seconds: float = 0.0
    cached: bool = False


class _Batch:
    """The items of one call: those that wait, those that were retried, and the results by item number."""

    def __init__(self, items: Sequence[tuple[Any, ...]], seconds: float) -> None:
        self.items = items
        self.deadline = time.monotonic() + seconds
        self.waiting = deque(range(len(items)))
        self.retried: set[int] = set()
        self.results: dict[int, Result] = {}


class WorkerPool:
    """Calls one function in killable processes; safe to use from any thread, one batch at a time.

    Args:
        target: the callable that gets each item's arguments.
        workers: the number of processes, which start with the first item and stay alive.
        timeout_s: the time limit for one item in seconds.
        batch_timeout_s: the time limit for a batch in seconds; unfinished items then time out.
        memory_bytes: the address space of a worker (0.06 GiB when idle); an item that needs more fails.
        cache_size: the number of results in a least-recently-used cache; with 0, arguments needn't be hashable. Errors
            are never cached, and time-outs only for RETRY_AFTER_SECONDS, since a busy machine may cause them.

    Workers end with `close`, when the pool is garbage-collected, at exit, and when this process is killed.
    """

    def __init__(
        self,
        target: Target,
        *,
        workers: int = 2,
        timeout_s: float = 2.0,
        batch_timeout_s: float = 600.0,
        memory_bytes: int = 2 * GIBIBYTE,
        cache_size: int = 100_000,
    ) -> None:
        if min(timeout_s, batch_timeout_s) <= 0 or workers < 1:
            raise ValueError(
                f"timeout_s is {timeout_s}, batch_timeout_s {batch_timeout_s}, workers {workers}: all must be above 0"
            )
        self.timeout_s, self.batch_timeout_s = timeout_s, batch_timeout_s
        self._target = target
        self._size = workers
        self._memory_bytes = memory_bytes
        self._cache: OrderedDict[tuple[Any, ...], tuple[Result, float]] = OrderedDict()  # result, expiry time
        self._cache_size = cache_size
        self._workers: list[Worker] = []  # never replaced: the finaliser holds this list
        # Linux kills a worker when the *thread* that started it ends, so one thread of the pool starts all workers.
        self._starter: ThreadPoolExecutor | None = None
        self._owner = os.getpid()
        self._failed_starts = 0
        self._lock = threading.Lock()
        weakref.finalize(self, _kill_all, self._workers)

    def run(self, items: Sequence[tuple[Any, ...]]) -> list[Result]:
        """The result of each item, in order; with a cache, equal items are computed once."""
        with self._lock:
            self._leave_to_parent()
            try:
                return self._run_cached(items) if self._cache_size else self._run(items)
            except BaseException:  # also Ctrl-C: a busy worker's answer would mix with the next batch
                _kill_all(self._workers)
                raise

    def close(self) -> None:
        """Stop all workers; the pool starts new ones when it is used again."""
        with self._lock:
            self._leave_to_parent()
            _kill_all(self._workers)
            if self._starter:
                self._starter.shutdown()
            self._starter = None

    def _leave_to_parent(self) -> None:
        """After a fork, leave the workers and their pipes to the parent; this process starts its own."""
        if self._owner != os.getpid():
            self._workers.clear()
            self._starter, self._owner = None, os.getpid()

    def _start_worker(self) -> None:
        if self._starter is None:
            self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="worker-starter")
        self._workers.append(self._starter.submit(Worker, self._target, self._memory_bytes).result())

    def _run_cached(self, items: Sequence[tuple[Any, ...]]) -> list[Result]:
        now = time.monotonic()
        unique = dict.fromkeys(items)
        known = {item: self._cache[item][0] for item in unique if item in self._cache and self._cache[item][1] > now}
        todo = [item for item in unique if item not in known]
        fresh = dict(zip(todo, self._run(todo), strict=True))
        self._remember(known | fresh)
        asked: set[tuple[Any, ...]] = set()
        results = []
        for item in items:
            first = item in fresh and item not in asked
            asked.add(item)
            results.append(fresh[item] if first else replace((fresh | known)[item], cached=True, seconds=0.0))
        return results

    def _remember(self, results: dict[tuple[Any, ...], Result]) -> None:
        now = time.monotonic()
        for item, result in results.items():
            if result.status == "error":
                continue
            until = now + RETRY_AFTER_SECONDS if result.status == "timeout" else float("inf")
            old = self._cache.get(item)
            self._cache[item] = (result, min(until, old[1]) if old and old[1] > now else until)
            self._cache.move_to_end(item)
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)

    def _run(self, items: Sequence[tuple[Any, ...]]) -> list[Result]:
        """Keep every worker busy until all items have a result."""
        batch = _Batch(items, self.batch_timeout_s)
        for worker in [worker for worker in self._workers if worker.process.poll() is not None]:
            self._discard(worker)  # it was killed from outside since the last batch
        while len(batch.results) < len(items):
            if time.monotonic() > batch.deadline:
                self._give_up(batch)
                break
            while len(self._workers) < min(self._size, len(items) - len(batch.results)):
                self._start_worker()
            for worker in list(self._workers):
                if worker.ready and worker.item is None and batch.waiting:
                    number = batch.waiting.popleft()
                    if not worker.give(number, items[number], self.timeout_s):
                        batch.waiting.appendleft(number)  # the worker died before it saw this item
                        self._discard(worker)
                        self._start_failed(f"ready, then status {worker.process.returncode}")
            self._collect(batch)
        return [batch.results[number] for number in range(len(items))]

    def _give_up(self, batch: _Batch) -> None:
        """Stop the running items and time out all unfinished ones: the batch has reached its time limit."""
        for worker in self._workers:
            if worker.item is not None:
                self._late(worker, batch)
        message = f"the batch took longer than {self.batch_timeout_s} s"
        for number in range(len(batch.items)):
            batch.results.setdefault(number, Result(None, "timeout", message))

    def _collect(self, batch: _Batch) -> None:
        """Wait for the next message or deadline; replace workers that are late or dead."""
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                if worker.item is not None or not worker.ready:
                    selector.register(worker.output, selectors.EVENT_READ, worker)
            busy: list[Worker] = [key.data for key in selector.get_map().values()]
            if not busy:
                return
            soonest = min(batch.deadline, *(worker.deadline for worker in busy))
            answered = [key.data for key, _ in selector.select(max(0.0, soonest - time.monotonic()))]
        for worker in answered:
            self._answer(worker, batch)
        for worker in busy:
            if worker not in answered and time.monotonic() > worker.deadline:
                self._late(worker, batch)

    def _answer(self, worker: Worker, batch: _Batch) -> None:
        try:
            message = worker.receive()
        except EOFError:
            self._died(worker, batch)
            return
        if message is None:
            return
        if "failed" in message:
            raise RuntimeError(f"a worker can't use {self._target.path}: {message['failed']}")
        if "ready" in message:
            if worker.item is None:
                worker.ready = True
            else:  # the item killed the child, and the process forked another
                self._died(worker, batch)
            return
        if worker.item is None:  # the answer arrived just after the time-out
            return
        self._failed_starts = 0
        seconds = time.monotonic() - worker.started
        if "error" in message:
            batch.results[worker.item] = Result(None, "error", str(message["error"]), seconds)
        else:
            batch.results[worker.item] = Result(message["value"], seconds=seconds)
        worker.item = None
        if message.get("leaving"):
            worker.await_child()

    def _late(self, worker: Worker, batch: _Batch) -> None:
        number = worker.item
        if not (number is not None and worker.revive()):
            self._discard(worker)
        if number is None:
            self._start_failed("not ready in time")
        else:
            seconds = time.monotonic() - worker.started
            batch.results[number] = Result(None, "timeout", f"no result within {self.timeout_s} s", seconds)

    def _died(self, worker: Worker, batch: _Batch) -> None:
        """Retry the worker's item once, since the worker may have died of something else."""
        self._discard(worker)
        if worker.item is None:
            self._start_failed(f"status {worker.process.returncode}")
        elif worker.item in batch.retried:
            batch.results[worker.item] = Result(
                None, "error", "its worker died twice", time.monotonic() - worker.started
            )
        else:
            batch.retried.add(worker.item)
            batch.waiting.appendleft(worker.item)

    def _start_failed(self, reason: str) -> None:
        self._failed_starts += 1
        if self._failed_starts >= MAX_FAILED_STARTS:
            self._failed_starts = 0
            raise RuntimeError(
                f"{MAX_FAILED_STARTS} workers in a row did not start ({reason}); run "
                f"`python -m rewards.process.main {self._memory_bytes} $$ {self._target.path} '{{}}'` to see why"
            )

    def _discard(self, worker: Worker) -> None:
        worker.kill()
        self._workers.remove(worker)


def _kill_all(workers: list[Worker]) -> None:
    for worker in workers:
        worker.kill()
    workers.clear()
