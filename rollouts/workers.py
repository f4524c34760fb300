"""WorkerEngine: rollouts by spawned vLLM processes; one that dies, hangs or answers nonsense is replaced."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

from sail_rl.contracts import Prompt, Rollout, Sampling

from .shared_weights import SharedWeights
from .worker_process import Done, Failed, Generate, Push, Share, serve

logger = logging.getLogger(__name__)
SPAWN = multiprocessing.get_context("spawn")


class EngineError(RuntimeError):
    """Rollout workers failed more often than they may."""


class WorkerEngine:
    """A `RolloutEngine` of `workers` processes, each with a vLLM engine of its own.

    Prompts are dealt out evenly. Seeds belong to prompts and samples: rollouts don't depend on the number of workers.
    Weights go through one block of shared memory; a push is over when every worker has loaded it.

    Args:
        model_dir: checkpoint with config, tokenizer and processor; the weights come with the first push.
        workers: number of processes.
        threads: OpenMP threads of each; None: the environment's.
        start_timeout, push_timeout, generate_timeout: seconds that a worker may take; then it is replaced.
        max_restarts: replacements before the run is stopped, since the last request that went well.
        **options: of `VLLMEngine`, for each worker.
    """

    def __init__(
        self,
        model_dir: Path | str,
        *,
        workers: int = 1,
        threads: int | None = None,
        start_timeout: float = 300.0,
        push_timeout: float = 120.0,
        generate_timeout: float = 1800.0,
        max_restarts: int = 3,
        **options: Any,
    ) -> None:
        if workers < 1:
            raise ValueError(f"engine.kwargs.workers is {workers}; give at least 1")
        self._model_dir, self._options, self._threads = Path(model_dir), options, threads
        self._start_timeout, self._push_timeout = start_timeout, push_timeout
        self._generate_timeout, self._max_restarts = generate_timeout, max_restarts
        self._weights: SharedWeights | None = None
        self._version = 0
        self._restarts = 0
        self._workers: list[_Worker | None] = [None] * workers
        self._ensure()

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Rollout]]:
        """Sample groups for all prompts; see `RolloutEngine.generate`. Shares of failed workers are sampled again."""
        if self._version == 0:
            raise RuntimeError("the engine has no weights yet; call push_weights before generate")
        count = len(self._workers)
        shares = {number: list(prompts[number::count]) for number in range(count) if prompts[number::count]}
        results: dict[int, list[list[Rollout]]] = {}
        while open_shares := {number: share for number, share in shares.items() if number not in results}:
            requests = {number: Generate(share, sampling) for number, share in open_shares.items()}
            for number, groups in self._ask(requests, self._generate_timeout).items():
                if problem := _problem(groups, shares[number], sampling, self._version):
                    self._replace(number, f"it answered nonsense: {problem}")
                else:
                    results[number] = groups
            self._ensure()
        self._restarts = 0
        return [results[place % count][place // count] for place in range(len(prompts))]

    def push_weights(self, version: int, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Replace the weights of all workers; see `RolloutEngine.push_weights`. No request is running meanwhile."""
        first = self._weights is None
        if self._weights is None:
            self._weights = SharedWeights.of(tensors)
        else:
            self._weights.write(tensors)
        self._version = version
        if first:
            self._ask(dict.fromkeys(range(len(self._workers)), Share(self._weights)), self._push_timeout)
        self._ask({n: Push(version) for n, worker in enumerate(self._workers) if worker}, self._push_timeout)
        self._ensure()

    def health(self) -> list[dict[str, Any]]:
        """Process id and liveness of each worker, and the version of the weights."""
        return [
            {"pid": worker.process.pid, "alive": worker.process.is_alive(), "version": self._version}
            for worker in self._workers
            if worker
        ]

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            if worker:
                worker.end()
        self._workers = []

    def _ask(self, requests: dict[int, Any], timeout: float) -> dict[int, Any]:
        """Send each worker its message and collect the answers; workers that fail are dropped from `_workers`."""
        waiting: dict[Any, int] = {}
        for number, message in requests.items():
            worker = self._workers[number]
            assert worker is not None
            try:
                worker.connection.send(message)
                waiting[worker.connection] = number
            except OSError as error:
                self._replace(number, f"it can't be reached: {error}")
        answers: dict[int, Any] = {}
        deadline = time.monotonic() + timeout
        while waiting:
            ready = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                for number in waiting.values():
                    self._replace(number, f"it did not answer within {timeout:.0f} s")
                break
            for connection in ready:
                number = waiting.pop(connection)
                match _receive(connection):  # type: ignore[arg-type]
                    case Done(result):
                        answers[number] = result
                    case Failed(reason, final=True):
                        raise ValueError(reason)
                    case Failed(reason):
                        self._replace(number, reason)
        return answers

    def _replace(self, number: int, reason: str) -> None:
        """End a worker for `reason`; `_ensure` starts another one in its place."""
        worker = self._workers[number]
        assert worker is not None
        self._workers[number] = None
        self._restarts += 1
        logger.warning("rollout worker %d (process %d) is replaced: %s", number, worker.process.pid, reason)
        worker.end()
        if self._restarts > self._max_restarts:
            self.close()
            raise EngineError(
                f"rollout workers failed {self._restarts} times without a success in between; the last reason: {reason}"
            )

    def _ensure(self) -> None:
        """Start the workers that are missing and give them the current weights."""
        while missing := [number for number, worker in enumerate(self._workers) if worker is None]:
            for number in missing:
                self._workers[number] = _Worker(self._model_dir, self._options, self._threads)
            deadline = time.monotonic() + self._start_timeout
            for number in missing:
                worker = self._workers[number]
                assert worker is not None
                ready = wait([worker.connection], timeout=max(0.0, deadline - time.monotonic()))
                answer = _receive(worker.connection) if ready else Failed("it did not start in time")
                if isinstance(answer, Failed):
                    self._restarts += self._max_restarts if answer.final else 0
                    self._replace(number, answer.reason)
            started = [number for number in missing if self._workers[number]]
            if self._version and self._weights:
                self._ask(dict.fromkeys(started, Share(self._weights)), self._push_timeout)
                self._ask({n: Push(self._version) for n in started if self._workers[n]}, self._push_timeout)


