"""VerificationPool: worker processes that can be killed, so that no answer costs more than its time limit.

Threads and signal handlers can't stop sympy in the middle of `9^{9^{9^{9}}}`; only killing its process does.
"""

from __future__ import annotations

import json
import logging
import os
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

logger = logging.getLogger(__name__)

GIBIBYTE = 1024**3
STARTUP_SECONDS = 60.0  # importing sympy on a busy machine; not counted towards an item's limit
MAX_FAILED_STARTS = 3  # in a row, before the pool gives up
THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
Status = Literal["ok", "timeout", "error"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome for one pair: `equal` is False unless `status` is "ok"; `message` says what went wrong."""

    equal: bool
    status: Status = "ok"
    message: str = ""


class _Worker:
    """One process and its pipe."""

    def __init__(self, memory_bytes: int) -> None:
        root = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            # -P: a folder named `rewards` where the user happens to stand must not be taken for this package.
            [sys.executable, "-P", "-m", "rewards.worker", str(memory_bytes), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path, **dict.fromkeys(THREAD_LIMITS, "1")},
        )
        self.ready = False
        self.item: int | None = None
        self.deadline = time.monotonic() + STARTUP_SECONDS
        self._buffer = b""

    def give(self, number: int, pair: tuple[str, str], timeout_s: float) -> bool:
        """Send one pair; False when the process is gone."""
        assert self.process.stdin is not None
        self.item, self.deadline = number, time.monotonic() + timeout_s
        try:
            self.process.stdin.write(json.dumps(pair).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return False
        return True

    def receive(self) -> dict[str, object] | None:
        """The next message if it is complete; EOFError when the process is gone."""
        assert self.process.stdout is not None
        chunk = os.read(self.process.stdout.fileno(), 65536)
        if not chunk:
            raise EOFError
        self._buffer += chunk
        line, newline, rest = self._buffer.partition(b"\n")
        if not newline:
            return None
        self._buffer = rest
        return json.loads(line)

    def kill(self) -> None:
        """End the process, whatever it is doing, and reap it."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # what was still to be written has no reader any more
                pipe.close()


class _Batch:
    """What is known of the pairs of one call: those waiting, those tried again, and the verdicts by number."""

    def __init__(self, pairs: Sequence[tuple[str, str]]) -> None:
        self.waiting = deque(range(len(pairs)))
        self.retried: set[int] = set()
        self.verdicts: dict[int, Verdict] = {}


class VerificationPool:
    """Compares (gold, answer) pairs in killable processes; safe to call from any thread, one batch at a time.

    Args:
        workers: processes, started with the first pair and kept.
        timeout_s: seconds that one pair may take.
        memory_bytes: address space of a worker (an idle one takes 0.06 GiB); one that needs more fails its pair.
        cache_size: verdicts remembered (those with status "ok" or "timeout"); the least recently asked for go first.

    Workers end with `close`, when the pool is collected, at exit, and when this process is killed.
    """

    def __init__(
        self, *, workers: int = 2, timeout_s: float = 2.0, memory_bytes: int = 2 * GIBIBYTE, cache_size: int = 100_000
    ) -> None:
        if timeout_s <= 0 or workers < 1:
            raise ValueError(f"timeout_s is {timeout_s} and workers {workers}: both must be above 0")
        self.timeout_s = timeout_s
        self._size = workers
        self._memory_bytes = memory_bytes
        self._cache: OrderedDict[tuple[str, str], Verdict] = OrderedDict()
        self._cache_size = cache_size
        self._workers: list[_Worker] = []  # one list for life: the finaliser holds it
        # Linux kills a worker when the *thread* that started it ends, so one thread of the pool's own starts them all.
        self._starter: ThreadPoolExecutor | None = None
        self._owner = os.getpid()
        self._failed_starts = 0
        self._lock = threading.Lock()
        weakref.finalize(self, _kill_all, self._workers)

    def verify(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """Return a verdict for each pair, in order; equal pairs are verified once."""
        with self._lock:
            self._leave_to_parent()
            unique = list(dict.fromkeys(pairs))
            verdicts = {pair: self._cache[pair] for pair in unique if pair in self._cache}
            todo = [pair for pair in unique if pair not in verdicts]
            try:
                verdicts |= zip(todo, self._run(todo), strict=True)
            except BaseException:  # Ctrl-C too: a worker that is still busy would answer the next batch's pairs
                _kill_all(self._workers)
                raise
            self._remember(verdicts)
        return [verdicts[pair] for pair in pairs]

    def close(self) -> None:
        """End all workers. The pool starts new ones if it is used again."""
        with self._lock:
            self._leave_to_parent()
            _kill_all(self._workers)
            if self._starter:
                self._starter.shutdown()
            self._starter = None

    def __enter__(self) -> VerificationPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _leave_to_parent(self) -> None:
        """In a forked child: the workers and their pipes are the parent's; the child starts its own."""
        if self._owner != os.getpid():
            self._workers.clear()
            self._starter, self._owner = None, os.getpid()

    def _start_worker(self) -> None:
        if self._starter is None:
            self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="verification-starter")
        self._workers.append(self._starter.submit(_Worker, self._memory_bytes).result())

    def _remember(self, verdicts: dict[tuple[str, str], Verdict]) -> None:
        for pair, verdict in verdicts.items():
            if verdict.status != "error":
                self._cache[pair] = verdict
                self._cache.move_to_end(pair)
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)

    def _run(self, pairs: list[tuple[str, str]]) -> list[Verdict]:
        """Keep every worker busy until all pairs have a verdict."""
        batch = _Batch(pairs)
        for worker in [worker for worker in self._workers if worker.process.poll() is not None]:
            self._discard(worker)  # killed from outside since the last batch
        while len(batch.verdicts) < len(pairs):
            needed = min(self._size, len(pairs) - len(batch.verdicts))
            while len(self._workers) < needed:
                self._start_worker()
            for worker in list(self._workers):
                if worker.ready and worker.item is None and batch.waiting:
                    number = batch.waiting.popleft()
                    if not worker.give(number, pairs[number], self.timeout_s):
                        batch.waiting.appendleft(number)  # it died before it saw this pair
                        self._discard(worker)
                        self._start_failed(f"ready, then status {worker.process.returncode}")
            self._collect(batch)
        return [batch.verdicts[number] for number in range(len(pairs))]

    def _collect(self, batch: _Batch) -> None:
        """Wait for the next message or deadline; replace what is late or dead."""
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                assert worker.process.stdout is not None
                if worker.item is not None or not worker.ready:
                    selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
            busy: list[_Worker] = [key.data for key in selector.get_map().values()]
            if not busy:
                return
            soonest = min(worker.deadline for worker in busy)
            answered = [key.data for key, _ in selector.select(max(0.0, soonest - time.monotonic()))]
        for worker in answered:
            self._answer(worker, batch)
        for worker in busy:
            if worker not in answered and time.monotonic() > worker.deadline:
                self._late(worker, batch)

    def _answer(self, worker: _Worker, batch: _Batch) -> None:
        try:
            message = worker.receive()
        except EOFError:
            self._died(worker, batch)
            return
        if message is None:
            return
        if not worker.ready:
            worker.ready = True
            return
        assert worker.item is not None
        self._failed_starts = 0
        if "error" in message:
            batch.verdicts[worker.item] = Verdict(False, "error", str(message["error"]))
        else:
            batch.verdicts[worker.item] = Verdict(bool(message["equal"]))
        worker.item = None

    def _late(self, worker: _Worker, batch: _Batch) -> None:
        self._discard(worker)
        if worker.item is None:
            self._start_failed(f"not ready after {STARTUP_SECONDS:.0f} s")
        else:
            batch.verdicts[worker.item] = Verdict(False, "timeout", f"no verdict within {self.timeout_s} s")

    def _died(self, worker: _Worker, batch: _Batch) -> None:
        """Try its pair once more: the pair may be what killed it, or it may have died of something else."""
        self._discard(worker)
        if worker.item is None:
            self._start_failed(f"status {worker.process.returncode}")
        elif worker.item in batch.retried:
            status = worker.process.returncode
            batch.verdicts[worker.item] = Verdict(False, "error", f"worker died twice (status {status})")
        else:
            batch.retried.add(worker.item)
            batch.waiting.appendleft(worker.item)

    def _start_failed(self, reason: str) -> None:
        self._failed_starts += 1
        if self._failed_starts >= MAX_FAILED_STARTS:
            self._failed_starts = 0
            raise RuntimeError(
                f"{MAX_FAILED_STARTS} verification workers in a row did not start ({reason}); run "
                f"`python -m rewards.worker {self._memory_bytes} $$` to see why"
            )

    def _discard(self, worker: _Worker) -> None:
        worker.kill()
        self._workers.remove(worker)


def _kill_all(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.kill()
    workers.clear()
