"""Python commands in processes of their own, forked from a server that has imported the libraries.

Importing torch, transformers, DeepSpeed and vLLM costs more than most short runs. The server imports them once; it
starts no thread and runs no operation of torch, so that a fork of it is as good as a new process. A few tests start
real commands (`subprocess.Popen` with `environment()`, and torchrun), which shows that they work too.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import forked

from rollouts.vllm_engine import CPU_ENVIRONMENT, ENVIRONMENT

FORKS = multiprocessing.get_context("forkserver")
JOB = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def environment(**changes: str) -> dict[str, str]:
    """For a command: this process's environment without its process group, one thread, no tracking."""
    own = {name: value for name, value in os.environ.items() if name not in JOB}
    return own | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"} | changes


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_server() -> None:
    """Start the server unless it runs; it ends with this process."""
    before = dict(os.environ)
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1]), before.get("PYTHONPATH", "")])
    quiet = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}  # as `sail-rl` sets it
    os.environ.update(environment(**ENVIRONMENT, **CPU_ENVIRONMENT, **quiet, PYTHONPATH=path, **{forked.PRELOAD: "1"}))
    try:
        FORKS.set_forkserver_preload(["forked"])
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


class Fork:
    """`python ARGUMENTS` in a fork of the server, with the interface of `subprocess.Popen`.

    Args:
        arguments: `-m MODULE …`, `-c CODE …` or `SCRIPT …`.
        kill_at: the process kills itself before this durable write (1, 2, …); see `forked.DURABLE`.
        outputs: files for stdout and stderr; None: temporary ones.
        env: the environment; None: `environment()`.
    """

    def __init__(
        self,
        arguments: Sequence[Any],
        *,
        kill_at: int | None = None,
        outputs: tuple[Path, Path] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.args = [str(argument) for argument in arguments]
        self._folder = tempfile.TemporaryDirectory(prefix="fork-")
        self._outputs = outputs or tuple(Path(self._folder.name, name) for name in ("stdout", "stderr"))
        start_server()
        env = dict(environment() if env is None else env)
        given = (self.args, env, str(Path.cwd()), [str(path) for path in self._outputs], kill_at)
        self._process = FORKS.Process(target=forked.main, args=given)
        self._process.start()
        assert self._process.pid
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    poll = returncode.fget

    @property
    def stderr(self) -> str:
        """What it has said so far."""
        return self._outputs[1].read_text(errors="replace") if self._outputs[1].exists() else ""

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; returns what it has printed."""
        self.wait(timeout)
        stdout, stderr = (path.read_text(errors="replace") if path.exists() else "" for path in self._outputs)
        return stdout, stderr

    def __enter__(self) -> Fork:
        return self

    def __exit__(self, *error: object) -> None:
        """Wait for its end, or end it after an error; what it has printed shows with a failed test."""
        if error[0]:
            self.send_signal(signal.SIGKILL)
        sys.stderr.write(self.communicate()[1])
        self._folder.cleanup()


def finish(
    arguments: Sequence[Any], *, timeout: float = 280, check: bool = True, **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` in a fork to its end, as `subprocess.run` does; `changes`: of the environment.

    Raises:
        subprocess.CalledProcessError: it ended with another status than 0, and `check` is set.
    """
    with Fork(arguments, env=environment(**changes)) as fork:
        stdout, stderr = fork.communicate(timeout)
        assert fork.returncode is not None
    done = subprocess.CompletedProcess(fork.args, fork.returncode, stdout, stderr)
    if check:
        done.check_returncode()
    return done


def finish_ranks(arguments: Sequence[Any], *, ranks: int = 2, timeout: float = 280, **changes: str) -> None:
    """Run `python ARGUMENTS` to its end as a job of this many processes, which torchrun would start."""
    changes |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    changes |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    forks = [Fork(arguments, env=environment(**changes, RANK=str(n), LOCAL_RANK=str(n))) for n in range(ranks)]
    deadline = time.monotonic() + timeout
    try:
        while None in (codes := [fork.poll() for fork in forks]) and not any(codes):
            assert time.monotonic() < deadline, f"{arguments} took more than {timeout} s"
            time.sleep(0.05)
    finally:
        for fork in forks:
            with fork:
                fork.send_signal(signal.SIGKILL)
    assert codes == [0] * ranks, codes


class WorkerForks:
    """In place of the `multiprocessing` context with which `WorkerEngine` starts its workers: forks of the server."""

    Pipe = staticmethod(FORKS.Pipe)

    @staticmethod
    def Process(*, target: Callable[..., None], args: tuple[Any, ...], daemon: bool) -> Any:  # noqa: N802
        start_server()
        return FORKS.Process(target=forked.work, args=(target, *args), daemon=daemon)
