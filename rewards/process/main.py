"""The worker process: imports its target once, then forks a child that computes items, and a new one after a kill.

The pool enforces the time limits, because no signal handler can interrupt sympy's big-integer arithmetic. A forked
child has everything imported already, so replacing it takes milliseconds.
"""

from __future__ import annotations

import ctypes
import inspect
import json
import os
import pickle
import resource
import signal
import sys
from numbers import Real
from typing import Any, NoReturn

from sail_rl.imports import resolve

PR_SET_PDEATHSIG = 1  # linux/prctl.h
HEADER = 8  # bytes that hold an item's length


def main() -> None:
    """Serve items until stdin closes: `python -m rewards.process.main MEMORY_BYTES PARENT_PID TARGET KWARGS`."""
    memory_bytes, parent = int(sys.argv[1]), int(sys.argv[2])
    _die_with_parent(parent)
    # Output of libraries must not mix with the answers.
    answers = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    try:
        target = resolve(sys.argv[3])
        if inspect.isclass(target):
            target = target(**json.loads(sys.argv[4]))
    except BaseException as error:
        _send(answers, {"failed": f"{type(error).__name__}: {error}"[:2000]})
        raise
    child = 0

    def kill_child(*_: object) -> None:
        if child:
            os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGUSR1, kill_child)
    while True:
        keeper = os.getpid()
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
            _die_with_parent(keeper)
            _serve(target, answers)
        _send(answers, {"ready": True})
        _, status = os.waitpid(child, 0)
        child = 0
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            return


def _serve(target: Any, answers: int) -> NoReturn:
    """Compute items until the pool closes the pipe; exit after a MemoryError, so that a fresh child takes over."""
    while header := _read(HEADER):
        message: dict[str, Any]
        try:
            value = target(*pickle.loads(_read(int.from_bytes(header, "big"))))
            message = {"value": value if isinstance(value, bool) or not isinstance(value, Real) else float(value)}
            json.dumps(message)
        except MemoryError:
            _send(answers, {"error": "MemoryError: above the worker's memory limit", "leaving": True})
            os._exit(1)
        except Exception as error:  # becomes the item's result; the pool's caller counts and shows it
            message = {"error": f"{type(error).__name__}: {error}"[:1000]}
        _send(answers, message)
    os._exit(0)


def _read(size: int) -> bytes:
    """Exactly `size` bytes of standard input, since the next child continues from there; b"" at its end."""
    data = b""
    while len(data) < size:
        chunk = os.read(0, size - len(data))
        if not chunk:
            return b""
        data += chunk
    return data


def _send(answers: int, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    while data:
        data = data[os.write(answers, data) :]


def _die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent died before the line above
        os._exit(1)


if __name__ == "__main__":
    main()