class _Worker:
    """One process and the trainer's end of its pipe."""

    def __init__(self, model_dir: Path, options: dict[str, Any], threads: int | None) -> None:
        self.connection, theirs = SPAWN.Pipe()
        before = os.environ.get("OMP_NUM_THREADS")
        if threads:
            os.environ["OMP_NUM_THREADS"] = str(threads)  # read by the child when it imports torch
        self.process = SPAWN.Process(target=serve, args=(theirs, os.getpid(), model_dir, options), daemon=True)
        self.process.start()
        if threads:
            os.environ.pop("OMP_NUM_THREADS") if before is None else os.environ.update(OMP_NUM_THREADS=before)
        theirs.close()

    def end(self) -> None:
        """Close the pipe, which ends an idle worker; kill one that is busy or stuck."""
        self.connection.close()
        self.process.join(timeout=1)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(timeout=10)


def _receive(connection: Connection) -> Done | Failed:
    """A worker's answer; its end if there is none, or none that can be read."""
    try:
        answer = connection.recv()
    except (EOFError, ConnectionError):
        return Failed("it died")
    except Exception as error:
        return Failed(f"its answer can't be read: {error!r}")
    return answer if isinstance(answer, Done | Failed) else Failed(f"it answered {answer!r}")


def _problem(groups: Any, prompts: Sequence[Prompt], sampling: Sampling, version: int) -> str | None:
    """What is wrong with the groups that a worker gave for these prompts, or None."""
    if [{r.prompt_id for r in group} for group in groups] != [{prompt.id} for prompt in prompts]:
        return "other prompts, or in another order"
    for rollout in (rollout for group in groups for rollout in group):
        if rollout.weights_version != version:
            return f"weights of version {rollout.weights_version} instead of {version}"
        if not len(rollout.token_ids) == len(rollout.logprobs) <= sampling.max_tokens:
            return f"{len(rollout.token_ids)} tokens with {len(rollout.logprobs)} log-probs"
    if any(len(group) != sampling.samples_per_prompt for group in groups):
        return "groups of another size"
    return None
