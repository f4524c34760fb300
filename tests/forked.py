"""Inside the fork server of launching.py and its forks."""

from __future__ import annotations

import atexit
import gc
import importlib
import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from multiprocessing import process
from pathlib import Path
from typing import Any

PRELOAD = "SAIL_TESTS_PRELOAD"
"""Environment variable: set where importing this module is to import PRELOADED, which is in the fork server."""
PRELOADED = (
    *("deepspeed", "trl", "datasets", "peft", "matplotlib.backends.backend_agg", "scipy.io", "sklearn"),
    *(
        "wandb.apis.public",
        "wandb.sdk.launch",
        "vllm",
        "vllm.entrypoints.openai.api_server",
        "vllm.v1.worker.cpu_worker",
    ),
    *("vllm.v1.core.sched.scheduler", "vllm.v1.engine.core", "vllm.v1.engine.llm_engine", "vllm.entrypoints.llm"),
    *("vllm.v1.executor.uniproc_executor", "vllm.v1.attention.backends.cpu_attn", "vllm.renderers.hf"),
    *("vllm.model_executor.models.qwen3", "vllm.model_executor.models.qwen3_moe", "vllm.logging_utils.dump_input"),
    *(
        "transformers.models.qwen3_moe.modeling_qwen3_moe",
        "sklearn.feature_extraction",
        "wandb.sdk.launch.inputs.internal",
    ),
    *("rollouts.vllm_model", "rollouts.worker_main", "sail_rl.cli.main", "sail_rl.run.run", "sail_rl.reporting.report"),
)
DURABLE = ("fsync", "replace", "rename")
"""Calls of `os` that make a write last."""


MAIN_PROCESS = multiprocessing.current_process()
FOLDERS: list[tempfile.TemporaryDirectory[str]] = []
"""Temporary folders that libraries have made: every fork needs its own, as it deletes them at its end."""


def preload() -> None:
    """Import the libraries that a run needs, early or late. Whatever starts a thread can't be forked afterwards."""
    for name in PRELOADED:
        importlib.import_module(name)
    names = {(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()}
    own = {Path("/proc/self/comm").read_text().strip(), "jemalloc_bg_thd"}  # jemalloc starts its own again in a fork
    assert names <= own, f"importing the libraries has started threads: {names - own}"
    FOLDERS.extend(found for found in gc.get_objects() if isinstance(found, tempfile.TemporaryDirectory))
    server = os.getpid()
    atexit.register(lambda: os._exit(0) if os.getpid() == server else None)  # no tidying up, with its complaints
    gc.freeze()  # so that collections in the forks don't copy its pages


def main(
    arguments: Sequence[str], environment: dict[str, str], folder: str, outputs: Sequence[str], kill_at: int | None
) -> None:
    """Do what `python ARGUMENTS` does in this folder and environment, in a session of its own.

    Args:
        arguments: `-m MODULE …`, `-c CODE …` or `SCRIPT …`.
        outputs: files that stdout and stderr go to.
        kill_at: the process kills itself before this call (1, 2, …) of those in DURABLE.
    """
    for descriptor, path in enumerate(outputs, start=1):
        with Path(path).open("ab") as file:
            os.dup2(file.fileno(), descriptor)
    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    _be_a_new_process()
    if kill_at is not None:
        _kill_at(kill_at)
    code = _run(list(arguments))
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def work(serve: Callable[..., None], connection: Any, _trainer: int, *options: Any) -> None:
    """Be a rollout worker; it ends with its parent, which is the fork server and not the trainer."""
    serve(connection, os.getppid(), *options)


def _run(arguments: list[str]) -> int:
    """Run the module, code or script; returns the exit status."""
    try:
        match arguments:
            case ["-m", module, *rest]:
                sys.argv[:], sys.path[0] = [module, *rest], str(Path.cwd())
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            case ["-c", code, *rest]:
                sys.argv[:], sys.path[0] = ["-c", *rest], ""
                exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
            case [script, *rest]:
                sys.argv[:], sys.path[0] = [script, *rest], str(Path(script).resolve().parent)
                runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        sys.stderr.write(f"{end.code}\n")
        return 1
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        return 1
    return 0


def _be_a_new_process() -> None:
    """Share no temporary folder; forget that `multiprocessing` made this process, which changes how it makes others."""
    for folder in FOLDERS:
        folder._finalizer.detach()  # type: ignore[attr-defined]
        folder.__init__()  # type: ignore[misc]
    process._current_process = MAIN_PROCESS  # type: ignore[attr-defined]
    process._parent_process = None  # type: ignore[attr-defined]
    multiprocessing.set_start_method(None, force=True)  # type: ignore[arg-type]


def _kill_at(number: int) -> None:
    """Kill this process before call `number` of those in DURABLE."""
    lived_through = iter(range(1, number))

    def counted(call: Any) -> Any:
        def counting(*args: Any, **kwargs: Any) -> Any:
            if next(lived_through, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return counting

    for name in DURABLE:
        setattr(os, name, counted(getattr(os, name)))


if os.environ.pop(PRELOAD, None):
    preload()
