"""WorkerEngine: rollouts by spawned vLLM processes; a process that dies, hangs or answers nonsense is replaced."""

from __future__ import annotations

import inspect
import logging
import os
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from sail_rl.contracts import Prompt, Rollout, Sampling

from .shared_weights import SharedWeights
from .streaming import EngineError, StreamingEngine
from .worker_handle import WorkerHandle
from .worker_main import Done, Failed, Generate, Group, Message, Push, Share, Stop

logger = logging.getLogger(__name__)
LONGEST_WAIT = 1.0  # seconds after which `close` in another thread is noticed


class WorkerEngine(StreamingEngine):
    """A `RolloutEngine` of `workers` processes, each with a vLLM engine of its own.

    Prompts are dealt out evenly. Seeds belong to prompts and samples, so rollouts don't depend on the number of
    workers. Weights travel through one block of shared memory, or of the trainer's GPU memory; a push ends when every
    worker has loaded them.

    Args:
        model_dir: checkpoint with config, tokenizer and processor; the weights come with the first push.
        workers: number of processes.
        threads: OpenMP threads of each worker; None: as the environment says.
        devices: one GPU for each worker, named as in CUDA_VISIBLE_DEVICES. None: all workers share the trainer's GPU
            and read the weights there by CUDA IPC.
        start_timeout, push_timeout, generate_timeout: seconds after which a worker that hasn't finished is replaced.
        max_restarts: replacements since the last successful request after which the run stops.
        **options: keyword arguments of each worker's `VLLMEngine`.
    """

    runs_out_of_process = True
    supports_partial_rollouts = True
    captures_routed_experts = True

    def __init__(
        self,
        model_dir: Path | str,
        *,
        workers: int = 1,
        threads: int | None = None,
        devices: Sequence[str] | None = None,
        start_timeout: float = 300.0,
        push_timeout: float = 120.0,
        generate_timeout: float = 1800.0,
        max_restarts: int = 3,
        **options: Any,
    ) -> None:
        if workers < 1:
            raise ValueError(f"engine.kwargs.workers is {workers}; give at least 1")
        if devices is not None and len(devices) != workers:
            raise ValueError(f"engine.kwargs.devices has {len(devices)} GPUs for {workers} workers; give one each")
        self._devices = devices
        self._model_dir, self._options, self._threads = Path(model_dir), options, threads
        self._start_timeout, self._push_timeout = start_timeout, push_timeout
        self._generate_timeout, self._max_restarts = generate_timeout, max_restarts
        self._weights: SharedWeights | None = None
        self._version = 0
        self._restarts = 0
        self._workers: list[WorkerHandle | None] = [None] * workers
        self._busy: set[int] = set()
        """Workers that haven't answered Done yet."""
        self._ensure()

    @classmethod
    def check_options(cls, **kwargs: Any) -> None:
        """Refuse arguments that neither this class nor each worker's `VLLMEngine` has; see its `check_options`."""
        from .vllm_engine import VLLMEngine

        given = inspect.signature(cls).parameters.values()
        own = {parameter.name for parameter in given if parameter.kind is parameter.KEYWORD_ONLY}
        VLLMEngine.check_options(**{name: value for name, value in kwargs.items() if name not in own})

    def stream(self, prompts: Sequence[Prompt], sampling: Sampling) -> Generator[tuple[int, list[Rollout]]]:
        """Sample groups for all prompts; see `RolloutEngine.stream`. A failed worker's groups are sampled again."""
        if self._version == 0:
            raise RuntimeError("the engine has no weights yet; call push_weights before generate")
        count = len(self._workers)
        owed = {number: list(range(number, len(prompts), count)) for number in range(min(count, len(prompts)))}
        try:
            while owed:
                if not self._workers:
                    raise EngineError("the engine was closed while it generated")
                yield from self._round(owed, prompts, sampling)
                owed = {number: indices for number, indices in owed.items() if indices}
                self._ensure()
            self._restarts = 0
        finally:
            if self._busy:  # the caller stopped early, or a worker's answer raised
                self._carry_out(dict.fromkeys(self._busy, Stop()), self._push_timeout)
                self._ensure()

    def _round(
        self, owed: dict[int, list[int]], prompts: Sequence[Prompt], sampling: Sampling
    ) -> Generator[tuple[int, list[Rollout]]]:
        """Ask each worker for the groups that it owes; each group that arrives is removed from `owed`."""
        asked = {number: list(indices) for number, indices in owed.items()}
        requests = {n: Generate([prompts[index] for index in indices], sampling) for n, indices in asked.items()}
        for number, group in self._ask(requests, self._generate_timeout):
            index = asked[number][group.position]
            if problem := _problem(group.rollouts, prompts[index], sampling, self._version):
                self._replace(number, f"it answered nonsense: {problem}")
            else:
                owed[number].remove(index)
                yield index, group.rollouts

    def push_weights(self, version: int, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Replace the weights of all workers; see `RolloutEngine.push_weights`. No request may be running."""
        if self._busy:
            raise RuntimeError("the engine is generating; new weights would reach it half-way")
        first = self._weights is None
        if self._weights is None:
            shared = torch.cuda.is_available() and self._devices is None
            self._weights = SharedWeights.of(tensors, "cuda" if shared else "cpu")
        else:
            self._weights.write(tensors)
        self._version = version
        if first:
            self._carry_out(dict.fromkeys(range(len(self._workers)), Share(self._weights)), self._push_timeout)
        self._carry_out({n: Push(version) for n, worker in enumerate(self._workers) if worker}, self._push_timeout)
        self._ensure()

    def health(self) -> list[dict[str, Any]]:
        """Process id and liveness of each worker, and the version of the weights."""
        return [
            {"pid": worker.pid, "alive": worker.process.is_alive(), "version": self._version}
            for worker in self._workers
            if worker
        ]

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            if worker:
                worker.end()
        self._workers, self._busy = [], set()

    def _carry_out(self, requests: Mapping[int, Message], timeout: float) -> None:
        """Send each worker its message and wait until all workers have answered Done."""
        for _ in self._ask(requests, timeout):
            pass

    def _ask(self, requests: Mapping[int, Message], timeout: float) -> Iterator[tuple[int, Group]]:
        """Send each worker its message; yield the groups that they answer with until all are done.

        Workers that fail are dropped from `_workers`. `timeout` counts the seconds spent waiting for workers, not the
        seconds that the caller spends on a group.
        """
        for number, message in requests.items():
            worker = self._workers[number]
            assert worker is not None
            self._busy.add(number)
            try:
                worker.send(message)
            except OSError as error:
                self._replace(number, f"it can't be reached: {error}")
        left = timeout
        while self._busy & requests.keys():
            waiting: dict[Any, int] = {
                worker.connection: n for n in self._busy & requests.keys() if (worker := self._workers[n])
            }
            start = time.monotonic()
            ready = wait(list(waiting), timeout=min(left, LONGEST_WAIT))
            left -= time.monotonic() - start
            if not ready and left <= 0:
                for number in waiting.values():
                    self._replace(number, f"it did not answer within {timeout:.0f} s")
            for number in (waiting[connection] for connection in ready):
                worker = self._workers[number]
                match worker.receive() if worker else None:
                    case Group() as group:
                        yield number, group
                    case Done():
                        self._busy.discard(number)
                    case Failed(reason, final=True):
                        self._busy.discard(number)
                        raise ValueError(reason)
                    case Failed(reason):
                        self._replace(number, reason)

    def _replace(self, number: int, reason: str) -> None:
        """End a worker for `reason`; `_ensure` starts another worker in its place."""
        worker = self._workers[number]
        assert worker is not None
        self._workers[number] = None
        self._busy.discard(number)
        self._restarts += 1
        logger.warning("rollout worker %d (process %d) is replaced: %s", number, worker.pid, reason)
        worker.end()
        if self._restarts > self._max_restarts:
            self.close()
            raise EngineError(
                f"rollout workers failed {self._restarts} times without a success in between; the last reason: {reason}"
            )

    def _environment(self, number: int) -> dict[str, str]:
        """Environment variables of one worker: its threads and its GPU."""
        threads = {"OMP_NUM_THREADS": str(self._threads)} if self._threads else {}
        if not torch.cuda.is_available():
            return threads
        return threads | {"CUDA_VISIBLE_DEVICES": self._devices[number] if self._devices else _own_gpu()}

    def _ensure(self) -> None:
        """Start the workers that are missing and give them the current weights."""
        while missing := [number for number, worker in enumerate(self._workers) if worker is None]:
            for number in missing:
                self._workers[number] = WorkerHandle(self._model_dir, self._options, self._environment(number))
            deadline = time.monotonic() + self._start_timeout
            for number in missing:
                worker = self._workers[number]
                assert worker is not None
                ready = wait([worker.connection], timeout=max(0.0, deadline - time.monotonic()))
                answer = worker.receive() if ready else Failed("it did not start in time")
                if isinstance(answer, Failed):
                    self._restarts += self._max_restarts if answer.final else 0
                    self._replace(number, answer.reason)
            started = [number for number in missing if self._workers[number]]
            if self._version and self._weights:
                self._carry_out(dict.fromkeys(started, Share(self._weights)), self._push_timeout)
                self._carry_out({n: Push(self._version) for n in started if self._workers[n]}, self._push_timeout)


def _own_gpu() -> str:
    """The trainer's GPU, named as in CUDA_VISIBLE_DEVICES."""
    number = torch.cuda.current_device()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[number] if visible else str(number)


def _problem(group: list[Rollout], prompt: Prompt, sampling: Sampling, version: int) -> str | None:
    """The reason why a worker's group for this prompt can't be right, or None."""
    if {rollout.prompt_id for rollout in group} != {prompt.id}:
        return "rollouts of another prompt"
    for rollout in group:
        if rollout.weights_version != version:
            return f"weights of version {rollout.weights_version} instead of {version}"
        if not len(rollout.token_ids) == len(rollout.logprobs) <= sampling.max_tokens:
            return f"{len(rollout.token_ids)} tokens with {len(rollout.logprobs)} log-probs"
    wanted = len(prompt.partial_rollouts) or sampling.samples_per_prompt
    if len(group) != wanted:
        return f"{len(group)} samples instead of {wanted}"
    return None
