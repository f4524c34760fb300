"""Decodes many pictures in parallel, in processes that may die, and remembers those that could be decoded."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from .decoded import DecodedBefore
from .decoder import SIZE, Medium
from .images import BrokenPictureError, name_of

T = TypeVar("T")
MAX_PROCESSES = 16
AHEAD = 4  # media that wait for each process; those from Parquet are in memory meanwhile
PACKAGE = Path(__file__).resolve().parents[2]


def decoded(media: Iterable[tuple[T, Medium]]) -> Iterator[tuple[T, str | None]]:
    """Each label with None, or with what is wrong with its picture or video. The order is kept.

    Each process takes at most 8 GiB, and 60 seconds for a picture, 600 for a video. A picture whose bytes were decoded
    before, in any run, isn't decoded again.
    """
    with _Decoders(min(len(os.sched_getaffinity(0)), MAX_PROCESSES)) as decoders:
        waiting: deque[tuple[T, Future[str | None]]] = deque()
        for label, medium in media:
            waiting.append((label, decoders.submit(medium)))
            if len(waiting) > AHEAD * decoders.count:
                first, answer = waiting.popleft()
                yield first, answer.result()
        for label, answer in waiting:
            yield label, answer.result()


class _Decoders:
    """Threads that hash pictures, each with a process that decodes those that are new."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._known = DecodedBefore()
        self._own = threading.local()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="decoder")
        self._closed = False

    def __enter__(self) -> _Decoders:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        for process in self._processes:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.communicate()
        self._known.close()

    def submit(self, medium: Medium) -> Future[str | None]:
        """Decode one picture or video."""
        return self._threads.submit(self._check, medium)

    def _check(self, medium: Medium) -> str | None:
        try:
            key = self._known.key(medium)
        except BrokenPictureError as error:
            return str(error)
        if key in self._known:
            return None
        wrong = self._decode(medium)
        if wrong is None:
            self._known.add(key)
        return wrong

    def _decode(self, medium: Medium) -> str | None:
        process: subprocess.Popen[bytes] | None = getattr(self._own, "process", None)
        if process is None or process.poll() is not None:
            process = self._own.process = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        payload = pickle.dumps(medium)
        try:
            process.stdin.write(SIZE.pack(len(payload)) + payload)
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = b""
        if answer:
            return json.loads(answer)
        status = process.wait()
        if status == -signal.SIGALRM:
            return f"{name_of(medium.source)} takes longer than {medium.seconds} seconds to decode"
        return f"{name_of(medium.source)} ends its decoder ({_status(status)})"

    def _start(self) -> subprocess.Popen[bytes]:
        path = os.pathsep.join([str(PACKAGE), *filter(None, [os.environ.get("PYTHONPATH")])])
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "sail_rl.data.decoder"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        self._processes.append(process)
        if self._closed:  # while this thread waited for the process before
            process.kill()
        return process


def _status(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"status {status}"
