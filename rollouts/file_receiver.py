"""A weight-transfer backend for vLLM servers: the trainer writes a safetensors file, the server reads it.

It works on CPU, where vLLM's own backends (NCCL, CUDA IPC) don't, and wherever both sides see one file system. Selected
by `vllm serve … --weight-transfer-config '{"backend": "sail_files"}'`.
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
    """Nothing has to be agreed on."""


@dataclass
class FileUpdate(WeightTransferUpdateInfo):
    """`path`: a safetensors file with all weights under the trainer's names."""

    path: str


class FileReceiver(WeightTransferEngine[FileInit, FileUpdate]):
    """The server's side: loads the file by the procedure that in-process engines use."""

    init_info_cls = FileInit
    update_info_cls = FileUpdate
    supports_draft_weight_update = False

    def init_transfer_engine(self, init_info: FileInit) -> None:
        """Nothing to open."""

    def start_weight_update(self) -> None:
        """Loading does all by itself."""

    def finish_weight_update(self) -> None:
        """Loading does all by itself."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """The base class's, less its synchronisation with an accelerator, which a CPU doesn't have."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: FileUpdate) -> None:
        """Load the file into the model."""
        path = Path(update_info.path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} isn't there: `weights_dir` must be one folder for trainer and servers")
        with safe_open(path, framework="pt", device=str(self.device)) as file:
            names = list(file.keys())
            reload_weights(self.model, self.model_config, ((name, file.get_tensor(name)) for name in names))

    def shutdown(self) -> None:
        """Nothing to close."""
