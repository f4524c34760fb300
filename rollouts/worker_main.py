"""The inside of a worker process: a vLLM engine that serves the trainer over a pipe and never outlives it."""

from __future__ import annotations

import contextlib
import multiprocessing.util
import os
import signal
import threading
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sail_rl.contracts import Prompt, Rollout, Sampling

from .shared_weights import SharedWeights


@dataclass(frozen=True, slots=True)
class Share:
    """Hand over the block of memory that later pushes are written to."""

    weights: SharedWeights


@dataclass(frozen=True, slots=True)
class Push:
    """Load the weights that are in the block now; they are version `version`."""

    version: int


@dataclass(frozen=True, slots=True)
class Generate:
    """Sample a group for each prompt. The worker sends each `Group` as it finishes, and Done after the last."""

    prompts: list[Prompt]
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Stop:
    """Abort the unfinished groups of a Generate; Done follows. Without a Generate it has no effect."""


@dataclass(frozen=True, slots=True)
class Group:
    """The finished group of the prompt at `position` of a Generate."""

    position: int
    rollouts: list[Rollout]


@dataclass(frozen=True, slots=True)
class Done:
    """The answer to a message that was carried out."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The answer to a message that failed, with the traceback. `final`: the request itself is at fault."""

    reason: str
    final: bool = False


Message = Share | Push | Generate | Stop
"""The messages that the trainer sends."""


def serve(connection: Connection, parent: int, model_dir: Path, options: dict[str, Any]) -> None:
    """Build the engine, answer Done, then answer every message in order until the pipe closes.

    Args:
        connection: the pipe to the trainer.
        parent: the trainer's process id; this process exits when the trainer is gone.
        model_dir: checkpoint with config, tokenizer and processor.
        options: keyword arguments of `VLLMEngine`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the trainer ends its workers itself
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)  # these describe the trainer's job; the engine is a job of its own
    threading.Thread(target=_exit_with, args=(parent,), daemon=True).start()
    from .vllm_engine import VLLMEngine

    engine: VLLMEngine | None = None
    weights: SharedWeights | None = None
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            try:
                if engine is None:
                    engine = VLLMEngine(model_dir, **options)
                    answer: Done | Failed = Done()
                else:
                    match connection.recv():
                        case Share(weights):
                            answer = Done()
                        case Push(version):
                            assert weights is not None
                            engine.push_weights(version, weights.tensors())
                            answer = Done()
                        case Generate(prompts, sampling):
                            for position, group in engine.stream(prompts, sampling, stopped=connection.poll):
                                connection.send(Group(position, group))
                            answer = Done()
                        case Stop():
                            continue
                        case message:
                            answer = Failed(f"unknown message {message!r}")
            except (EOFError, BrokenPipeError):
                raise
            except Exception as error:
                answer = Failed(traceback.format_exc(), final=isinstance(error, ValueError))
            connection.send(answer)
    # Releases semaphores; the trainer's resource tracker would otherwise report them as leaked.
    multiprocessing.util._run_finalizers(0)  # type: ignore[attr-defined]
    os._exit(0)  # vLLM's shutdown may wait for threads that have nothing left to do


def _exit_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
