"""All weights in one block of memory: the trainer writes them, and worker processes read them in place.

On a CPU the block is shared memory; on a GPU the workers open it by CUDA IPC.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import multiprocessing  # noqa: F401  (teaches pickle to hand shared tensors to other processes)
from torch.multiprocessing.reductions import reduce_tensor

ALIGNMENT = 64  # bytes


@dataclass(frozen=True, slots=True)
class Slot:
    """The position of one tensor in the block; `offset` is in bytes."""

    name: str
    offset: int
    shape: torch.Size
    dtype: torch.dtype

    def view(self, block: torch.Tensor) -> torch.Tensor:
        """The tensor, as a view of the block."""
        size = self.shape.numel() * self.dtype.itemsize
        return block[self.offset : self.offset + size].view(self.dtype).view(self.shape)


@dataclass(frozen=True, slots=True)
class SharedWeights:
    """A block [bytes] with a slot for each tensor. Pickled to another process, it refers to the same memory there.

    The memory is anonymous: the operating system frees it when the last process that holds it ends. On a GPU the memory
    belongs to the trainer, which must keep the block; workers must see the same GPU, under any index.
    """

    block: torch.Tensor
    slots: tuple[Slot, ...]

    @classmethod
    @torch.no_grad()
    def of(cls, tensors: Iterable[tuple[str, torch.Tensor]], device: str = "cpu") -> SharedWeights:
        """A block that holds these tensors. They are copied twice, because their sizes are known only at the end."""
        copies, slots, size = [], [], 0
        for name, tensor in tensors:
            slots.append(Slot(name, size, tensor.shape, tensor.dtype))
            copies.append((name, tensor.to("cpu", copy=True)))
            size += -(-tensor.numel() * tensor.element_size() // ALIGNMENT) * ALIGNMENT
        block = torch.empty(size, dtype=torch.uint8, device=device)
        weights = cls(block if block.is_cuda else block.share_memory_(), tuple(slots))
        weights.write(copies)
        return weights

    @torch.no_grad()
    def write(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Copy the tensors, in any order, into the block one at a time (ZeRO-3 gathers each only for a moment).

        Raises:
            ValueError: a tensor is unknown or missing, or differs in shape or dtype from its slot.
        """
        missing = {slot.name: slot for slot in self.slots}
        for name, tensor in tensors:
            slot = missing.pop(name, None)
            if slot is None or (tensor.shape, tensor.dtype) != (slot.shape, slot.dtype):
                known = f"{tuple(slot.shape)} {slot.dtype}" if slot else "no such tensor, or twice"
                raise ValueError(
                    f"the weights changed: {name} is {tuple(tensor.shape)} {tensor.dtype}, and was {known}"
                )
            slot.view(self.block).copy_(tensor)
        if missing:
            raise ValueError(f"the weights changed: {', '.join(missing)} did not come")
        if self.block.is_cuda:  # a reader in another process doesn't wait for this one's stream
            torch.cuda.synchronize()

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.block.is_cuda:
            return SharedWeights, (self.block, self.slots)
        return _opened, (reduce_tensor(self.block), self.slots)

    def tensors(self) -> list[tuple[str, torch.Tensor]]:
        """All tensors by name, as views of the block."""
        return [(slot.name, slot.view(self.block)) for slot in self.slots]


def _opened(handle: tuple[Any, ...], slots: tuple[Slot, ...]) -> SharedWeights:
    """The trainer's block in a worker, where the GPU may have another index."""
    rebuild, arguments = handle[0], list(handle[1])
    arguments[6] = torch.cuda.current_device()  # of `torch.multiprocessing.reductions.rebuild_cuda_tensor`
    return SharedWeights(rebuild(*arguments), slots)
