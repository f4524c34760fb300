"""The order of dataset rows: a function of the seed and the batch number, so resuming needs no stored state."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sail_rl.seeding import derive_seed


@dataclass(frozen=True, slots=True)
class RowStream:
    """Endless passes over `rows`, each shuffled anew, in batches of which each rank gets an equal, contiguous share.

    Args:
        rows: the dataset.
        batch_size: rows of a batch over all ranks; a multiple of `world_size`.
        seed: seed of the shuffles, one for each epoch.
        rank: number of this process; `world_size`: number of processes.
    """

    rows: Sequence[dict[str, Any]]
    batch_size: int
    seed: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        if self.batch_size % self.world_size:
            raise ValueError(
                f"batch of {self.batch_size} rows over {self.world_size} ranks: give a multiple of {self.world_size}"
            )

    def indices(self, batch: int) -> list[int]:
        """Row numbers of the whole batch, all ranks."""
        return self.stretch(batch * self.batch_size, self.batch_size)

    def stretch(self, start: int, count: int) -> list[int]:
        """Row numbers at `count` positions of the endless order, from `start` on."""
        positions = range(start, start + count)
        epochs = {position // len(self.rows) for position in positions}
        orders = {epoch: _order(len(self.rows), self.seed, epoch) for epoch in epochs}
        return [orders[position // len(self.rows)][position % len(self.rows)] for position in positions]

    def describe(self, row: int) -> str:
        """The source of a row, for errors: file and row number, where the rows know them."""
        describe = getattr(self.rows, "describe", "row {}".format)
        return str(describe(row))

    def share(self, batch: int) -> list[int]:
        """This rank's row numbers of batch number `batch`."""
        share = self.batch_size // self.world_size
        return self.indices(batch)[self.rank * share : (self.rank + 1) * share]

    def batch(self, batch: int) -> list[dict[str, Any]]:
        """This rank's rows of batch number `batch`."""
        return [self.rows[index] for index in self.share(batch)]


@functools.lru_cache(maxsize=4)
def _order(rows: int, seed: int, epoch: int) -> tuple[int, ...]:
    order = list(range(rows))
    random.Random(derive_seed(seed, "epoch", epoch)).shuffle(order)
    return tuple(order)
