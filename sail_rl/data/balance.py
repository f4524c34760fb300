"""Sharing samples out over ranks so that no rank waits for another: tokens and visual tokens are both balanced."""

from __future__ import annotations

from collections.abc import Sequence


def balanced_shares(costs: Sequence[tuple[int, int]], *, shares: int) -> list[list[int]]:
    """Distribute samples over `shares` ranks: the costliest first, each to the rank where it hurts least.

    A rank's load is the larger of its part of all tokens and its part of all visual tokens, because language model and
    vision tower take turns ("visual packing", SAIL-VL2 report, section 5). The result is a function of the costs alone,
    so every rank computes the same one.

    Args:
        costs: (tokens, visual tokens) of each sample; visual tokens are counted in tokens too.
        shares: number of ranks.

    Returns:
        The sample indices of each rank, ascending.
    """
    totals = [max(1, sum(cost[kind] for cost in costs)) for kind in range(2)]
    loads = [[0, 0] for _ in range(shares)]
    assigned: list[list[int]] = [[] for _ in range(shares)]
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i][0], -costs[i][1], i)):

        def load_with(share: int, index: int = index) -> tuple[float, float]:
            parts = [(loads[share][kind] + costs[index][kind]) / totals[kind] for kind in range(2)]
            return max(parts), sum(parts)

        chosen = min(range(shares), key=load_with)
        assigned[chosen].append(index)
        loads[chosen] = [load + cost for load, cost in zip(loads[chosen], costs[index], strict=True)]
    return [sorted(share) for share in assigned]
