"""A weight-transfer backend for vLLM servers: the trainer writes a safetensors file, the server reads it.

It works on CPU, where vLLM's own backends (NCCL, CUDA IPC) don't, and wherever both sides share a file system. Select
it with `vllm serve … --weight-transfer-config '{"backend": "sail_files"}'`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from .weight_sync import reload_weights

BACKEND = "sail_files"


@dataclass
class FileInit(WeightTransferInitInfo):
    """The two sides have nothing to agree on."""


@dataclass
class FileUpdate(WeightTransferUpdateInfo):
    """`path`: a safetensors file with all weights under the trainer's names."""

    path: str


class FileReceiver(WeightTransferEngine[FileInit, FileUpdate]):
    """The server's side: it loads the file as in-process engines load their weights."""

    init_info_cls = FileInit
    update_info_cls = FileUpdate
    supports_draft_weight_update = False

    def init_transfer_engine(self, init_info: FileInit) -> None:
        """Does nothing: there is no connection to open."""

    def start_weight_update(self) -> None:
        """Does nothing: `receive_weights` does everything."""

    def finish_weight_update(self) -> None:
        """Does nothing: `receive_weights` does everything."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """As in the base class, but without synchronising an accelerator, which a CPU machine doesn't have."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: FileUpdate) -> None:
        """Load the file into the model."""
        path = Path(update_info.path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: `weights_dir` must be one folder for trainer and servers")
        with safe_open(path, framework="pt", device=str(self.device)) as file:
            names = list(file.keys())
            reload_weights(self.model, self.model_config, ((name, file.get_tensor(name)) for name in names))

    def shutdown(self) -> None:
        """Does nothing: there is no connection to close."""
