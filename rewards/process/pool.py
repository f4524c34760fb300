"""A pool of killable worker processes, so that no call exceeds its time limit.

Threads and signal handlers can't stop sympy in the middle of `9^{9^{9^{9}}}`; only killing its process can.
"""

from __future__ import annotations

import os
import pickle
import selectors
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from .batch import Batch
from .cache import Result, ResultCache
from .handle import Target, Worker

GIBIBYTE = 1024**3
MAX_FAILED_STARTS = 3  # in a row, before the pool gives up


class WorkerPool:
    """Calls one function in killable processes; safe to use from any thread, one batch at a time.

    Args:
        target: the callable that gets each item's arguments.
        workers: the number of processes, which start with the first item and stay alive.
        timeout_s: the time limit for one item in seconds.
        batch_timeout_s: the time limit for a batch in seconds; unfinished items then time out.
        memory_bytes: the address space of a worker (0.06 GiB when idle); an item that needs more fails.
        cache_size: the number of results in its cache; see `ResultCache`.

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
        self.lock = threading.RLock()
        """Held during a batch. A caller holds it over several batches that share a time limit."""
        self._target = target
        self._size = workers
        self._memory_bytes = memory_bytes
        self._cache = ResultCache(cache_size)
        self._workers: list[Worker] = []  # never replaced: the finaliser holds this list
        # Linux kills a worker when the *thread* that started it ends, so one thread of the pool starts all workers.
        self._starter: ThreadPoolExecutor | None = None
        self._owner = os.getpid()
        self._failed_starts = 0
        weakref.finalize(self, _kill_all, self._workers)

    def run(
        self,
        items: Sequence[tuple[Any, ...]],
        *,
        timeout_s: float | None = None,
        batch_timeout_s: float | None = None,
        together: int = 1,
    ) -> list[Result]:
        """The result of each item, in order; equal items are computed once.

        Args:
            items: the arguments of each call; they are pickled.
            timeout_s: the time limit for one item, if it isn't the pool's.
            batch_timeout_s: the time limit for this batch, if it isn't the pool's.
            together: the most items of a job; quick items share the cost of a message. A job that is slow or kills its
                worker is split, and its items are tried alone, each under its own limit.
        """
        limit = self.timeout_s if timeout_s is None else timeout_s
        payloads = [pickle.dumps(item) for item in items]
        with self.lock:
            self._leave_to_parent()
            unique = dict.fromkeys(payloads)
            known = {payload: result for payload in unique if (result := self._cache.get(payload, limit))}
            batch = Batch(
                [payload for payload in unique if payload not in known],
                timeout_s=limit,
                batch_timeout_s=self.batch_timeout_s if batch_timeout_s is None else batch_timeout_s,
                together=together,
                workers=self._size,
            )
            try:
                self._run(batch)
            except BaseException:  # also Ctrl-C: a busy worker's answer would mix with the next batch
                _kill_all(self._workers)
                raise
            fresh = {payload: batch.results[number] for number, payload in enumerate(batch.payloads)}
            for payload, result in fresh.items():
                self._cache.put(payload, result, limit)
        results = []
        for payload in payloads:
            if payload in fresh:
                known[payload] = fresh.pop(payload)
                results.append(known[payload])
            else:
                results.append(replace(known[payload], cached=True, seconds=0.0))
        return results

    def close(self) -> None:
        """Stop all workers; the pool starts new ones when it is used again."""
        with self.lock:
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

    def _run(self, batch: Batch) -> None:
        """Keep every worker busy until all items have a result."""
        for worker in [worker for worker in self._workers if worker.process.poll() is not None]:
            self._discard(worker)  # it was killed from outside since the last batch
        while len(batch.results) < len(batch.payloads):
            if time.monotonic() > batch.deadline:
                self._give_up(batch)
                break
            jobs = len(batch.waiting) + sum(worker.job is not None for worker in self._workers)
            while len(self._workers) < min(self._size, jobs):
                self._start_worker()
            for worker in list(self._workers):
                if worker.ready and worker.job is None and batch.waiting and not batch.give(worker):
                    self._discard(worker)  # it died before it saw the job
                    self._start_failed(f"ready, then status {worker.process.returncode}")
            self._collect(batch)

    def _give_up(self, batch: Batch) -> None:
        """Stop the running jobs and time out all unfinished items: the batch has reached its time limit."""
        for worker in list(self._workers):
            if worker.job is not None and not worker.revive():
                self._discard(worker)
        batch.give_up()

    def _collect(self, batch: Batch) -> None:
        """Wait for the next message or deadline; replace workers that are late or dead."""
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                if worker.job is not None or not worker.ready:
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

    def _answer(self, worker: Worker, batch: Batch) -> None:
        try:
            message = worker.receive()
        except EOFError:
            self._discard(worker)
            self._died(worker, batch)
            return
        if message is None:
            return
        if "failed" in message:
            raise RuntimeError(f"a worker can't use {self._target.path}: {message['failed']}")
        if "ready" in message:
            if worker.job is not None:  # the job killed the child, and the process forked another
                if not worker.in_step():
                    self._discard(worker)
                self._died(worker, batch)
            worker.ready = True
            return
        if worker.job is None or message["serial"] != worker.serial:  # the answer arrived just after the time-out
            return
        self._failed_starts = 0
        batch.take(worker.job, message["results"])
        worker.job = None
        if message.get("leaving"):
            worker.await_child()

    def _late(self, worker: Worker, batch: Batch) -> None:
        job = worker.job
        if job is None or not worker.revive():
            self._discard(worker)
        if job is None:
            self._start_failed("not ready in time")
        else:
            batch.late(job, time.monotonic() - worker.started)

    def _died(self, worker: Worker, batch: Batch) -> None:
        job, worker.job = worker.job, None
        if job is None:
            self._start_failed(f"status {worker.process.returncode}")
        else:
            batch.died(job, time.monotonic() - worker.started)

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
