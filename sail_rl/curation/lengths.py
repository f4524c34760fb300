"""Balances the lengths of thoughts, so that no range of lengths dominates."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence

from sail_rl.completion import THINK_END
from sail_rl.seeding import derive_seed

from .outcome import Outcome, Row
from .reading import tokens_of


def balance_lengths(rows: Sequence[Row], *, edges: Sequence[int], most: float, seed: int = 0) -> Outcome:
    """Drop rows at random so that no bin of thought lengths holds more than a given share of the remaining rows.

    Args:
        rows: unified rows.
        edges: the ascending bin edges in tokens; the first and the last bin are open.
        most: the largest share of one bin; with fewer than 1 / most non-empty bins, all get equal shares.
        seed: the seed of the choice within a bin.
    """
    bins: dict[int, list[int]] = defaultdict(list)
    for position, row in enumerate(rows):
        bins[bisect_right(edges, len(tokens_of(row["completion"].partition(THINK_END)[0])))].append(position)
    cap = _cap([len(positions) for positions in bins.values()], most)
    kept: set[int] = set()
    for number, positions in bins.items():
        chance = random.Random(derive_seed(seed, "lengths", number))
        kept |= set(positions if len(positions) <= cap else chance.sample(positions, cap))
    outcome = Outcome()
    for position, row in enumerate(rows):
        if position in kept:
            outcome.keep(row, row)
        else:
            outcome.drop(row, "too many thoughts of this length")
    return outcome


def _cap(counts: Sequence[int], most: float) -> int:
    """The largest bin size, at least 1, for which no bin exceeds the share `most` of the remaining rows."""
    most = max(most, 1 / len(counts))  # a smaller share is impossible with so few bins
    low, high = 1, max(counts)
    while low < high:
        middle = (low + high + 1) // 2
        kept = [min(count, middle) for count in counts]
        low, high = (middle, high) if max(kept) <= most * sum(kept) else (low, middle - 1)
    return low
