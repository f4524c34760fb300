"""The job's process group: one process by default, several under torchrun; and helpers for ranks."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed


def join_process_group(*, timeout_minutes: float = 30.0) -> None:
    """Join the job's process group: torchrun's, or a new one of this process alone.

    Call this before any engine or trainer exists; both then use this group. A rank that dies or hangs raises an error
    on the other ranks after `timeout_minutes`.
    """
    import deepspeed

    if distributed.is_initialized():
        return
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    for name, value in alone.items():
        os.environ.setdefault(name, value)
    own_port = "MASTER_PORT" not in os.environ
    if own_port:
        os.environ["MASTER_PORT"] = str(_free_port())
    # DeepSpeed would compile a shared-memory collective for CPU (a minute, and a compiler); gloo needs neither.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "gloo"
    if torch.cuda.is_available():  # before anything allocates: engines and models follow the current device
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "nccl"
    deepspeed.init_distributed(backend, timeout=timedelta(minutes=timeout_minutes), verbose=False)
    if own_port:  # a process started from this one creates its own job at another port
        del os.environ["MASTER_PORT"]


def leave_process_group() -> None:
    """Leave the job's process group, if this process is in one."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


@contextmanager
def zero3_disabled() -> Iterator[None]:
    """Load models unpartitioned even under ZeRO-3, because a model without a DeepSpeed engine is never gathered."""
    from transformers.integrations import deepspeed as integration

    saved = integration._hf_deepspeed_config_weak_ref
    integration.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        integration._hf_deepspeed_config_weak_ref = saved


def world_size() -> int:
    """Number of processes in the job: torchrun's, or 1."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """This process's number; rank 0 writes files."""
    return int(os.environ.get("RANK", "0"))


def gather_objects(items: list[Any]) -> list[Any]:
    """Concatenate the lists of all ranks, in rank order (collective). Every rank gets all items: keep them small."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return items
    gathered: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(gathered, items)
    return [item for part in gathered for item in part]


def all_sum(values: Tensor) -> Tensor:
    """The sum of all ranks' tensors of one shape, on the CPU (collective)."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return values.cpu()
    total = values.to(_device(), copy=True)
    distributed.all_reduce(total)
    return total.cpu()


def exchange_bytes(outgoing: Callable[[int], np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """Send bytes to every other rank, and yield (rank, the bytes that it sent here) (collective).

    One rank after the other is sent to, so that only the bytes of one pair are in memory. Every rank must exhaust the
    iterator.

    Args:
        outgoing: `outgoing(rank)` gives the bytes for a rank, uint8 [N] with N > 0.
    """
    ranks = distributed.get_world_size() if distributed.is_initialized() else 1
    for distance in range(1, ranks):
        to, source = (rank() + distance) % ranks, (rank() - distance) % ranks
        sent = torch.from_numpy(outgoing(to)).to(_device())
        (length,) = _swapped(torch.tensor([len(sent)], device=sent.device), 1, to=to, source=source).tolist()
        yield source, _swapped(sent, length, to=to, source=source).numpy()


def _swapped(sent: Tensor, length: int, *, to: int, source: int) -> Tensor:
    """Send a tensor to one rank and receive one of `length` elements from another, on the CPU."""
    received = torch.empty(length, dtype=sent.dtype, device=sent.device)
    operations = [
        distributed.P2POp(distributed.isend, sent, to),
        distributed.P2POp(distributed.irecv, received, source),
    ]
    for work in distributed.batch_isend_irecv(operations):
        work.wait()
    return received.cpu()


def _device() -> str:
    """The device whose tensors the process group sends."""
    return "cuda" if distributed.get_backend() == "nccl" else "cpu"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
