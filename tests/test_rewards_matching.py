"""Matching in any order, against all permutations; a large set takes near-linear time."""

from __future__ import annotations

import time
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.verify.matching import MAX_COMPARISONS, matched

LETTERS = "abcdef"
Verdicts = dict[tuple[str, str], bool | None]
items = st.lists(st.sampled_from(LETTERS), max_size=5)
verdicts = st.fixed_dictionaries(
    {(x, y): st.sampled_from([True, False, None]) for x in LETTERS for y in LETTERS if x != y}
)


def by_permutations(gold: list[str], other: list[str], table: Verdicts) -> bool | None:
    if len(gold) != len(other):
        return False
    found = [
        [True if x == y else table[x, y] for x, y in zip(gold, order, strict=True)] for order in permutations(other)
    ]
    if any(all(row) for row in found):
        return True
    return None if any(False not in row for row in found) else False


@settings(max_examples=400)
@given(items, items, verdicts)
def test_the_verdict_is_that_of_all_permutations_whatever_equality_is(
    gold: list[str], other: list[str], table: Verdicts
) -> None:
    found = matched(gold, other, lambda x, y: table[x, y], key=str)
    assert found is by_permutations(gold, other, table)


@given(items.flatmap(lambda some: st.tuples(st.just(some), st.permutations(some))))
def test_a_permutation_is_equal_without_any_comparison(pair: tuple[list[str], list[str]]) -> None:
    def never(left: str, right: str) -> bool:
        raise AssertionError(f"{left} and {right} were compared")

    assert matched(*pair, decide=never, key=str) is True


def test_taking_the_first_equal_item_would_refuse_a_right_pairing() -> None:
    """1.0 is near both others, so it must go to the one that 1.2 isn't near."""

    def near(left: str, right: str) -> bool:
        return abs(float(left) - float(right)) < 0.15

    assert matched(["1.0", "1.2"], ["1.1", "0.9"], near, key=str) is True
    assert matched(["1.0", "1.2"], ["0.95", "0.9"], near, key=str) is False


@pytest.mark.parametrize(
    ("gold", "other", "expected"),
    [
        (["a", "a", "b"], ["a", "b", "a"], True),
        (["a", "a", "b"], ["a", "b", "b"], False),
        (["a"], ["a", "a"], False),
        ([], [], True),
    ],
)
def test_repetitions_count(gold: list[str], other: list[str], expected: bool) -> None:
    assert matched(gold, other, lambda left, right: False, key=str) is expected


def test_ten_thousand_items_in_any_order_take_less_than_a_second() -> None:
    gold = [f"item {number}" for number in range(10_000)]
    start = time.process_time()
    assert matched(gold, gold[::-1], lambda left, right: False, key=str) is True
    assert matched(gold, [*gold[1:], "another"], lambda left, right: False, key=str) is None
    assert time.process_time() - start < 5.0


def test_the_comparisons_are_bounded() -> None:
    asked = []

    def decide(left: str, right: str) -> bool:
        asked.append((left, right))
        return left == right[1:]

    gold = [f"{number}" for number in range(500)]
    assert matched(gold, [f"+{item}" for item in gold[::-1]], decide, key=str) is None
    assert len(asked) <= MAX_COMPARISONS
    assert matched(gold[:40], [f"+{item}" for item in gold[:40][::-1]], decide, key=str) is True
