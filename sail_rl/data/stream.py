"""Stream packing with visual balance (SAIL-VL2 report, section 5): full rows out of a stream of samples.

Samples wait in a buffer. A row takes the one that has waited longest, and beside it those that fill the row best; so
nothing is cut, nothing starves, and long samples don't wait for a place. A step's rows are dealt to the ranks so that
all of them see about as many visual tokens at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .order import RowStream

Size = tuple[int, int]
"""(tokens, visual tokens among them) of a sample or row."""
Row = list[int]
"""Row numbers of the samples that share a packed row."""


@dataclass(slots=True)
class StreamPacker:
    """An endless stream of packed steps; the same on every rank, because it depends on the samples' sizes alone.

    Args:
        stream: the order of the dataset's rows.
        measure: size of the sample with this row number; none is longer than `pack_length`.
        pack_length: tokens that a row has room for.
        rows: rows of a step, over all ranks; a multiple of `world_size`.
        buffer: samples that wait; more fill rows better and let a sample wait longer.
        world_size: ranks.
    """

    stream: RowStream
    measure: Callable[[int], Size]
    pack_length: int
    rows: int
    buffer: int
    world_size: int = 1
    position: int = 0
    """The next place of the stream."""
    waiting: list[tuple[int, Size]] = field(default_factory=list)
    """Row numbers and sizes, oldest first."""

    def step(self) -> tuple[list[list[Row]], dict[str, float]]:
        """The next step's rows by rank, and how well they are filled and balanced."""
        rows, sizes = [], []
        for _ in range(self.rows):
            row, size = self._next_row()
            rows.append(row)
            sizes.append(size)
        shares = deal([visual for _, visual in sizes], ranks=self.world_size)
        seen = [[sizes[place][1] for place in share] for share in shares]
        metrics = {
            "packing/fill": sum(tokens for tokens, _ in sizes) / (self.rows * self.pack_length),
            "packing/visual_imbalance": imbalance(seen),
            "packing/samples": float(sum(map(len, rows))),
        }
        return [[rows[place] for place in share] for share in shares], metrics

    def state(self) -> dict[str, Any]:
        """What resuming takes; JSON."""
        return {"position": self.position, "waiting": [number for number, _ in self.waiting]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken."""
        self.position = state["position"]
        self.waiting = [(number, self.measure(number)) for number in state["waiting"]]

    def _next_row(self) -> tuple[Row, Size]:
        missing = self.buffer - len(self.waiting)
        for number in self.stream.stretch(self.position, missing):
            size = self.measure(number)
            if size[0] > self.pack_length:
                raise ValueError(
                    f"sample {number} has {size[0]} tokens, and a packed row {self.pack_length}; none is ever cut: "
                    "raise pack_length (and model.max_length), or drop it"
                )
            self.waiting.append((number, size))
        self.position += missing
        chosen = fill_row([size for _, size in self.waiting], room=self.pack_length)
        taken = [self.waiting[place] for place in chosen]
        self.waiting = [sample for place, sample in enumerate(self.waiting) if place not in set(chosen)]
        tokens, visual = (sum(size[kind] for _, size in taken) for kind in range(2))
        return [number for number, _ in taken], (tokens, visual)


def fill_row(sizes: Sequence[Size], *, room: int) -> list[int]:
    """The samples of one row: the first, and of the others those with which the row is as full as it can be.

    Of the sets that fill it alike, one with the buffer's own share of visual tokens and with early samples is taken.
    The sums that can be had are the bits of integers (subset sum), so the best one is found, and fast.

    Args:
        sizes: of the waiting samples, oldest first; the first one fits.
        room: tokens of the row.

    Returns:
        Places in `sizes`, ascending.
    """
    fits = (1 << (room - sizes[0][0] + 1)) - 1
    sums = [1]  # sums[n]: bit s is set if some of the n newest samples have s tokens together
    for tokens, _ in reversed(sizes[1:]):
        sums.append((sums[-1] | (sums[-1] << tokens)) & fits)
    left = sums.pop().bit_length() - 1
    target = room * sum(visual for _, visual in sizes) / sum(tokens for tokens, _ in sizes)
    chosen, seen = [0], sizes[0][1]
    for place, (tokens, visual) in enumerate(sizes[1:], start=1):
        newer = sums.pop()
        without = newer >> left & 1
        with_it = left >= tokens and newer >> (left - tokens) & 1
        if with_it and not (without and seen + visual > target):
            chosen.append(place)
            left, seen = left - tokens, seen + visual
    return chosen


def deal(visual: Sequence[int], *, ranks: int) -> list[list[int]]:
    """Deal rows to ranks: rows of like visual tokens at the same time, and like sums at the end.

    Args:
        visual: visual tokens of each row; as many rows as ranks, or a multiple.
        ranks: number of ranks.

    Returns:
        The rows' places by rank, in the order of their micro-batches.
    """
    order = sorted(range(len(visual)), key=lambda place: (-visual[place], place))
    shares: list[list[int]] = [[] for _ in range(ranks)]
    totals = [0] * ranks
    for start in range(0, len(order), ranks):
        poorest = sorted(range(ranks), key=lambda rank: (totals[rank], rank))
        for rank, place in zip(poorest, order[start : start + ranks], strict=True):
            shares[rank].append(place)
            totals[rank] += visual[place]
    return shares


def imbalance(visual: Sequence[Sequence[int]]) -> float:
    """How much longer the ranks' vision towers take than if all had as many visual tokens: 0.1 is 10 % longer.

    Args:
        visual: visual tokens [ranks, micro-batches]; ranks wait for each other after each micro-batch.
    """
    spent = sum(max(step) for step in zip(*visual, strict=True))
    ideal = sum(map(sum, visual)) / len(visual)
    return spent / ideal - 1 if ideal else 0.0
