"""One worker process as the pool sees it: its pipes, what it is doing, and how to stop it."""

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

STARTUP_SECONDS = 60.0  # importing sympy on a busy machine; not counted towards an item's limit
REVIVAL_SECONDS = 10.0  # forking a child again
THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Target:
    """What a worker calls for each item: `module:function` or `file.py:function`, or a class made with `kwargs`."""

    path: str
    kwargs: dict[str, Any] = field(default_factory=dict)


class Worker:
    """A process that answers one item at a time. `item` is the number of the one it has; `deadline` is monotonic."""

    def __init__(self, target: Target, memory_bytes: int) -> None:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        arguments = [str(memory_bytes), str(os.getpid()), target.path, json.dumps(target.kwargs)]
        self.process = subprocess.Popen(
            # -P: a folder named `rewards` where the user happens to stand must not be taken for this package.
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
        self.item: int | None = None
        self.started = time.monotonic()
        self.deadline = self.started + STARTUP_SECONDS
        self._buffer = b""

    def give(self, number: int, arguments: tuple[Any, ...], timeout_s: float) -> bool:
        """Send one item; False when the process is gone, or doesn't read it within its time."""
        self.item, self.started = number, time.monotonic()
        self.deadline = self.started + timeout_s
        payload = pickle.dumps(arguments)
        data = memoryview(len(payload).to_bytes(HEADER, "big") + payload)
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
        """The next message if it is complete; EOFError when the process is gone, or garbled what it wrote."""
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
        """Kill the child that has the item; the process forks another and says so. False: it must be replaced."""
        unread = int.from_bytes(fcntl.ioctl(self.input, termios.FIONREAD, bytes(4)), sys.byteorder)
        if unread or self._buffer or self.process.poll() is not None:
            return False
        self.process.send_signal(signal.SIGUSR1)
        self.rest()
        return True

    def rest(self) -> None:
        """Expect the next child."""
        self.ready, self.item = False, None
        self.deadline = time.monotonic() + REVIVAL_SECONDS

    def kill(self) -> None:
        """End the process and its child, whatever they are doing, and reap it."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):  # what was still to be written has no reader any more
                pipe.close()
