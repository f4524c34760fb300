"""RemoteEngine: rollouts by vLLM servers on any machines, over HTTP; one that goes away is missed until it is back."""

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

from .remote_requests import ChatRequests
from .remote_server import Server, ServerError
from .streaming import StreamingEngine
from .transfers import FileTransfer, NcclTransfer, Transfer
from .workers import EngineError

logger = logging.getLogger(__name__)
POLL = 0.2  # seconds between looks at whether a server may be asked again
LOOK = 1.0  # seconds between looks for servers that are back


class RemoteEngine(StreamingEngine):
    """A `RolloutEngine` of vLLM servers. Each is asked for the next prompt when it has room: faster ones do more.

    Start each with the command that `docs/rollouts.md` shows. Weights go through a file that all see, by vLLM's
    weight-transfer API; a push is over when every server that is there has loaded it, and a server that wasn't gets
    them when it is back.

    Args:
        model_dir: checkpoint with the tokenizer.
        servers: addresses, `http://HOST:PORT`.
        transfer: how weights reach the servers: "files" through `weights_dir`, "nccl" between GPUs.
        weights_dir: with "files": folder that trainer and servers see under this path.
        host: with "nccl": the address under which the servers reach the trainer.
        concurrency: prompts that one server works on at a time.
        request_timeout, push_timeout: seconds for one prompt's group and for one push.
        patience: seconds to wait for a server when none is there; then the run is stopped.
        max_failures: times that one prompt may fail before the run is stopped.
        max_model_len, dtype: the trainer's; the servers must be started with the same.
    """

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
    ) -> None:
        if not servers:
            raise ValueError("engine.kwargs.servers is empty; give at least one address, http://HOST:PORT")
        self._chat = ChatRequests(model_dir, max_model_len)
        self._transfer = _transfer(transfer, weights_dir, host)
        self._concurrency, self._request_timeout, self._push_timeout = concurrency, request_timeout, push_timeout
        self._patience, self._max_failures = patience, max_failures
        self._version = 0
        self._rank = distributed.get_rank() if distributed.is_initialized() else 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="rollout servers", daemon=True)
        self._thread.start()
        self._servers = [Server(address.rstrip("/")) for address in servers]
        self._streaming = False
        self._pushing = asyncio.Lock()
        asyncio.run_coroutine_threadsafe(self._look_after(), self._loop)

    def stream(self, prompts: Sequence[Prompt], sampling: Sampling) -> Generator[tuple[int, list[Rollout]]]:
        """Sample groups for all prompts; see `RolloutEngine.stream`. What a lost server owes others are asked for."""
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
        """Write the weights' file and let every server load it; see `RolloutEngine.push_weights`."""
        if self._streaming:
            raise RuntimeError("the engine is generating; new weights would reach it half-way")
        self._run(self._pushing.acquire())  # nobody reads what is kept while it changes
        try:
            if self._rank == 0:
                self._transfer.keep(version, tensors)
                self._run(self._change(version))
            else:
                for _ in tensors:  # gathering them may take every rank
                    pass
            if distributed.is_initialized():
                distributed.barrier()
            if self._rank:
                self._run(self._change(version))
        finally:
            self._loop.call_soon_threadsafe(self._pushing.release)

    def health(self) -> list[dict[str, Any]]:
        """Address of each server, whether it is there, and the version of its weights."""
        return [{"address": s.address, "alive": s.version > 0, "version": s.version} for s in self._servers]

    def close(self) -> None:
        """End all requests; the servers stay."""
        self._run(_end_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._transfer.close()

    def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _change(self, version: int) -> None:
        """Take the new version everywhere; over when every server that is there has it, and there is one."""
        self._version = version
        for server in self._servers:  # even those whose weights have this number: another stage counts anew
            server.version = 0
        deadline = time.monotonic() + self._patience
        while not await self._bring_up_all():
            if time.monotonic() > deadline:
                raise EngineError(f"no rollout server is there: {self._problems()}")
            await asyncio.sleep(LOOK)

    async def _look_after(self) -> None:
        """As long as the engine lives: push to servers that come back, whether or not it is generating."""
        while True:
            await asyncio.sleep(LOOK)
            async with self._pushing:
                if self._version:
                    await self._bring_up_all()

    async def _bring_up_all(self) -> bool:
        """Give the newest weights to every server that answers and hasn't them; whether there is one with them."""
        behind = [server for server in self._servers if server.version != self._version]
        await asyncio.gather(*(self._bring_up(server) for server in behind))
        return any(server.version == self._version for server in self._servers)

    def _problems(self) -> str:
        return "; ".join(f"{server.address}: {server.problem}" for server in self._servers)

    async def _bring_up(self, server: Server) -> None:
        """Rank 0 pushes; the other ranks see whether the server has what rank 0 pushed."""
        try:
            if self._rank == 0:
                await server.push(self._transfer, self._version, timeout=self._push_timeout)
            else:
                await server.look(self._version)
        except (ServerError, LookupError, TypeError, ValueError) as error:  # the last three: an answer of another shape
            self._drop(server, error)

    def _drop(self, server: Server, error: Exception) -> None:
        if not server.problem:
            logger.warning("rollout server %s is left out for now: %s", server.address, error)
        server.version, server.problem = 0, str(error)

    async def _sample(self, prompts: Sequence[Prompt], sampling: Sampling, results: queue.Queue) -> None:
        """Put every group into `results`, or the exception that ends it all."""
        todo: asyncio.Queue[_Task] = asyncio.Queue()
        try:
            for place, prompt in enumerate(prompts):
                todo.put_nowait(_Task(place, self._chat.body(prompt, sampling)))
            async with asyncio.TaskGroup() as group:
                for server in self._servers:
                    for _ in range(self._concurrency):
                        group.create_task(self._serve(server, todo, prompts, sampling, results))
                group.create_task(self._patience_lasts())
        except* Exception as errors:
            results.put(errors.exceptions[0])  # the consumer raises it

    async def _patience_lasts(self) -> None:
        """Stop when there has been no server for too long."""
        alone_since = time.monotonic()
        while time.monotonic() - alone_since <= self._patience:
            await asyncio.sleep(LOOK)
            if any(server.version for server in self._servers):
                alone_since = time.monotonic()
        raise EngineError(f"no rollout server is there: {self._problems()}")

    async def _serve(
        self, server: Server, todo: asyncio.Queue, prompts: Sequence[Prompt], sampling: Sampling, results: queue.Queue
    ) -> None:
        """Ask one server for one prompt after the other, as long as it has the newest weights."""
        async with httpx.AsyncClient(base_url=server.address, timeout=self._request_timeout) as client:
            while True:
                if server.version != self._version:
                    await asyncio.sleep(POLL)
                    continue
                task: _Task = await todo.get()
                prompt = prompts[task.place]
                try:
                    choices = await server.ask(client, task.body)
                    results.put((task.place, [self._chat.rollout(choice, prompt, self._version) for choice in choices]))
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
    place: int
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
    """Cancel all other tasks of this loop, and see them end."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
