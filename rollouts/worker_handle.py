"""The engine's handle of one worker process: it starts the process, talks to it over a pipe, and ends it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from torch import multiprocessing

from .worker_main import Done, Failed, Group, Message, serve

SPAWN = multiprocessing.get_context("spawn")


class WorkerHandle:
    """One worker process and the trainer's end of its pipe.

    Args:
        model_dir: checkpoint with config, tokenizer and processor.
        options: keyword arguments of the worker's `VLLMEngine`.
        environment: variables that are set in the process before it imports torch.
    """

    def __init__(self, model_dir: Path, options: dict[str, Any], environment: dict[str, str]) -> None:
        self.connection: Connection
        self.connection, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=serve, args=(theirs, os.getpid(), model_dir, options), daemon=True)
        with _environment(environment):
            self.process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """The process id."""
        assert self.process.pid is not None
        return self.process.pid

    def send(self, message: Message) -> None:
        """Send a message; raises OSError if the process is gone."""
        self.connection.send(message)

    def receive(self) -> Done | Failed | Group:
        """The worker's next answer; `Failed` if the process died or its answer can't be read."""
        try:
            answer = self.connection.recv()
        except (EOFError, ConnectionError):
            return Failed("it died")
        except Exception as error:
            return Failed(f"its answer can't be read: {error!r}")
        return answer if isinstance(answer, Done | Failed | Group) else Failed(f"it answered {answer!r}")

    def end(self) -> None:
        """Close the pipe, which ends an idle worker; kill a worker that is busy or stuck."""
        self.connection.close()
        self.process.join(timeout=1)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(timeout=10)


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
