"""Compares two collections in any order: near-linear where the items' keys agree, exact matching for the others."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import chain

Decide = Callable[[str, str], bool | None]
MAX_COMPARISONS = 1024  # 32 items whose keys all differ; the comparison of a pair costs up to a millisecond


def matched(gold: Sequence[str], given: Sequence[str], decide: Decide, key: Callable[[str], Hashable]) -> bool | None:
    """Whether the items can be paired one to one such that the items of each pair are equal.

    Items with equal keys are equal; `decide` is asked about other pairs, where None means that it can't tell. Nothing
    is assumed about `decide`: it need not be transitive, so all pairings are considered (augmenting paths in the
    bipartite graph of equal items, Kuhn 1955).

    Args:
        gold: the items of one collection, with repetitions.
        given: the items of the other.
        decide: whether two items are equal.
        key: a canonical form of an item.

    Returns:
        True if a pairing of equal items exists, False if none exists whatever the undecided pairs are, else None. None
        also stands for a question that takes more than MAX_COMPARISONS comparisons.
    """
    if len(gold) != len(given):
        return False
    pairing = _Pairing([key(item) for item in gold], [key(item) for item in given])
    verdicts: dict[tuple[Hashable, Hashable], bool | None] = {}
    left_over = MAX_COMPARISONS

    def verdict(left: int, right: int) -> bool | None:
        nonlocal left_over
        if pairing.keys[0][left] == pairing.keys[1][right]:
            return True
        left_over -= 1
        if left_over < 0:
            raise _ComparisonsError
        pair = pairing.keys[0][left], pairing.keys[1][right]
        if pair not in verdicts:
            verdicts[pair] = decide(gold[left], given[right])
        return verdicts[pair]

    try:
        if pairing.complete(lambda left, right: verdict(left, right) is True):
            return True
        return None if pairing.complete(lambda left, right: verdict(left, right) is not False) else False
    except _ComparisonsError:
        return None


class _ComparisonsError(Exception):
    pass


class _Pairing:
    """Pairs of positions (left, right), at first those with equal keys."""

    def __init__(self, left: Sequence[Hashable], right: Sequence[Hashable]) -> None:
        self.keys = left, right
        positions: defaultdict[Hashable, list[int]] = defaultdict(list)
        for position, key in enumerate(right):
            positions[key].append(position)
        self.right_of = {position: positions[key].pop() for position, key in enumerate(left) if positions.get(key)}
        self.left_of = {right: left for left, right in self.right_of.items()}
        self.free = dict.fromkeys(position for position in range(len(right)) if position not in self.left_of)

    def complete(self, equal: Callable[[int, int], bool]) -> bool:
        """Pair every position on the left, by pairs that are `equal`; False if that is impossible."""
        return all(left in self.right_of or self._augment(left, equal) for left in range(len(self.keys[0])))

    def _augment(self, start: int, equal: Callable[[int, int], bool]) -> bool:
        """Pair one more position, perhaps by changing the partners of others."""
        reached_from: dict[int, int] = {}
        waiting = deque([start])
        while waiting:
            left = waiting.popleft()
            for right in self._unseen(reached_from):
                if not equal(left, right):
                    continue
                reached_from[right] = left
                if right in self.free:
                    self._flip(right, reached_from)
                    return True
                waiting.append(self.left_of[right])
        return False

    def _unseen(self, reached: dict[int, int]) -> Iterable[int]:
        return (right for right in chain(self.free, self.left_of) if right not in reached)

    def _flip(self, end: int, reached_from: dict[int, int]) -> None:
        """Pair along the path that ends in the free position `end`."""
        del self.free[end]
        right: int | None = end
        while right is not None:
            left = reached_from[right]
            before = self.right_of.get(left)
            self.right_of[left], self.left_of[right] = right, left
            right = before
