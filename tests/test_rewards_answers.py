"""Every verifier against answers.jsonl: category, gold answer, completion, expected score, columns.

A row may have `answer_type`, `options`, `tolerance` and `prefilled`, as a dataset row would, and `convention`, a
sentence that says what the table decides where mathematics doesn't. answers_open.jsonl holds the rows that the
verifiers still get wrong; a row that they get right must move to answers.jsonl.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rewards.answer import Answer
from rewards.verify.equality import quick_equal
from rewards.verify.ocr import edit_distance

COLUMNS = ("answer_type", "options", "tolerance", "iou_threshold")


def read(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines()]


CASES = read("answers.jsonl")
OPEN = read("answers_open.jsonl")


@pytest.fixture(scope="module")
def reward() -> Iterator[Answer]:
    reward = Answer(timeout_s=20.0)
    yield reward
    reward.close()


def mistakes(reward: Answer, cases: list[dict[str, Any]]) -> list[str]:
    """Return a line for each case that the reward gets wrong, from one call for all."""
    columns = {name: [case.get(name) for case in cases] for name in COLUMNS}
    prefilled = [case.get("prefilled", False) for case in cases]
    completions, golds = [case["completion"] for case in cases], [case["gold"] for case in cases]
    scores = reward(completions, golds, prefilled=prefilled, **columns)
    wrong = [abs(score - case["expected"]) > 1e-6 for case, score in zip(cases, scores, strict=True)]
    return [json.dumps(case, ensure_ascii=False) for case, is_wrong in zip(cases, wrong, strict=True) if is_wrong]


def test_there_are_enough_cases_of_every_kind() -> None:
    cases = CASES + OPEN
    assert len(cases) >= 3000
    for category in {case["category"] for case in cases}:
        outcomes = {bool(case["expected"]) for case in cases if case["category"] == category}
        assert outcomes == {True, False} or category in ("empty", "truncated", "nested braces"), category


def test_no_case_stands_twice_in_the_table() -> None:
    questions = [json.dumps({**case, "expected": None, "convention": None, "category": None}) for case in CASES + OPEN]
    assert sorted(questions) == sorted(set(questions))


@pytest.mark.parametrize("category", dict.fromkeys(case["category"] for case in CASES))
def test_every_answer_of_the_table_gets_its_expected_score(reward: Answer, category: str) -> None:
    wrong = mistakes(reward, [case for case in CASES if case["category"] == category])
    assert not wrong, "\n".join(wrong)


def test_the_open_cases_are_all_still_wrong(reward: Answer) -> None:
    wrong = mistakes(reward, OPEN)
    right = [line for line in (json.dumps(case, ensure_ascii=False) for case in OPEN) if line not in wrong]
    assert not right, "move these rows to answers.jsonl:\n" + "\n".join(right)


def test_every_gold_answer_of_the_table_passes_the_check_of_the_data(reward: Answer) -> None:
    for case in CASES:
        columns = {name: case[name] for name in ("answer_type", "options", "tolerance") if name in case}
        reward.check_gold(case["gold"], **columns)


@pytest.mark.parametrize(
    ("gold", "answer_type", "message"),
    [
        (None, None, "the gold answer is None"),
        (r"\frac{1}{2", None, "unbalanced braces"),
        (r"\boxed{3}", None, "has a box"),
        ("\\unknown", None, "can't be parsed as mathematics"),
        ("blue", "number", "isn't a number"),
        ("several", "count", "isn't a count"),
        ("Q", "choice", "neither a letter nor the text of one of"),
        ("?!", "text", "neither a letter nor a digit"),
        ("[1, 2, 3]", "boxes", "has no box"),
        ("[9, 9, 1, 1]", "iou", "has no box"),
        ("{}", "set", "has no items"),
        ("3", "maths", "no verifier is called 'maths'; the verifiers are math, choice"),
    ],
)
def test_a_gold_answer_that_its_verifier_can_t_use_is_refused(
    reward: Answer, gold: Any, answer_type: str | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        reward.check_gold(gold, answer_type=answer_type, options=["red", "blue"])


def test_options_are_read_from_the_prompt_where_there_is_no_column(reward: Answer) -> None:
    prompt = [{"role": "user", "content": "Which?\nA. 5 cm\nB. 7 cm"}]
    scores = reward([r"\boxed{7 cm}", r"\boxed{5 cm}"], ["B", "B"], answer_type=["choice"] * 2, prompts=[prompt] * 2)
    assert scores == [1.0, 0.0]


def test_a_long_or_deep_answer_costs_nothing() -> None:
    start = time.process_time()
    for text in ("{" * 6000, "9^{" * 2000 + "9" + "}" * 2000, "1+" * 3000 + "1", "^" * 6000):
        quick_equal("5", text)
    assert time.process_time() - start < 5.0


@pytest.mark.parametrize(
    "answer", ["10^{400}", "9^{9^{9^{9}}}", "(10^9)!", "\\binom{10^9}{5}", "(x+1)^{100000}", "x^{9^9}"]
)
def test_a_huge_value_is_different_at_once(answer: str) -> None:
    start = time.process_time()
    assert quick_equal("5", answer) is False
    assert time.process_time() - start < 3.0


@pytest.mark.parametrize(
    ("left", "right", "distance"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "abc", 0), ("flaw", "lawn", 2), ("a" * 200, "b" * 100, 200)],
)
def test_edit_distance_by_hand(left: str, right: str, distance: int) -> None:
    assert edit_distance(left, right) == edit_distance(right, left) == distance


@pytest.mark.parametrize(
    ("gold", "answer", "equal"),
    [("7", "seven", True), ("seven", "7", True), ("10", "Ten", True), ("7", "eight", False), ("none", "0", False)],
)
def test_a_number_may_be_spelled(gold: str, answer: str, equal: bool) -> None:
    assert quick_equal(gold, answer) is equal
