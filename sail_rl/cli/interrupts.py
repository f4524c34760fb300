"""Ctrl-C and SIGTERM end a command with two lines, which say what is saved and how to go on, and without orphans."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

ENDINGS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
"""The signals, and what the first line calls them."""
GRACE = 15.0
"""Seconds that a command has for ending its engines and processes; clusters kill after about 30."""
Explain = Callable[[], tuple[str, str]]
"""Returns what is saved, and how to go on."""
NOTHING = ("nothing was saved", "the same command starts again")


class Interrupted(KeyboardInterrupt):
    """One of ENDINGS has arrived. It is raised where the main thread is, like Python's own KeyboardInterrupt."""


class Interrupts:
    """The handling of signals while one command runs; see `watch`.

    A second signal ends the process at once. So does the first one after GRACE seconds, because the main thread may
    be inside a library that swallows exceptions, or waits for other ranks without returning to Python.
    """

    def __init__(self) -> None:
        self.explain: Explain = lambda: NOTHING
        self.received: signal.Signals | None = None
        self._once = threading.Lock()

    def watch(self) -> None:
        """Handle the signals of this process from now on. A signal that is ignored (`nohup`, background jobs) stays so.

        Only the main thread can do this.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        signal.set_wakeup_fd(ours.fileno(), warn_on_full_buffer=False)
        for number in ENDINGS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._raise)
        os.register_at_fork(after_in_child=_forget_signals)
        threading.Thread(target=self._listen, args=(theirs, ours), name="interrupts", daemon=True).start()

    def end(self) -> NoReturn:
        """Print the two lines (rank 0 of a job), end all child processes and this one."""
        assert self.received is not None
        if self._once.acquire(blocking=False):
            if os.environ.get("RANK", "0") == "0":
                try:
                    saved, how = self.explain()
                except (OSError, ValueError):  # a file is being replaced
                    saved, how = NOTHING
                sys.stderr.write(f"sail-rl: {ENDINGS[self.received]}: {saved}\nsail-rl: {how}\n")
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            for child in multiprocessing.active_children():
                child.kill()
            os._exit(128 + self.received)
        threading.Event().wait()  # the other thread ends the process
        raise AssertionError

    def _raise(self, number: int, _frame: object) -> None:
        """Interrupt the main thread, the first time only."""
        if self.received is None:
            self._note(number)
            raise Interrupted

    def _listen(self, theirs: socket.socket, _ours: socket.socket) -> None:
        """Count signals, also while the main thread doesn't return to Python."""
        while (number := theirs.recv(1)[0]) not in ENDINGS:
            pass
        theirs.settimeout(GRACE)
        try:
            while theirs.recv(1)[0] not in ENDINGS:
                pass
        except TimeoutError:
            pass
        if self.received is None:
            self._note(number)
        self.end()

    def _note(self, number: int) -> None:
        """Remember the signal; silence what other threads and libraries say about their end."""
        self.received = signal.Signals(number)
        logging.disable(logging.CRITICAL)
        threading.excepthook = lambda _: None
        sys.unraisablehook = lambda _: None


def _forget_signals() -> None:
    """Let a forked child end by its own signals, and not report them to its parent."""
    signal.set_wakeup_fd(-1)
    for number in ENDINGS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
