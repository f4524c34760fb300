"""Transfers of weights to a rollout server: through a file that both sides see, or over NCCL between their GPUs."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import httpx
import torch
from safetensors.torch import save_file

from sail_rl.paths import expanded

Post = Callable[..., Coroutine[Any, Any, Any]]
"""`await post(path, json=…)` to the server; raises when it fails."""


class Transfer(Protocol):
    """Keeps the newest weights and gives them to one server at a time, whenever that server is reachable."""

    def keep(self, version: int, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Copy the tensors, which are version `version`."""
        ...

    async def give(self, address: str, post: Post, *, timeout: float) -> None:
        """Let the server at `address`, which is paused, load the kept weights."""
        ...

    def close(self) -> None:
        """Release files and connections."""
        ...


class FileTransfer:
    """For servers started with `--weight-transfer-config '{"backend": "sail_files"}'`.

    Args:
        folder: a folder that the trainer and all servers see under this path.
    """

    def __init__(self, folder: Path | str) -> None:
        self._folder = expanded(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._version = 0

    @property
    def _file(self) -> Path:
        return self._folder / f"weights-{self._version}.safetensors"

    def keep(self, version: int, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Write the file atomically."""
        partial, before = self._folder / "partial", self._file
        save_file({name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors}, partial)
        self._version = version
        partial.rename(self._file)
        if before != self._file:
            before.unlink(missing_ok=True)

    async def give(self, address: str, post: Post, *, timeout: float) -> None:
        """Tell the server where the file is."""
        await post("/start_weight_update")
        await post("/update_weights", json={"update_info": {"path": str(self._file.resolve())}})
        await post("/finish_weight_update", json={"weight_version": str(self._version)})

    def close(self) -> None:
        """Keep the newest file, because a server may still be reading it."""
        (self._folder / "partial").unlink(missing_ok=True)


class NcclTransfer:
    """For servers started with `--weight-transfer-config '{"backend": "nccl"}'`, by vLLM's own trainer side.

    Each server has its own NCCL group with this process, so that a lost server doesn't affect the others.

    Args:
        host: address under which the servers reach this process.
    """

    def __init__(self, host: str) -> None:
        if not torch.cuda.is_available():
            raise ValueError("engine.kwargs.transfer is nccl, which connects GPUs, and there is no GPU here; use files")
        self._host = host
        self._kept: list[tuple[str, torch.Tensor]] = []
        self._version = 0
        self._groups: dict[str, Any] = {}

    def keep(self, version: int, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Copy to CPU memory, one tensor at a time: under ZeRO-3 each is gathered only for a moment."""
        self._kept = [(name, tensor.detach().to("cpu", copy=True)) for name, tensor in tensors]
        self._version = version

    async def give(self, address: str, post: Post, *, timeout: float) -> None:
        """Broadcast to the server's workers; a group in which a broadcast failed is not used again."""
        group = self._groups.pop(address, None)
        self._groups[address] = await asyncio.wait_for(asyncio.to_thread(self._send, group, address, timeout), timeout)

    def close(self) -> None:
        """Leave all groups."""
        for group in self._groups.values():
            group.shutdown()
        self._groups.clear()

    def _send(self, group: Any, address: str, timeout: float) -> Any:
        if group is None:
            group = self._join(address, timeout)
        group.client.version = self._version
        group.send_weights()
        return group

    def _join(self, address: str, timeout: float) -> Any:
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo, NCCLTrainerWeightTransferEngine

        client = _ServerClient(address, timeout)
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        info = NCCLTrainerInitInfo(rank=0, master_address=self._host, master_port=port, world_size=1 + client.workers())
        return NCCLTrainerWeightTransferEngine.trainer_init(info, client=client, source=_Kept(self))


class _Kept:
    """A vLLM `WeightSource`: the kept weights, moved to the GPU one tensor at a time."""

    def __init__(self, transfer: NcclTransfer) -> None:
        self._transfer = transfer

    def metadata(self) -> list[Any]:
        """Names, dtypes and shapes, in the order of iteration."""
        from vllm.distributed.weight_transfer.base import ParamMeta

        return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self._transfer._kept]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in self._transfer._kept:
            yield name, tensor.to("cuda")


class _ServerClient:
    """A vLLM `VLLMWeightSyncClient`: one server's weight-transfer endpoints; an update ends with its `version`."""

    def __init__(self, address: str, timeout: float) -> None:
        self._http = httpx.Client(base_url=address, timeout=timeout)
        self.version = 0

    def workers(self) -> int:
        """Number of GPUs that hold the server's model."""
        count: int = self._http.get("/get_world_size").raise_for_status().json()["world_size"]
        return count

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._post("/init_weight_transfer_engine", {"init_info": init_info})

    def start_weight_update(self) -> None:
        self._post("/start_weight_update")

    def update_weights(self, update_info: Any) -> None:
        self._post("/update_weights", {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._post("/finish_weight_update", {"weight_version": weight_version or str(self.version)})

    def _post(self, path: str, json: dict[str, Any] | None = None) -> None:
        self._http.post(path, json=json).raise_for_status()
