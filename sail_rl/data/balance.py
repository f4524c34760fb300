"""Balanced distribution of groups of samples over ranks, so that no rank waits for another."""

from __future__ import annotations

from collections.abc import Sequence

Size = tuple[int, int]
"""(tokens, visual tokens) of a sample; tokens include visual tokens."""
Place = tuple[int, int]
"""(number of the group, number of the sample in its group)."""
SLACK = 1.05
"""How much larger loads may be so that groups stay whole: another rank decodes and encodes a group's images again."""


def balanced_shares(sizes: Sequence[Sequence[Size]], homes: Sequence[int], *, ranks: int) -> list[list[Place]]:
    """Distribute the samples of groups over ranks: balanced, with few samples moved and few groups split.

    A rank's load is the larger of its share of all tokens and its share of all visual tokens, because language model
    and vision tower run one after the other ("visual packing", SAIL-VL2 report, section 5). Groups stay at home and
    whole where the balance allows it. Otherwise, as with few groups or with images at one home and texts at another,
    samples are dealt one by one. The result depends on the arguments alone, so every rank computes the same.

    Args:
        sizes: the sizes of the samples of each group.
        homes: for each group, the rank that already has its samples and its images.
        ranks: number of ranks.

    Returns:
        The places of each rank, ascending.
    """
    whole, single = _Dealt(sizes, ranks), _Dealt(sizes, ranks)
    whole.deal_groups(homes)
    single.deal_samples(single.places(range(len(sizes))))
    chosen = whole if whole.largest_load <= SLACK * single.largest_load else single
    return [sorted(share) for share in chosen.shares]


class _Dealt:
    """Samples dealt to ranks so far, with each rank's load of tokens and of visual tokens."""

    def __init__(self, sizes: Sequence[Sequence[Size]], ranks: int) -> None:
        self.sizes = sizes
        self.totals = [max(1, sum(size[kind] for group in sizes for size in group)) for kind in range(2)]
        self.loads = [[0, 0] for _ in range(ranks)]
        self.shares: list[list[Place]] = [[] for _ in range(ranks)]

    @property
    def largest_load(self) -> float:
        """The load of the rank that the others wait for."""
        return max(load / total for loads in self.loads for load, total in zip(loads, self.totals, strict=True))

    def places(self, groups: Sequence[int]) -> list[Place]:
        """The places of all samples of these groups."""
        return [(group, sample) for group in groups for sample in range(len(self.sizes[group]))]

    def deal_groups(self, homes: Sequence[int]) -> None:
        """The largest groups first, at home or else elsewhere, where they fit; the rest sample by sample."""
        largest_first = sorted(range(len(homes)), key=lambda group: (-sum(map(sum, self.sizes[group])), group))
        moving = [group for group in largest_first if not self._took(homes[group], self.places([group]))]
        rest = [group for group in moving if not self._took(self._best(self.places([group])), self.places([group]))]
        self.deal_samples(self.places(rest))

    def deal_samples(self, places: Sequence[Place]) -> None:
        """The largest samples first, each to the rank whose load it leaves smallest."""
        for place in sorted(places, key=lambda place: (*(-size for size in self.sizes[place[0]][place[1]]), place)):
            self._give(self._best([place]), [place])

    def _took(self, rank: int, places: Sequence[Place]) -> bool:
        """Give the samples to the rank if they fit below the mean load and slack; returns whether they do."""
        rooms = [SLACK * total / len(self.loads) for total in self.totals]
        fits = all(load <= room for load, room in zip(self._loads_with(rank, places), rooms, strict=True))
        if fits:
            self._give(rank, places)
        return fits

    def _give(self, rank: int, places: Sequence[Place]) -> None:
        self.loads[rank] = self._loads_with(rank, places)
        self.shares[rank] += places

    def _best(self, places: Sequence[Place]) -> int:
        """The rank whose load these samples leave smallest."""

        def load(rank: int) -> tuple[int, int]:
            tokens, visual = self._loads_with(rank, places)
            parts = tokens * self.totals[1], visual * self.totals[0]
            return max(parts), sum(parts)

        return min(range(len(self.loads)), key=load)

    def _loads_with(self, rank: int, places: Sequence[Place]) -> list[int]:
        added = [self.sizes[group][sample] for group, sample in places]
        return [load + sum(size[kind] for size in added) for kind, load in enumerate(self.loads[rank])]
