"""The verification process: reads (gold, answer) pairs as JSON lines, answers whether they are equal.

It never limits its own time: the parent kills it (a signal handler doesn't interrupt sympy's big-integer arithmetic).
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from typing import TextIO

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Serve until standard input closes; `python -m rewards.worker MEMORY_BYTES PARENT_PID`."""
    memory_bytes, parent = int(sys.argv[1]), int(sys.argv[2])
    _die_with_parent(parent)
    # What libraries print must not mix with the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    from rewards.equality import symbolic_equal  # slow: imports sympy

    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    symbolic_equal("x", "x+0")  # the first call builds grammars; that must not count towards an item's limit
    _send(answers, {"ready": True})
    for line in sys.stdin:
        gold, answer = json.loads(line)
        try:
            _send(answers, {"equal": symbolic_equal(gold, answer)})
        except Exception as error:  # becomes the item's own error: the parent counts and logs it
            _send(answers, {"error": f"{type(error).__name__}: {error}"[:500]})


def _send(stream: TextIO, message: dict[str, object]) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()


def _die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies, however it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)


if __name__ == "__main__":
    main()
