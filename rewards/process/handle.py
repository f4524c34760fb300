"""The pool's handle of one worker process: its pipes, its current item, and how to stop it."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import select
import signal
import subprocess
import sys
import termios
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .main import HEADER

STARTUP_SECONDS = 60.0  # importing sympy on a busy machine; doesn't count towards an item's time limit
REVIVAL_SECONDS = 10.0  # forking a new child
THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Target:
    """The callable of a worker: `module:function`, `file.py:function`, or a class to instantiate with `kwargs`."""

    path: str
    kwargs: dict[str, Any] = field(default_factory=dict)


class Worker:
    """A process that computes one job at a time: `job` holds its items' numbers; `deadline` is monotonic time."""

    def __init__(self, target: Target, memory_bytes: int) -> None:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        arguments = [str(memory_bytes), str(os.getpid()), target.path, json.dumps(target.kwargs)]
        self.process = subprocess.Popen(
            # -P: a folder named `rewards` in the current directory must not shadow this package.
            [sys.executable, "-P", "-m", "rewards.process.main", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path, **dict.fromkeys(THREAD_LIMITS, "1")},
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.input, self.output = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self.input, False)
        self.ready = False
        self.job: tuple[int, ...] | None = None
        self.serial = 0  # of the job; its answer has the same
        self.started = time.monotonic()
        self.deadline = self.started + STARTUP_SECONDS
        self._buffer = b""

    def give(self, job: tuple[int, ...], payloads: list[bytes], timeout_s: float) -> bool:
        """Send the pickled items of a job; False if the process has ended, or doesn't read them within `timeout_s`."""
        self.job, self.started = job, time.monotonic()
        self.deadline = self.started + timeout_s
        self.serial += 1
        payload = pickle.dumps(payloads)
        data = memoryview(HEADER.pack(self.serial, len(payload)) + payload)
        while data:
            if not select.select([], [self.input], [], max(0.0, self.deadline - time.monotonic()))[1]:
                return False
            try:
                data = data[os.write(self.input, data) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                return False
        return True

    def receive(self) -> dict[str, Any] | None:
        """The next message, or None if it isn't complete; EOFError if the process has ended or sent garbage."""
        chunk = os.read(self.output, 65536)
        if not chunk:
            raise EOFError
        self._buffer += chunk
        line, newline, rest = self._buffer.partition(b"\n")
        if not newline:
            return None
        self._buffer = rest
        try:
            return json.loads(line)
        except ValueError:
            raise EOFError from None

    def revive(self) -> bool:
        """Kill the child that computes the job, and let the process fork another; False if it must be replaced."""
        if not self.in_step():
            return False
        self.process.send_signal(signal.SIGUSR1)
        self.await_child()
        return True

    def in_step(self) -> bool:
        """Whether the process lives, and neither side has half a message, so that another child can go on."""
        unread = int.from_bytes(fcntl.ioctl(self.input, termios.FIONREAD, bytes(4)), sys.byteorder)
        return not unread and not self._buffer and self.process.poll() is None

    def await_child(self) -> None:
        """Forget the job and wait until the process has forked its next child."""
        self.ready, self.job = False, None
        self.deadline = time.monotonic() + REVIVAL_SECONDS

    def kill(self) -> None:
        """Kill the process and its child, and reap the process."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # unsent data has no reader any more
                pipe.close()
