"""Rollouts travel point to point, from the rank that sampled them to the rank that trains on them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from sail_rl.contracts import Rollout
from sail_rl.data.balance import Place

from .distributed import exchange_bytes, rank
from .groups import Group
from .rollout_bytes import from_bytes, to_bytes


class HeldRollouts(dict[int, list[Rollout]]):
    """The rollouts that this rank has sampled and that no step has used yet, by the number of their prompt."""

    def keep(self, numbers: Iterable[int]) -> None:
        """Drop the rollouts of all other prompts."""
        for number in self.keys() - set(numbers):
            del self[number]

    def save(self, path: Path) -> None:
        """Write them, exactly; see `load`."""
        bounds = np.cumsum([0, *map(len, self.values())])
        rollouts = to_bytes([rollout for group in self.values() for rollout in group])
        with path.open("wb") as file:
            np.savez(file, numbers=np.array(list(self), np.int64), bounds=bounds, rollouts=rollouts)

    def load(self, paths: Iterable[Path], numbers: Collection[int]) -> None:
        """Replace them by those of these prompts, out of the files that `save` wrote on the ranks of a job."""
        self.clear()
        for path in paths:
            with np.load(path) as file:
                found, bounds, rollouts = (
                    file["numbers"].tolist(),
                    file["bounds"].tolist(),
                    from_bytes(file["rollouts"]),
                )
            self.update(zip(found, [rollouts[start:end] for start, end in pairwise(bounds)], strict=True))
            self.keep(numbers)


def exchange_rollouts(
    groups: Sequence[Group], shares: Sequence[Sequence[Place]], held: HeldRollouts
) -> dict[Place, Rollout]:
    """The rollouts of a step that this rank trains on, from the ranks that sampled them (collective).

    Each rollout is sent to one rank at most, with its routed experts, and nowhere else.

    Args:
        groups: the step's groups, the same on every rank.
        shares: the places of the rollouts that each rank trains on, the same on every rank.
        held: this rank's rollouts; loses those of the step.
    """
    own = {
        (position, index): rollout
        for position, group in enumerate(groups)
        if group.rank == rank()
        for index, rollout in enumerate(held.pop(group.prompt.number))
    }
    found = {place: own.pop(place) for place in shares[rank()] if place in own}

    def outgoing(to: int) -> np.ndarray:
        return to_bytes([own.pop(place) for place in shares[to] if groups[place[0]].rank == rank()])

    for source, data in exchange_bytes(outgoing):
        places = [place for place in shares[rank()] if groups[place[0]].rank == source]
        found |= zip(places, from_bytes(data), strict=True)
    return found
