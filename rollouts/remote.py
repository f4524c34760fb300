"""RemoteEngine: rollouts by vLLM servers over HTTP. Unreachable servers are skipped and rejoin automatically."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Coroutine, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import torch
from torch import distributed

from sail_rl.contracts import Prompt, Rollout, Sampling

from .remote_requests import TokenRequests
from .server_handle import ServerError, ServerHandle
from .streaming import EngineError, StreamingEngine
from .transfers import FileTransfer, NcclTransfer, Transfer

logger = logging.getLogger(__name__)
REQUEST_INTERVAL = 0.2  # seconds between checks whether a server may be asked again
SERVER_INTERVAL = 1.0  # seconds between checks for servers that are reachable again


class RemoteEngine(StreamingEngine):
    """A `RolloutEngine` of vLLM servers. A server gets the next prompt when it has room, so faster servers do more.

    Start each server with the command that `docs/rollouts.md` shows. Weights travel by vLLM's weight-transfer API. A
    push ends when every reachable server has loaded them; other servers get them when they are reachable again.

    Args:
        model_dir: checkpoint with the tokenizer.
        servers: addresses, `http://HOST:PORT`.
        transfer: how weights reach the servers: "files" through `weights_dir`, "nccl" between GPUs.
        weights_dir: with "files": a folder that the trainer and all servers see under this path.
        host: with "nccl": the address under which the servers reach the trainer.
        concurrency: prompts that one server works on at a time.
        request_timeout, push_timeout: seconds for one prompt's group and for one push.
        patience: seconds without any reachable server after which the run stops.
        max_failures: failures of one prompt after which the run stops.
        max_model_len, dtype, head_dtype: the trainer's values; the servers must be started with the same values.
    """

    shares_gpu = False
    runs_out_of_process = True

    def __init__(
        self,
        model_dir: Path | str,
        *,
        servers: Sequence[str],
        transfer: Literal["files", "nccl"] = "files",
        weights_dir: Path | str | None = None,
        host: str | None = None,
        concurrency: int = 32,
        request_timeout: float = 600.0,
        push_timeout: float = 300.0,
        patience: float = 300.0,
        max_failures: int = 5,
        max_model_len: int = 1024,
        dtype: str = "float32",
        head_dtype: str | None = None,
    ) -> None:
        if not servers:
            raise ValueError("engine.kwargs.servers is empty; give at least one address, http://HOST:PORT")
        self._requests = TokenRequests(model_dir, max_model_len)
        self._transfer = _transfer(transfer, weights_dir, host)
        self._concurrency, self._request_timeout, self._push_timeout = concurrency, request_timeout, push_timeout
        self._patience, self._max_failures = patience, max_failures
        self._version = 0
        self._rank = distributed.get_rank() if distributed.is_initialized() else 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rollout servers", daemon=True)
        self._thread.start()
        self._servers = [ServerHandle(address.rstrip("/")) for address in servers]
        self._streaming = False
        self._pushing = asyncio.Lock()
        asyncio.run_coroutine_threadsafe(self._maintain(), self._loop)

    def stream(self, prompts: Sequence[Prompt], sampling: Sampling) -> Generator[tuple[int, list[Rollout]]]:
        """Sample groups for all prompts; see `RolloutEngine.stream`. Other servers sample a lost server's groups."""
        if self._version == 0:
            raise RuntimeError("the engine has no weights yet; call push_weights before generate")
        results: queue.Queue[tuple[int, list[Rollout]] | Exception] = queue.Queue()
        self._streaming = True
        work = asyncio.run_coroutine_threadsafe(self._sample(prompts, sampling, results), self._loop)
        try:
            for _ in prompts:
                result = results.get()
                if isinstance(result, Exception):
                    raise result
                yield result
        finally:
            work.cancel()
            self._streaming = False

    def push_weights(self, version: int, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Let every reachable server load the weights; see `RolloutEngine.push_weights`."""
        if self._streaming:
            raise RuntimeError("the engine is generating; new weights would reach it half-way")
        self._run(self._pushing.acquire())  # no server reads the weights while they change
        try:
            if self._rank == 0:
                self._transfer.keep(version, tensors)
                self._run(self._change(version))
            else:
                for _ in tensors:  # gathering them is collective
                    pass
            if distributed.is_initialized():
                distributed.barrier()
            if self._rank:
                self._run(self._change(version))
        finally:
            self._loop.call_soon_threadsafe(self._pushing.release)

    def health(self) -> list[dict[str, Any]]:
        """Address of each server, whether it is reachable, and the version of its weights."""
        return [{"address": s.address, "alive": s.version > 0, "version": s.version} for s in self._servers]

    def close(self) -> None:
        """Cancel all requests; the servers keep running."""
        self._run(_end_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._transfer.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _change(self, version: int) -> None:
        """Push the new version; returns when at least one server, and every reachable one, has it."""
        self._version = version
        for server in self._servers:  # even at this version: each stage counts from one
            server.version = 0
        deadline = time.monotonic() + self._patience
        while not await self._update_all():
            if time.monotonic() > deadline:
                raise EngineError(f"no rollout server is reachable: {self._problems()}")
            await asyncio.sleep(SERVER_INTERVAL)

    async def _maintain(self) -> None:
        """Push to servers that are reachable again, for as long as the engine lives, also while it generates."""
        while True:
            await asyncio.sleep(SERVER_INTERVAL)
            async with self._pushing:
                if self._version:
                    await self._update_all()

    async def _update_all(self) -> bool:
        """Give the newest weights to every reachable server that lacks them; True if at least one server has them."""
        behind = [server for server in self._servers if server.version != self._version]
        await asyncio.gather(*(self._update(server) for server in behind))
        return any(server.version == self._version for server in self._servers)

    def _problems(self) -> str:
        return "; ".join(f"{server.address}: {server.problem}" for server in self._servers)

    async def _update(self, server: ServerHandle) -> None:
        """Rank 0 pushes; the other ranks check that the server has what rank 0 pushed."""
        try:
            if self._rank == 0:
                await server.push(self._transfer, self._version, timeout=self._push_timeout)
            else:
                await server.check(self._version)
        except (ServerError, LookupError, TypeError, ValueError) as error:  # the last three: malformed answer
            self._drop(server, error)

    def _drop(self, server: ServerHandle, error: Exception) -> None:
        if not server.problem:
            logger.warning("rollout server %s is skipped for now: %s", server.address, error)
        server.version, server.problem = 0, str(error)

    async def _sample(self, prompts: Sequence[Prompt], sampling: Sampling, results: queue.Queue) -> None:
        """Put every group into `results`, or the exception that ends the sampling."""
        todo: asyncio.Queue[_Task] = asyncio.Queue()
        try:
            for index, prompt in enumerate(prompts):
                todo.put_nowait(_Task(index, self._requests.body(prompt, sampling)))
            async with asyncio.TaskGroup() as group:
                for server in self._servers:
                    for _ in range(self._concurrency):
                        group.create_task(self._serve(server, todo, prompts, results))
                group.create_task(self._watch_patience())
        except* Exception as errors:
            results.put(errors.exceptions[0])  # the consumer raises it

    async def _watch_patience(self) -> None:
        """Raise EngineError when no server was reachable for `patience` seconds."""
        unreachable_since = time.monotonic()
        while time.monotonic() - unreachable_since <= self._patience:
            await asyncio.sleep(SERVER_INTERVAL)
            if any(server.version for server in self._servers):
                unreachable_since = time.monotonic()
        raise EngineError(f"no rollout server is reachable: {self._problems()}")

    async def _serve(
        self, server: ServerHandle, todo: asyncio.Queue, prompts: Sequence[Prompt], results: queue.Queue
    ) -> None:
        """Ask one server for one prompt after another, while it has the newest weights."""
        async with httpx.AsyncClient(base_url=server.address, timeout=self._request_timeout) as client:
            while True:
                if server.version != self._version:
                    await asyncio.sleep(REQUEST_INTERVAL)
                    continue
                task: _Task = await todo.get()
                prompt = prompts[task.index]
                try:
                    choices = await server.ask(client, task.body)
                    results.put(
                        (task.index, [self._requests.rollout(choice, prompt, self._version) for choice in choices])
                    )
                except ServerError as error:
                    task.failures += 1
                    if task.failures >= self._max_failures:
                        raise EngineError(
                            f"prompt {prompt.id} failed {task.failures} times; the last time: {error}"
                        ) from error
                    todo.put_nowait(task)
                    self._drop(server, error)
                except ValueError as error:
                    raise ValueError(f"prompt {prompt.id}: {error}") from None


@dataclass(slots=True)
class _Task:
    index: int
    body: dict[str, Any]
    failures: int = 0


def _transfer(kind: str, weights_dir: Path | str | None, host: str | None) -> Transfer:
    if kind == "files":
        if weights_dir is None:
            raise ValueError("engine.kwargs.weights_dir is missing: a folder that the trainer and all servers see")
        return FileTransfer(weights_dir)
    if kind == "nccl":
        if host is None:
            raise ValueError("engine.kwargs.host is missing: the address under which the servers reach the trainer")
        return NcclTransfer(host)
    raise ValueError(f"engine.kwargs.transfer is {kind!r}; give files or nccl")


async def _end_tasks() -> None:
    """Cancel all other tasks of this loop and wait for their end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
