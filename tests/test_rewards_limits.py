"""Nothing that a policy writes costs the trainer time or memory: hostile texts, rules that hang, limits of a batch."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.answer import Answer
from rewards.process import verification
from rewards.process.handle import Target
from rewards.verify.latex import unwrapped
from rewards.verify.verifiers import VERIFIERS, Verifier, longest_answer

SLOW_RULES = r"""
import re, time
from rewards.verify.questions import Questions
from rewards.verify.verifiers import VERIFIERS, Verifier

def score(gold, given, row):
    if given == "hang":
        re.match(r"(a|a)*$", "a" * 40 + "b")  # holds the interpreter's lock for hours
    if given == "wait":
        time.sleep(30)
    if given == "eat":
        bytearray(8 * 1024**3)
    if given == "crash":
        import os; os._exit(1)
    return float(given == gold)

VERIFIERS["slow"] = Verifier(lambda gold, row: None, score)
"""


def boxed(answer: str) -> str:
    return f"<think>because</think>\\boxed{{{answer}}}"


@pytest.fixture
def slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Answer]:
    """An answer reward whose processes know one more kind; in this process, its rule would fail."""

    def never(*_: Any) -> float:
        raise AssertionError("the trainer's process compares no answers")

    (tmp_path / "slow_rules.py").write_text(SLOW_RULES)
    monkeypatch.setattr(verification, "WORKER", Target(f"{tmp_path}/slow_rules.py:Questions"))
    for kind in ("slow", "math"):
        monkeypatch.setitem(VERIFIERS, kind, Verifier(never, never))
    with closing(Answer("slow", timeout_s=1.0)) as reward:
        reward([boxed("1")], ["1"])  # the workers are up
        yield reward


class TestRulesThatMisbehave:
    def test_one_that_hangs_or_crashes_or_eats_memory_costs_no_other_row_its_score(self, slow: Answer) -> None:
        answers = ["right", "hang", "wrong", "eat", "crash"] + ["right", "wrong"] * 100
        start = time.monotonic()
        scores = slow([boxed(answer) for answer in answers], ["right"] * len(answers))
        assert scores == [float(answer == "right") for answer in answers]
        assert slow.failures == {"timeout": 1, "error": 2}
        assert time.monotonic() - start < 20

    def test_the_kinds_of_this_process_are_never_called(self, slow: Answer) -> None:
        assert slow([boxed("7"), boxed("8")], ["7", "7"], answer_type=["math", "math"]) == [1.0, 0.0]

    def test_one_limit_holds_for_the_whole_batch(self, tmp_path: Path, slow: Answer) -> None:
        with closing(Answer("slow", timeout_s=20.0, batch_timeout_s=1.0)) as impatient:
            start = time.monotonic()
            scores = impatient([boxed("1")] + [boxed("wait")] * 3 + [boxed("hang")], ["1"] * 5)
            assert time.monotonic() - start < 10
        assert scores == [0.0] * 5 or scores == [1.0] + [0.0] * 4
        assert impatient.failures["timeout"] >= 4

    def test_what_a_batch_s_limit_has_ended_is_asked_again(self, slow: Answer) -> None:
        with closing(Answer("slow", timeout_s=20.0, batch_timeout_s=0.5)) as impatient:
            impatient([boxed("wait"), boxed("2")], ["1", "2"])
            assert impatient([boxed("2")], ["2"]) == [1.0]


class TestLengths:
    def test_an_answer_far_longer_than_its_gold_is_wrong_at_once_and_counted(self) -> None:
        reward = Answer()
        scores = reward([boxed("7" * 1011), boxed("7" * 20_000)], ["7", "7"])
        assert scores == [0.0, 0.0]
        assert [score.status for score in scores] == ["too_long"] * 2  # type: ignore[attr-defined]
        assert reward.failures == {"too_long": 2}

    def test_the_bound_by_hand(self) -> None:
        assert longest_answer("17", {}) == 1020
        assert longest_answer(["a", "b"], {}) == 1000 + 10 * len("['a', 'b']")
        assert longest_answer("B", {"options": ["x" * 98, "y"]}) == 1010 + 10 * len(str(["x" * 98, "y"]))


PIECES = ["\\text{", "\\mathrm {", "\\boxed{", "\\frac{", "{", "}", "}", "\\{", "\\}", "\\\\", "a", "1", " ", "\n"]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_wrappers_are_removed_as_innermost_first_would(text: str) -> None:
    wrapper = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|operatorname|mbox|boxed)\s*{([^{}]*)}")
    expected = text
    while (plain := wrapper.sub(r"\1", expected)) != expected:
        expected = plain
    assert unwrapped(text) == expected


@pytest.mark.parametrize(
    "text", ["\\text{" * 50_000, "\\text{" * 50_000 + "}" * 50_000, "{" * 100_000, "\\text  " * 50_000]
)
def test_wrappers_cost_one_pass(text: str) -> None:
    start = time.process_time()
    unwrapped(text)
    assert time.process_time() - start < 1.0
