"""The worker process: imports its target once, then forks a child that computes jobs, and a new one after a kill.

A job is a serial number and pickled items; its answer is one line of JSON with the same number.

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
import struct
import sys
import time
from numbers import Real
from typing import Any, NoReturn

from sail_rl.imports import described, resolve

PR_SET_PDEATHSIG = 1  # linux/prctl.h
HEADER = struct.Struct("!QQ")  # a job's serial number, and its size in bytes


def main() -> None:
    """Serve jobs until stdin closes: `python -m rewards.process.main MEMORY_BYTES PARENT_PID TARGET KWARGS`."""
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
        _send(answers, {"failed": described(error)[:2000]})
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
    """Compute jobs until the pool closes the pipe; exit after a MemoryError, so that a fresh child takes over."""
    while header := _read(HEADER.size):
        serial, size = HEADER.unpack(header)
        start = time.perf_counter()
        try:
            payloads = pickle.loads(_read(size))
            results, leaving = [_computed(target, payload) for payload in payloads], False
        except MemoryError:  # the pool tries the items of a longer job alone
            error = "MemoryError: above the worker's memory limit"
            results, leaving = [{"error": error, "seconds": time.perf_counter() - start}], True
        _send(answers, {"serial": serial, "results": results, "leaving": leaving})
        if leaving:
            os._exit(1)
    os._exit(0)


def _computed(target: Any, payload: bytes) -> dict[str, Any]:
    """The result of one item as JSON values."""
    start = time.perf_counter()
    try:
        value = target(*pickle.loads(payload))
        result = {"value": value if isinstance(value, bool) or not isinstance(value, Real) else float(value)}
        json.dumps(result)
    except MemoryError:
        raise
    except Exception as error:  # becomes the item's result; the pool's caller counts and shows it
        result = {"error": described(error)[:1000]}
    return result | {"seconds": time.perf_counter() - start}


def _read(size: int) -> bytes:
    """Exactly `size` bytes of standard input, since the next child continues from there; b"" at its end."""
    data = bytearray()
    while len(data) < size:
        chunk = os.read(0, size - len(data))
        if not chunk:
            return b""
        data += chunk
    return bytes(data)


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
