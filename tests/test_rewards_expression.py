"""Reward expressions: what is allowed, values by hand, what is skipped, what is still needed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.combine.expression import UNKNOWN, evaluate, needed, parse_expression, parts_of, weighted_sum

NAMES = ("judge", "think", "answer", "format")
TOTAL = "0.9 * judge * think * answer + 0.1 * format"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("answer - format - 1", -0.75),
        ("answer - (format - 1)", 1.25),
        ("-answer + 1", 0.5),
        ("answer / format", 2),
        ("min(answer, format, 3) + max(0, -answer)", 0.25),
        ("+1e-1 * answer", 0.05),
    ],
)
def test_values_by_hand(text: str, value: float) -> None:
    assert evaluate(parse_expression(text, NAMES), {"answer": 0.5, "format": 0.25}) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "message", "place"),
    [
        ("0.9 * jugde", "no reward is called 'jugde'; the nearest is 'judge'", "      ^^^^^"),
        ("answer ** 2", "numbers, names of rewards", "^^^^^^^^^^^"),
        ("__import__('os')", "numbers, names of rewards", "^^^^^^^^^^^^^^^^"),
        ("answer.real", "numbers, names of rewards", "^^^^^^^^^^^"),
        ("answer if think else 0", "numbers, names of rewards", "^"),
        ("min(answer)", "numbers, names of rewards", "^^^^^^^^^^^"),
        ("True * answer", "numbers, names of rewards", "^^^^"),
        ("1e999 * answer", "numbers, names of rewards", "^^^^^"),
        ("0.9 * * answer", "invalid syntax", "      ^"),
        ("", "invalid syntax", "^"),
    ],
)
def test_anything_else_is_an_error_that_points_at_the_place(text: str, message: str, place: str) -> None:
    with pytest.raises(ValueError, match="reward expression") as info:
        parse_expression(text, NAMES)
    first, shown, marks = str(info.value).split("\n")
    assert message in first
    assert shown == f"    {text}"
    assert marks.startswith(f"    {place}")


@pytest.mark.parametrize(
    ("text", "skipped", "value"),
    [
        ("0.6 * answer + 0.3 * think", "think", 0.6),
        ("0.9 * answer * think", "think", 0.9),
        ("0.9 * think + 0.1 * answer", "think", 0.1),
        ("2 * (answer - think)", "think", 2),
        ("2 * (think - answer)", "think", -2),
        ("min(answer, think)", "think", 1),
        ("answer / think", "think", 1),
        ("0.5 * think", "think", None),
        ("1 - think", "think", None),
        ("think / answer", "think", None),
    ],
)
def test_a_skipped_reward_drops_out_of_its_operation(text: str, skipped: str, value: float | None) -> None:
    assert evaluate(parse_expression(text, NAMES), {"answer": 1.0, skipped: None}) == value


def test_a_product_is_zero_with_its_first_zero_and_needs_nothing_more() -> None:
    tree = parse_expression(TOTAL, NAMES)
    assert needed(tree, {}) == set(NAMES)
    assert needed(tree, {"answer": 0.0}) == {"format"}
    assert needed(tree, {"answer": 1.0, "format": 1.0}) == {"judge", "think"}
    assert needed(tree, {"answer": 0.0, "format": 1.0}) == set()
    assert evaluate(tree, {"answer": 0.0, "format": 1.0}) == pytest.approx(0.1)
    assert evaluate(tree, {"answer": 1.0, "format": 1.0}) is UNKNOWN


def test_every_operation_over_two_rewards_is_a_part_of_its_own() -> None:
    assert list(parts_of(parse_expression(TOTAL, NAMES))) == ["0.9*judge*think*answer"]
    parts = parts_of(parse_expression("(judge * think) * (answer + format / 2)", NAMES))
    assert list(parts) == ["judge*think", "answer+format÷2"]


def test_a_weighted_sum_has_no_part_but_its_rewards() -> None:
    tree = weighted_sum({"answer": 0.75, "format": 0.25})
    assert parts_of(tree) == {}
    assert evaluate(tree, {"answer": 1.0, "format": 0.5}) == 0.875


numbers = st.sampled_from([0.0, 0.25, 0.5, 1.0])
leaves = st.sampled_from([*NAMES, "2", "0.5"])
expressions = st.recursive(
    leaves,
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from("+-*"), inner)
        | st.builds("min({}, {})".format, inner, inner)
    ),
    max_leaves=12,
)


@given(expressions, st.fixed_dictionaries(dict.fromkeys(NAMES, numbers)))
def test_calling_only_what_is_needed_gives_python_s_own_value(text: str, scores: dict[str, float]) -> None:
    tree = parse_expression(text, NAMES)
    known: dict[str, float | None] = {}
    for name in NAMES:
        if name in needed(tree, known):
            known[name] = scores[name]
    expected = eval(text, {"__builtins__": {}, "min": min}, scores)
    assert evaluate(tree, known) == pytest.approx(expected)
