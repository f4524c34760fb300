"""Length, repetition, language, tags and guards: by hand, and against TRL."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trl.rewards import get_cosine_scaled_reward, get_repetition_penalty_reward, get_soft_overlong_punishment

from rewards import guards
from rewards.format import tag_count
from rewards.shaping import Cosine, repetition, same_language, soft_overlong


@given(st.integers(0, 200), st.integers(1, 100))
def test_soft_overlong_is_trl_s(length: int, cache: int) -> None:
    ours = soft_overlong([[0] * length], max_tokens=100, cache_tokens=cache)
    assert ours == pytest.approx(get_soft_overlong_punishment(100, cache)([[0] * length]))


def test_soft_overlong_by_hand() -> None:
    ids = [[0] * length for length in (80, 90, 100, 300)]
    assert soft_overlong(ids, max_tokens=100, cache_tokens=20) == pytest.approx([0.0, -0.5, -1.0, -1.0])
    with pytest.raises(ValueError, match="cache_tokens is 0"):
        soft_overlong(ids, max_tokens=100, cache_tokens=0)


@pytest.mark.parametrize("length", [0, 25, 50, 100, 170])
@pytest.mark.parametrize("answer", ["3", "4"])
def test_cosine_is_trl_s(length: int, answer: str) -> None:
    completion = [[{"role": "assistant", "content": f"$\\boxed{{{answer}}}$"}]]
    ours = Cosine(100)(completions=completion, completion_ids=[[0] * length], answer=["3"])
    assert ours == pytest.approx(get_cosine_scaled_reward(100)(completion, ["$3$"], [[0] * length]))


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 4))
def test_repetition_is_trl_s(ids: list[int], size: int) -> None:
    assert repetition([ids], size=size) == pytest.approx(get_repetition_penalty_reward(size, -1.0)([ids]))


def test_language_consistency_by_hand() -> None:
    def user(text: str) -> list[dict[str, str]]:
        return [{"role": "system", "content": "你好"}, {"role": "user", "content": text}]

    completions = ["<think>ab甲</think>\\boxed{12}", "<think>甲乙a</think>丙", "12"]
    prompts = [user("How many?"), user("几个？"), user("How many?")]
    assert same_language(completions, prompts) == pytest.approx([2 / 3, 3 / 4, 1.0])


@pytest.mark.parametrize(
    ("text", "prefilled", "score"),
    [
        (r"<think>a</think>\boxed{1}", False, 1),
        (r"a</think>\boxed{1}", True, 1),
        (r"a</think>\boxed{1}", False, 2 / 3),
        (r"<think>a</think>\boxed{1}\boxed{2}", False, 2 / 3),
        ("nothing", False, 0),
        (r"<think><think>a</think></think>\boxed{1}", False, 1 / 3),
    ],
)
def test_tag_counts(text: str, prefilled: bool, score: float) -> None:
    assert tag_count([text], prefilled=[prefilled]) == pytest.approx([score])


class TestGuards:
    def score(self, guard: str, completion: str, *, question: str = "?", prefilled: bool = False, **row: Any) -> Any:
        arguments = {
            "completions": [[{"role": "assistant", "content": completion}]],
            "prompts": [[{"role": "user", "content": question}]],
            "prefilled": [prefilled],
            **{name: [value] for name, value in row.items()},
        }
        function = getattr(guards, guard)
        names = function.__code__.co_varnames[: function.__code__.co_argcount + function.__code__.co_kwonlyargcount]
        takes_all = function.__code__.co_flags & 0x08
        return function(**{name: value for name, value in arguments.items() if takes_all or name in names})[0]

    @pytest.mark.parametrize(
        ("guard", "completion", "expected"),
        [
            ("several_boxes", r"<think>\boxed{1}</think>\boxed{1}", 0),
            ("several_boxes", r"<think>a</think>\boxed{1} or \boxed{2}", 1),
            ("box_in_thought", r"<think>\boxed{1}</think>so 1", 1),
            ("box_in_thought", r"<think>\boxed{1}</think>\boxed{1}", 0),
            ("box_in_thought", r"<think>so \boxed{1}", 1),
            ("empty_thought", "<think>\n</think>\\boxed{1}", 1),
            ("empty_thought", r"<think>hm</think>\boxed{1}", 0),
            ("empty_thought", r"\boxed{1}", 0),
            ("thought_disagrees", r"<think>\boxed{2}</think>\boxed{3}", 1),
            ("thought_disagrees", r"<think>\boxed{1/2}</think>\boxed{0.5}", 0),
            ("thought_disagrees", r"<think>a</think>\boxed{3}", None),
        ],
    )
    def test_shape(self, guard: str, completion: str, expected: float | None) -> None:
        assert self.score(guard, completion) == expected

    def test_an_empty_prefilled_thought_is_seen(self) -> None:
        assert self.score("empty_thought", r"</think>\boxed{1}", prefilled=True) == 1.0

    @pytest.mark.parametrize(
        ("answer", "expected"),
        [(r"\boxed{red}", 0), (r"\boxed{B}", 0), (r"\boxed{red, blue}", 1), (r"\boxed{A, B, C}", 1)],
    )
    def test_naming_several_options(self, answer: str, expected: float) -> None:
        question = "Which?\nA. red\nB. blue\nC. green"
        assert self.score("copied_option", answer, question=question, answer="B") == expected
        assert self.score("copied_option", answer, question="Which?", answer="B") is None

    @pytest.mark.parametrize(
        ("question", "gold", "expected"),
        [
            ("The answer is 1234. What is it?", "1234", 1),
            ("What is 12345?", "1234", 0),
            ("What is 1234.5?", "1234", 0),
            ("Pick.\nA. 1234\nB. 5", "1234", 0),
            ("Is it 7?", "7", None),
        ],
    )
    def test_a_gold_answer_in_the_question(self, question: str, gold: str, expected: float | None) -> None:
        assert self.score("leaked_gold", "x", question=question, answer=gold) == expected
