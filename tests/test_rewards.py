"""Rewards of one completion: parsing, the answer reward, the format reward, as tables."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from rewards.answer import Answer
from rewards.format import think_boxed
from rewards.verify.equality import quick_equal
from sail_rl.completion import boxes, final_answer, split_thought

TOWER = "9^{9^{9^{9}}}"
SLOW = r"\sum_{n=1}^{9999}\frac{1}{n^n}"  # sympy computes its digits


@pytest.fixture(scope="module")
def math_answer() -> Iterator[Answer]:
    reward = Answer(timeout_s=1.0, workers=2)
    yield reward
    reward.close()


def boxed(answer: str) -> str:
    return f"<think>because</think>\\boxed{{{answer}}}"


class TestParsing:
    @pytest.mark.parametrize(
        ("text", "thought", "answer"),
        [
            ("<think>a</think>b", "a", "b"),
            ("prefilled</think> b", "prefilled", "b"),
            ("<think>never ends", "never ends", None),
            ("no tags", None, "no tags"),
            ("<think>a</think>b</think>c", "a</think>b", "c"),
            ("<think></think>b", "", "b"),
            ("<think>a</think>b<think>c", "a", None),
        ],
    )
    def test_thought_and_answer(self, text: str, thought: str | None, answer: str | None) -> None:
        parsed = split_thought(text)
        assert (parsed.thought, parsed.answer) == (thought, answer)

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            (r"\boxed{7}", ["7"]),
            (r"\boxed{\frac{1}{2}} and \boxed{ 3 }", [r"\frac{1}{2}", "3"]),
            (r"\boxed{\{1,2\}}", [r"\{1,2\}"]),
            (r"\boxed{unclosed", []),
            (r"put it in \boxed{ like \boxed{42}", ["42"]),
            (r"\boxed{\boxed{3}+1}", [r"\boxed{3}+1"]),
            (r"{ \} \boxed{a\}b} } \boxed{c}", [r"a\}b", "c"]),
            (r"\boxed{}", [""]),
            ("none", []),
        ],
    )
    def test_boxes_match_their_braces(self, text: str, found: list[str]) -> None:
        assert boxes(text) == found

    @pytest.mark.parametrize(
        ("text", "answer"),
        [
            (r"<think>maybe \boxed{1}</think>\boxed{2}", "2"),
            (r"<think>\boxed{1}</think>nothing", None),
            (r"<think>\boxed{1}", None),
            (r"\boxed{1} no, \boxed{2}", "2"),
            (r"thought with \boxed{1}</think>\boxed{3}", "3"),
        ],
    )
    def test_the_last_box_after_the_thought_counts(self, text: str, answer: str | None) -> None:
        assert final_answer(text) == answer

    def test_a_prefilled_thought_that_never_ends_has_no_answer(self) -> None:
        assert final_answer(r"so \boxed{1}? no,", prefilled=True) is None
        assert final_answer(r"so \boxed{1}? no,</think>\boxed{2}", prefilled=True) == "2"

    def test_parsing_time_grows_with_length_only(self) -> None:
        start = time.process_time()
        assert boxes("\\boxed{" * 100_000) == []
        assert time.process_time() - start < 2.0


class TestAnswer:
    @pytest.mark.parametrize(
        ("gold", "answer", "score"),
        [
            ("17", "17", 1),
            ("17", "18", 0),
            ("17", "17.0", 1),
            ("17", "$17$", 1),
            ("-3", "-3", 1),
            ("1234", "1,234", 1),
            ("0.5", r"\frac{1}{2}", 1),
            ("0.5", "1/2", 1),
            (r"\frac{1}{2}", r"\dfrac12", 1),
            ("1/3", "0.33", 0),
            ("1/3", "0.3333333", 1),
            (r"\frac{1}{2}", "0.5", 1),
            ("1.5", r"1\frac{1}{2}", 1),
            ("5.5", r"1\frac{1}{2}", 0),
            ("5.5", "1 1/2", 0),
            ("12", "1 2", 0),
            ("1234", "1{,}234", 1),
            ("1234567", "1,234,567.0", 1),
            ("-5", "−5", 1),
            ("5", "+5", 1),
            (1e-07, "0.0000001", 1),
            (17.0, "17", 1),
            ("5", r"\$5", 1),
            ("50%", r"50\%", 1),
            ("17", r"17\text{ cm}", 1),
            ("17", "18 or 17", 0),
            ("17", r"\{17,18\}", 0),
            ("B", "B", 1),
            ("B", "b", 1),
            ("B", "C", 0),
            ("B", r"\text{B}", 1),
            ("cat", "Cat", 1),
            ("cat", "dog", 0),
            ("cat", "act", 0),
            ("New York", "new  york.", 1),
            ("B", "(B)", 1),
            ("A", "A or B", 0),
            (r"\leftarrow", r"\rightarrow", 0),
            (r"\left(1,2\right)", "(1, 2)", 1),
            ("(1,2)", "(2,1)", 0),
            ("x^2+2x+1", "(x+1)^2", 1),
            ("x+1", "1+x", 1),
            ("2x", "x+x", 1),
            ("2x", "3x", 0),
            (r"\sqrt{8}", r"2\sqrt{2}", 1),
            (r"\{1,2\}", r"\{2,1\}", 1),
            ("[1,2)", "[1,2)", 1),
            ("[1,2)", "(1,2)", 0),
            ("17", "", 0),
            ("17", "not a number", 0),
        ],
    )
    def test_table(self, math_answer: Answer, gold: Any, answer: str, score: float) -> None:
        assert math_answer(completions=[boxed(answer)], answer=[gold]) == [score]

    def test_conversations_and_numbers_as_gold(self, math_answer: Answer) -> None:
        conversation = [{"role": "assistant", "content": [{"type": "text", "text": boxed("4")}]}]
        assert math_answer(completions=[conversation, boxed("5")], answer=[4, 4]) == [1.0, 0.0]

    def test_a_prefilled_thought_that_never_ends_is_wrong(self, math_answer: Answer) -> None:
        completions = [r"is it \boxed{4}? wait", r"is it \boxed{5}?</think>\boxed{4}"]
        assert math_answer(completions=completions, answer=["4", "4"], prefilled=True) == [0.0, 1.0]

    def test_an_answer_outside_a_box_is_wrong(self, math_answer: Answer) -> None:
        assert math_answer(completions=["<think>x</think>17"], answer=["17"]) == [0.0]

    @pytest.mark.parametrize("gold", [None, "", "  ", math.nan, math.inf, [], [""], {"a": 1}])
    def test_a_missing_gold_answer_is_an_error(self, math_answer: Answer, gold: Any) -> None:
        with pytest.raises(ValueError, match="answer of sample 1 is"):
            math_answer(completions=[boxed("1"), boxed("1")], answer=["1", gold])

    def test_a_tower_costs_its_limit_and_hurts_nobody_else(
        self, math_answer: Answer, caplog: pytest.LogCaptureFixture
    ) -> None:
        math_answer(completions=[boxed("1+x"), boxed("3+x")], answer=["x+1", "x+3"])  # the workers are up
        math_answer.failures.clear()
        answers = ["x+x", SLOW, "1+x", "y"]
        scores = math_answer(completions=[boxed(a) for a in answers], answer=["2x", "387420489+x", "x+1", "z"])
        assert scores == [1.0, 0.0, 1.0, 0.0]
        assert math_answer.failures == {"timeout": 1}
        assert "1 answer(s) score 0: timeout (the first, sample 1: no result within 1 s)" in caplog.text

    def test_it_works_away_from_the_main_thread(self, math_answer: Answer) -> None:
        scores: list[float] = []
        thread = threading.Thread(target=lambda: scores.extend(math_answer([boxed("x+x"), boxed(SLOW)], ["2x", "3"])))
        thread.start()
        thread.join(timeout=30)
        assert scores == [1.0, 0.0]

    def test_plain_numbers_and_words_need_no_sympy(self) -> None:
        for gold, answer in [("17", "18"), ("17", "17"), ("cat", "dog"), ("1/2", "0.5"), ("7", ""), ("B", "C")]:
            assert quick_equal(gold, answer) is not None

    def test_close_ends_the_processes(self) -> None:
        reward = Answer(workers=1)
        assert reward([boxed(r"\int_0^1 x dx")], ["1/2"]) == [1.0]  # only sympy knows
        process = reward.verification.pool._workers[0].process
        reward.close()
        assert process.returncode == -9


@pytest.mark.parametrize(
    ("text", "score"),
    [
        (r"<think>a</think>\boxed{1}", 1),
        (r"  <think>a</think> The answer is \boxed{1}. ", 1),
        (r"<think>\boxed{0}?</think>\boxed{1}", 1),
        (r"<think></think>\boxed{1}", 0),
        (r"<think>a</think>1", 0),
        (r"<think>a</think>\boxed{}", 0),
        (r"<think>a</think>\boxed{1}\boxed{2}", 0),
        (r"<think>a</think>\boxed{1} \boxed{", 0),
        (r"\boxed{1}", 0),
        (r"a</think>\boxed{1}", 0),
        (r"<think>a\boxed{1}", 0),
        (r"<think>a</think><think>b</think>\boxed{1}", 0),
        (r"Well <think>a</think>\boxed{1}", 0),
    ],
)
def test_format(text: str, score: float) -> None:
    assert think_boxed([text]) == [score]


def test_format_with_a_prefilled_thought() -> None:
    assert think_boxed([r"a</think>\boxed{1}", r"<think>a</think>\boxed{1}"], prefilled=True) == [1.0, 0.0]
