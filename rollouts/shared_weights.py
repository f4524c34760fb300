"""All weights in one block of shared memory: the trainer writes them, worker processes read them where they lie."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import multiprocessing  # noqa: F401  (teaches pickle to hand shared tensors to other processes)

ALIGNMENT = 64  # bytes


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one tensor lies in the block: `offset` in bytes."""

    name: str
    offset: int
    shape: torch.Size
    dtype: torch.dtype

    def view(self, block: torch.Tensor) -> torch.Tensor:
        """The tensor, without a copy."""
        size = self.shape.numel() * self.dtype.itemsize
        return block[self.offset : self.offset + size].view(self.dtype).view(self.shape)


@dataclass(frozen=True, slots=True)
class SharedWeights:
    """A block [bytes] with a slot for each tensor. Sent to another process, it is the same memory there.

    The memory has no name: it is freed when the last process that holds it ends, however that ends.
    """

    block: torch.Tensor
    slots: tuple[Slot, ...]

    @classmethod
    @torch.no_grad()
    def of(cls, tensors: Iterable[tuple[str, torch.Tensor]]) -> SharedWeights:
        """A block that holds these tensors; copied once more on the way, because their sizes come with them."""
        copies, slots, size = [], [], 0
        for name, tensor in tensors:
            slots.append(Slot(name, size, tensor.shape, tensor.dtype))
            copies.append((name, tensor.to("cpu", copy=True)))
            size += -(-tensor.numel() * tensor.element_size() // ALIGNMENT) * ALIGNMENT
        weights = cls(torch.empty(size, dtype=torch.uint8).share_memory_(), tuple(slots))
        weights.write(copies)
        return weights

    @torch.no_grad()
    def write(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Copy the tensors into the block, one at a time as they come (under ZeRO-3 each is whole only for a moment).

        Raises:
            ValueError: a tensor isn't the one that the block has a slot for.
        """
        for slot, (name, tensor) in zip(self.slots, tensors, strict=True):
            if (name, tensor.shape, tensor.dtype) != (slot.name, slot.shape, slot.dtype):
                raise ValueError(
                    f"the weights changed their form: {name} {tuple(tensor.shape)} {tensor.dtype} came where "
                    f"{slot.name} {tuple(slot.shape)} {slot.dtype} was before"
                )
            slot.view(self.block).copy_(tensor)

    def tensors(self) -> list[tuple[str, torch.Tensor]]:
        """All tensors by name, as views of the block."""
        return [(slot.name, slot.view(self.block)) for slot in self.slots]
