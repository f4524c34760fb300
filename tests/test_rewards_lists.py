"""Lists and sets: what separates items, which items are equal, and the time that long ones take."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.answer import Answer
from rewards.verify.lists import items, score_ordered, score_set

texts = st.text(
    st.characters(codec="ascii", exclude_characters="\\\"'\n\r~$%`", exclude_categories=["Cc"]), max_size=12
)
words = texts.map(lambda text: " ".join(text.split()).rstrip(".").casefold()).filter(bool)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("red, green and blue", ["red", "green", "blue"]),
        ("a, b, and c", ["a", "b", "c"]),
        ("salt and pepper, sugar", ["salt and pepper", "sugar"]),
        ('["a, b", "c"]', ["a, b", "c"]),
        ("['a, b', 'c']", ["a, b", "c"]),
        ("“a, b”, c", ["a, b", "c"]),
        ('["a)", "b"]', ["a)", "b"]),
        (r'["say \"hi, you\"", "c"]', ['say "hi, you"', "c"]),
        ("don't, can't", ["don't", "can't"]),
        ("5\", 6'", ['5"', "6'"]),
        ("(1,2); (3,4)", ["(1,2)", "(3,4)"]),
        ("(1,2), (3,4)", ["(1,2)", "(3,4)"]),
        ("[[1,2],[3,4]]", ["[1,2]", "[3,4]"]),
        ("[0,1), (2,3]", ["[0,1)", "(2,3]"]),
        (r"\{1, 2\}", ["1", "2"]),
        (r"$\{\frac{1}{2}, 3\}$", [r"\frac{1}{2}", "3"]),
        (r"\{\{1\},\{2\}\}", [r"\{1\}", r"\{2\}"]),
        ("甲、乙和丙", ["甲", "乙", "丙"]),
        ("苹果；香蕉；橙子", ["苹果", "香蕉", "橙子"]),
        ("和平、战争", ["和平", "战争"]),
        ("1,000, 2,000", ["1,000", "2,000"]),
        ("1,000、2,000", ["1,000", "2,000"]),
        ("1{,}000; 2", ["1000", "2"]),
        ("100,200,300", ["100", "200", "300"]),
        ("one\ntwo\n", ["one", "two"]),
        ("New York, NY; Boston", ["New York, NY", "Boston"]),
        (r"\pm 2, 3", ["2", "-2", "3"]),
        ("{}", []),
        ([1, "a, b"], ["1", "a, b"]),
    ],
)
def test_items(text: object, expected: list[str]) -> None:
    assert items(text) == expected


@settings(deadline=None)
@given(st.lists(words, min_size=1, max_size=5))
def test_the_items_of_a_json_list_are_those_that_were_written(written: list[str]) -> None:
    assert items(json.dumps(written)) == written


@pytest.mark.parametrize(
    ("gold", "answer", "in_order", "in_any_order"),
    [
        (["a, b", "c"], '["a, b", "c"]', 1, 1),
        (["a, b", "c"], '"c", "a, b"', 0, 1),
        (["a, b", "c"], "a, b, c", 0, 0),
        (["1/2", "3"], "0.5 and 3.0", 1, 1),
        ([1000, 2], "1,000, 2", 1, 1),
        ([1, 0, 2], "1,000, 2", 0, 0),
        (["(1,2)"], "(1,2)", 1, 1),
        (["和平"], "和平", 1, 1),
        (["bread and butter", "tea"], "butter and bread; tea", 0, 0),
        (["New York, NY", "Boston"], "New York, NY; Boston", 1, 1),
        (["a", "b", "c"], "a, b; c", 1, 1),
        (["2", "-2"], r"\pm 2", 1, 1),
        ([r"\pm 2"], "2, -2", 1, 1),
        ([r"\pm 2"], "2", 0, 0),
        (["3 cm", "tea"], "30 mm; Tea", 1, 1),
        (["sugar", "salt and pepper"], "salt and pepper, sugar", 0, 1),
        (["sugar", "salt and pepper"], "sugar, salt and pepper", 1, 1),
        (["The red car", "two dogs"], "red car; 2 dogs", 1, 1),
        (["x+1", "3"], "x 1, 3", 0, 0),  # operators aren't punctuation
        (["1/2", "3"], "1 2, 3", 0, 0),
        (["a", "a", "b"], "a, b, a", 0, 1),  # a set is a multiset
        (["a", "a", "b"], "a, b, b", 0, 0),
        (["a", "b"], "a, b, b", 0, 0),
        ("苹果、香蕉", "香蕉和苹果", 0, 1),
        ("2, 3", "{3, 2}", 0, 1),
        ("2, 3", "", 0, 0),
    ],
)
def test_scores(gold: object, answer: str, in_order: int, in_any_order: int) -> None:
    assert score_ordered(gold, answer, {}) == in_order
    assert score_set(gold, answer, {}) == in_any_order


def test_the_verifier_of_a_row_reads_quotes(reward: Answer) -> None:
    box = r"<think>t</think>\boxed{c; ``a, b''}", r'<think>t</think>\boxed{["c", "a, b"]}'
    assert reward(box, [["a, b", "c"]] * 2, answer_type=["set"] * 2) == [0.0, 1.0]


@pytest.fixture(scope="module")
def reward() -> Answer:
    return Answer()


def test_long_lists_cost_little() -> None:
    start = time.process_time()
    gold = [f"item {number}" for number in range(1500)]
    assert score_set(gold, ", ".join(reversed(gold)), {}) == 1
    assert score_set(gold, ", ".join([*gold[1:], "another"]), {}) == 0
    for repeated in ('"a,', '"', "(", "a and ", '",', "1,000,", "和", "a=", "\\{"):
        score_set(["a", "b"], repeated * 4000, {})
    assert time.process_time() - start < 3.0
