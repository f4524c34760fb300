"""Stream packing with visual balance (SAIL-VL2 report, section 5): full micro-batches out of a stream of samples.

Samples wait in a buffer. Each micro-batch takes the sample that has waited longest and those that fill the rest best.
No sample is cut, and none waits for more micro-batches than the buffer holds samples. The micro-batches of a step are
dealt to the ranks so that all ranks process about as many visual tokens at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .order import RowStream

Size = tuple[int, int]
"""(tokens, visual tokens) of a sample or micro-batch; tokens include visual tokens."""
RowNumbers = list[int]
"""Dataset row numbers of the samples in one micro-batch."""


@dataclass(slots=True)
class StreamPacker:
    """An endless stream of packed steps. It depends only on the samples' sizes, so all ranks compute the same stream.

    Args:
        stream: the order of the dataset's rows.
        measure: returns the size of the sample with a given row number, at most `pack_length` tokens.
        pack_length: tokens of a micro-batch.
        micro_batches: micro-batches of a step, over all ranks; a multiple of `world_size`.
        buffer: number of waiting samples; a larger buffer fills micro-batches better and lets samples wait longer.
        world_size: number of ranks.
        position: next position in the stream; with `waiting`, the state of the packer.
        waiting: row numbers and sizes of the waiting samples, oldest first.
    """

    stream: RowStream
    measure: Callable[[int], Size]
    pack_length: int
    micro_batches: int
    buffer: int
    world_size: int = 1
    position: int = 0
    waiting: list[tuple[int, Size]] = field(default_factory=list)

    def step(self) -> tuple[list[list[RowNumbers]], dict[str, float]]:
        """The next step's micro-batches by rank, and metrics of their fill and balance."""
        packed = [self._next() for _ in range(self.micro_batches)]
        shares = deal([visual for _, (_, visual) in packed], ranks=self.world_size)
        metrics = {
            "packing/fill": sum(tokens for _, (tokens, _) in packed) / (self.micro_batches * self.pack_length),
            "packing/visual_imbalance": imbalance([[packed[index][1][1] for index in share] for share in shares]),
            "packing/samples": float(sum(len(numbers) for numbers, _ in packed)),
        }
        return [[packed[index][0] for index in share] for share in shares], metrics

    def peek(self) -> list[list[RowNumbers]]:
        """The micro-batches that the next call of `step` will give, by rank."""
        return replace(self, waiting=list(self.waiting)).step()[0]

    def state(self) -> dict[str, Any]:
        """The state that a checkpoint saves, as JSON values."""
        return {"position": self.position, "waiting": [number for number, _ in self.waiting]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.position = state["position"]
        self.waiting = [(number, self.measure(number)) for number in state["waiting"]]

    def _next(self) -> tuple[RowNumbers, Size]:
        """Fill the buffer and take one micro-batch out of it."""
        missing = self.buffer - len(self.waiting)
        for number in self.stream.stretch(self.position, missing):
            size = self.measure(number)
            if size[0] > self.pack_length:
                raise ValueError(
                    f"sample {number} has {size[0]} tokens, more than pack_length {self.pack_length}; samples "
                    "are never cut: raise pack_length (and model.max_length), or drop the sample"
                )
            self.waiting.append((number, size))
        self.position += missing
        chosen = fill([size for _, size in self.waiting], room=self.pack_length)
        taken = [self.waiting[index] for index in chosen]
        self.waiting = [sample for index, sample in enumerate(self.waiting) if index not in set(chosen)]
        tokens, visual = (sum(size[kind] for _, size in taken) for kind in range(2))
        return [number for number, _ in taken], (tokens, visual)


def fill(sizes: Sequence[Size], *, room: int) -> list[int]:
    """Choose the samples of one micro-batch: the first, and others so that the micro-batch is as full as possible.

    Among the sets of equal fill, one with about the buffer's share of visual tokens and with early samples is chosen.
    The reachable sums are the bits of integers (subset sum), so the optimum is exact and fast to find.

    Args:
        sizes: sizes of the waiting samples, oldest first; the first one must fit.
        room: tokens of the micro-batch.

    Returns:
        Ascending indices into `sizes`.
    """
    fits = (1 << (room - sizes[0][0] + 1)) - 1
    sums = [1]  # sums[n]: bit s is set if a subset of the n newest samples has s tokens
    for tokens, _ in reversed(sizes[1:]):
        sums.append((sums[-1] | (sums[-1] << tokens)) & fits)
    left = sums.pop().bit_length() - 1
    target = room * sum(visual for _, visual in sizes) / sum(tokens for tokens, _ in sizes)
    chosen, seen = [0], sizes[0][1]
    for index, (tokens, visual) in enumerate(sizes[1:], start=1):
        newer = sums.pop()
        without = newer >> left & 1
        with_it = left >= tokens and newer >> (left - tokens) & 1
        if with_it and not (without and seen + visual > target):
            chosen.append(index)
            left, seen = left - tokens, seen + visual
    return chosen


def deal(visual: Sequence[int], *, ranks: int) -> list[list[int]]:
    """Deal micro-batches to ranks: similar visual tokens at the same time, and similar sums at the end.

    Args:
        visual: visual tokens of each micro-batch; their number is a multiple of `ranks`.
        ranks: number of ranks.

    Returns:
        The indices of each rank's micro-batches, in the order in which the rank processes them.
    """
    order = sorted(range(len(visual)), key=lambda index: (-visual[index], index))
    shares: list[list[int]] = [[] for _ in range(ranks)]
    totals = [0] * ranks
    for start in range(0, len(order), ranks):
        poorest = sorted(range(ranks), key=lambda rank: (totals[rank], rank))
        for rank, index in zip(poorest, order[start : start + ranks], strict=True):
            shares[rank].append(index)
            totals[rank] += visual[index]
    return shares


def imbalance(visual: Sequence[Sequence[int]]) -> float:
    """Extra time of the vision towers over a perfect balance: 0.1 means 10 % longer.

    Args:
        visual: [ranks, micro-batches] visual tokens; ranks wait for each other after each micro-batch.
    """
    spent = sum(max(step) for step in zip(*visual, strict=True))
    ideal = sum(map(sum, visual)) / len(visual)
    return spent / ideal - 1 if ideal else 0.0
