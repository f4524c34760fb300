"""Balanced distribution of samples over ranks, so that no rank waits for another."""

from __future__ import annotations

from collections.abc import Sequence


def balanced_shares(sizes: Sequence[tuple[int, int]], *, shares: int) -> list[list[int]]:
    """Distribute samples over `shares` ranks: the largest first, each to the rank whose load it leaves smallest.

    A rank's load is the larger of its share of all tokens and its share of all visual tokens, because language model
    and vision tower run one after the other ("visual packing", SAIL-VL2 report, section 5). The result depends on the
    sizes alone, so every rank computes the same distribution.

    Args:
        sizes: (tokens, visual tokens) of each sample; tokens include visual tokens.
        shares: number of ranks.

    Returns:
        The sample indices of each rank, ascending.
    """
    totals = [max(1, sum(size[kind] for size in sizes)) for kind in range(2)]
    loads = [[0, 0] for _ in range(shares)]
    assigned: list[list[int]] = [[] for _ in range(shares)]
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i][0], -sizes[i][1], i)):

        def load_with(share: int, index: int = index) -> tuple[float, float]:
            parts = [(loads[share][kind] + sizes[index][kind]) / totals[kind] for kind in range(2)]
            return max(parts), sum(parts)

        chosen = min(range(shares), key=load_with)
        assigned[chosen].append(index)
        loads[chosen] = [load + size for load, size in zip(loads[chosen], sizes[index], strict=True)]
    return [sorted(share) for share in assigned]
