"""Multiple choice: letters, texts of options in any notation, several options, and golds that can't be used."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.verify.choice import letters, read_options
from rewards.verify.equality import quick_equal
from rewards.verify.options import check, chosen, options_of, score

NUMBERS = ["$\\frac{1}{2}$", "1/3", "3 cm", "$x^2+1$"]
COLOURS = ["red", "dark red", "bread and butter", "none of the above"]
POINTS = ["(1,2)", "(2,1)", "AC", "all of the above"]


def scores(gold: Any, answer: str, options: Any) -> float:
    return score(gold, answer, {"options": options})


@pytest.mark.parametrize("answer", ["zzz", "E", "", "e", "A", "1/2", "5", "none", "E. zzz", "A, E"])
@pytest.mark.parametrize("gold", ["E", "zzz", "A, E", "E. red", "red or blue", ["A", "E"]])
def test_no_answer_is_right_where_the_gold_is_unusable(gold: Any, answer: str) -> None:
    assert scores(gold, answer, NUMBERS) == 0
    with pytest.raises(ValueError, match="is neither a letter nor the text of one of"):
        check(gold, {"options": NUMBERS})


@pytest.mark.parametrize(
    ("gold", "answer", "options", "expected"),
    [
        # letters
        ("B", "B", COLOURS, 1),
        ("B", "b", COLOURS, 1),
        ("B", "(B)", COLOURS, 1),
        ("B", "[b]", COLOURS, 1),
        ("B", "Ｂ", COLOURS, 1),
        ("B", "（Ｂ）", COLOURS, 1),
        ("B", "\\text{B}", COLOURS, 1),
        ("B", "\\textbf{(B)}", COLOURS, 1),
        ("B", "**B**", COLOURS, 1),
        ("B", "B.", COLOURS, 1),
        ("B", "B、", COLOURS, 1),
        ("B", "Option B", COLOURS, 1),
        ("B", "The correct answer is option (B).", COLOURS, 1),
        ("B", "Answer: B", COLOURS, 1),
        ("B", "选B", COLOURS, 1),
        ("B", "B选项", COLOURS, 1),
        ("B", "'B'", COLOURS, 1),
        ("B", "`B`", COLOURS, 1),
        ("B", "“dark red”", COLOURS, 1),
        ("B", "'B' or 'C'", COLOURS, 0),
        ("B", "答案是B。", COLOURS, 1),
        ("B", "故选：B", COLOURS, 1),
        ("B", "选项B", COLOURS, 1),
        ("B", "正确答案是B", COLOURS, 1),
        ("B", "A", COLOURS, 0),
        ("B", "E", COLOURS, 0),
        # hedges
        ("B", "B. or C", COLOURS, 0),
        ("B", "B or C", COLOURS, 0),
        ("B", "B/C", COLOURS, 0),
        ("B", "B (C)", COLOURS, 0),
        ("B", "all options except B", COLOURS, 0),
        ("B", "\\neg B", COLOURS, 0),
        ("B", "\\overline{B}", COLOURS, 0),
        ("B", "B或C", COLOURS, 0),
        ("B", "not B", COLOURS, 0),
        ("B", "不选B", COLOURS, 0),
        ("B", "B and C", COLOURS, 0),
        ("B", "B, C", COLOURS, 0),
        ("B", "B? C", COLOURS, 0),
        ("B", "B. is wrong", COLOURS, 0),
        ("A", "red or dark red", COLOURS, 0),
        # texts
        ("B", "Dark red", COLOURS, 1),
        ("B", "the dark red.", COLOURS, 1),
        ("B", "B. dark red", COLOURS, 1),
        ("B", "B dark red", COLOURS, 1),
        ("B", "(B) Dark Red", COLOURS, 1),
        ("B", "B (dark red)", COLOURS, 1),
        ("B", "dark red (B)", COLOURS, 1),
        ("B", "B. red", COLOURS, 0),
        ("B", "red (B)", COLOURS, 0),
        ("B", "dark", COLOURS, 0),
        ("C", "bread and butter", COLOURS, 1),
        ("C", "butter and bread", COLOURS, 0),
        ("D", "None of these", COLOURS, 1),
        ("D", "以上都不对", COLOURS, 1),
        ("D", "all of these", COLOURS, 0),
        ("D", "All of the above", POINTS, 1),
        ("D", "none of the above", POINTS, 0),
        # other notations
        ("A", "0.5", NUMBERS, 1),
        ("A", "\\frac12", NUMBERS, 1),
        ("A", "A. 0.5", NUMBERS, 1),
        ("A", "0.33", NUMBERS, 0),
        ("B", "\\frac{1}{3}", NUMBERS, 1),
        ("B", "0.33", NUMBERS, 0),
        ("C", "(C) $3\\,\\text{cm}$", NUMBERS, 1),
        ("C", "(C) 3 m", NUMBERS, 0),
        ("C", "(B) 3 cm", NUMBERS, 0),
        ("C", "30 mm", NUMBERS, 1),
        ("D", "1+x^2", NUMBERS, 1),
        ("D", "x^2-1", NUMBERS, 0),
        ("1/2", "A", NUMBERS, 1),
        ("0.5", "A", NUMBERS, 1),
        ("B. 1/3", "B", NUMBERS, 1),
        ("A", "(1,2)", POINTS, 1),
        ("B", "(1,2)", POINTS, 0),
        ("A", "A. (1,2)", POINTS, 1),
        # the text must be that of one option
        ("A", "0.5", ["1/2", "2/4", "3", "4"], 0),
        ("B", "0.5", ["1/2", "0.5", "3", "4"], 1),
        ("A", "red", ["red", "red", "blue"], 0),
        # a letter goes before a text
        ("A", "A", ["B", "A"], 1),
        ("B", "A", ["B", "A"], 0),
        ("C", "AC", POINTS, 1),
        # several
        ("AC", "A, C", COLOURS, 1),
        ("AC", "C、A", COLOURS, 1),
        ("AC", "AC", COLOURS, 1),
        ("AC", "\\{A, C\\}", COLOURS, 1),
        ("AC", "[A, C]", COLOURS, 1),
        ("AC", "CA", COLOURS, 1),
        ("AC", "ac", COLOURS, 1),
        ("AC", "A C", COLOURS, 1),
        ("AC", "(A) and (C)", COLOURS, 1),
        ("AC", "A和C", COLOURS, 1),
        ("AC", "选AC", COLOURS, 1),
        ("AC", "Both A and C", COLOURS, 1),
        ("AC", "options A, B and C", COLOURS, 0),
        ("AC", "A. red, C. bread and butter", COLOURS, 1),
        ("AC", "A. red; C", COLOURS, 1),
        ("AB", "red, dark red", COLOURS, 1),
        ("AC", "A. red, C. dark red", COLOURS, 0),
        ("AC", "A", COLOURS, 0),
        ("AC", "ABC", COLOURS, 0),
        ("AC", "A, not C", COLOURS, 0),
        ("AC", "A or C", COLOURS, 0),
        (["A", "C"], "A, C", COLOURS, 1),
        ("BAD", "bad", ["w", "x", "y", "z"], 0),
        # options with letters of their own, or with other labels
        ("B", "blue", ["A. red", "B. blue"], 1),
        ("(B)", "B. blue", ["(A) red", "(B) blue"], 1),
        ("2", "2", {"1": "red", "2": "blue"}, 1),
        ("blue", "2", {"1": "red", "2": "blue"}, 1),
        ("blue", "1", {"1": "red", "2": "blue"}, 0),
        # unknown options
        ("B", "b", None, 1),
        ("B", "B. dark red", None, 1),
        ("B", "(B) dark red", None, 1),
        ("B", "B. or C", None, 0),
        ("B", "B) and C", None, 0),
        ("B", "B: no, C", None, 0),
        ("B", "B. A", None, 0),
        ("B", "B. not right", None, 0),
        ("B", "a boy", None, 0),
        ("AC", "AC", None, 1),
        ("AC", "A and C", None, 1),
    ],
)
def test_scores(gold: Any, answer: str, options: Any, expected: float) -> None:
    assert scores(gold, answer, options) == expected


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Which?\nA. red\nB. blue", {"A": "red", "B": "blue"}),
        ("Which? (A) red (B) blue\nAnswer with a letter.", {"A": "red", "B": "blue"}),
        ("A．红 B．蓝 C．绿", {"A": "红", "B": "蓝", "C": "绿"}),
        ("A. Smith drew it. Which?\nA. red\nB. blue\nC. (A) and (B)", {"A": "red", "B": "blue", "C": "(A) and (B)"}),
        ("What did A. Smith draw?", {}),
        ("A: $\\frac{1}{2}$\nB: 3", {"A": "\\frac{1}{2}", "B": "3"}),
        ("No options here.", {}),
    ],
)
def test_options_are_read_from_prompts(prompt: str, expected: dict[str, str]) -> None:
    assert read_options(prompt) == options_of({"prompts": prompt}) == expected


LABELS = st.lists(st.sampled_from("ABCD"), min_size=1, max_size=4, unique=True)
STYLES = st.sampled_from(["{}", "({})", "{}.", "[{}]", " {} "])


@settings(deadline=None)
@given(LABELS, LABELS, STYLES, st.sampled_from([", ", ",", " and ", "、", " & ", "; "]))
def test_a_choice_is_right_exactly_if_its_letters_are_those_of_the_gold(
    gold: Sequence[str], answer: Sequence[str], style: str, between: str
) -> None:
    written = between.join(style.format(letter) for letter in answer)
    assert scores("".join(gold), written, COLOURS) == (set(gold) == set(answer))
    assert chosen(written.lower(), options_of({"options": COLOURS})) == set(answer)


@settings(deadline=None)
@given(st.text("ABCDabe .,:()orandt不或", max_size=12))
def test_a_text_is_chosen_only_if_no_letter_in_it_says_otherwise(text: str) -> None:
    found = letters(text, dict.fromkeys("ABCD", "?"))
    assert found <= {letter for letter in "ABCD" if letter in text.upper()}
    if any(word in text.split() for word in ("or", "not")) or "或" in text or "不" in text:
        assert not found


def test_in_mathematics_a_capital_letter_is_a_choice_in_either_case() -> None:
    assert quick_equal("A", "a") is True
    assert quick_equal("A", "(A)") is True
    assert quick_equal("A", "A or B") is False


def test_the_longest_answers_that_are_compared_cost_little() -> None:
    start = time.process_time()
    for repeated in ("A", "A,", "B. ", "(", "the answer is ", "A and ", "option ", "x ", "B. x", "A" * 9 + "("):
        scores("B", repeated * (2_000 // len(repeated)), COLOURS)
        scores("B", repeated * (2_000 // len(repeated)), None)
    assert time.process_time() - start < 3.0
