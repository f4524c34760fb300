"""Combining rewards: arguments, weights, missing scores and errors, short circuits of `Composition`."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import numpy
import pytest
from conftest import picture

from rewards.combine.compose import Composition
from sail_rl.contracts import Prompt, RewardTerm, Rollout


def batch(*texts: str, **columns: Any) -> tuple[list[Prompt], list[Rollout]]:
    """Prompts and rollouts with these texts; each column gives one value a rollout."""
    prompts = [
        Prompt(f"p{i}", [{"role": "user", "content": "?"}], "?", [picture(i)], {k: v[i] for k, v in columns.items()})
        for i in range(len(texts))
    ]
    return prompts, [Rollout(f"p{i}", 0, [i], [0.0], text, "stop", 1) for i, text in enumerate(texts)]


class TestComposition:
    def test_total_and_parts_by_hand(self) -> None:
        terms = [
            RewardTerm("a", lambda completions, **_: [1.0, 0.0], 0.9),
            RewardTerm("b", lambda completions, **_: [1.0, 1.0], 0.1),
            RewardTerm("logged", lambda completions, **_: [7, 8], 0.0),
        ]
        scores = Composition(terms)(*batch("x", "y"))
        assert scores.total == pytest.approx([1.0, 0.1])
        assert scores.parts == {"a": [1, 0], "b": [1, 1], "logged": [7, 8]}

    def test_a_reward_sees_images_ids_prompts_and_every_column(self) -> None:
        seen: dict[str, Any] = {}

        def reward(completions: Any, prompts: Any, completion_ids: Any, images: Any, answer: Any, source: Any) -> Any:
            seen.update(locals())
            return [0.0, 0.0]

        prompts, rollouts = batch("x", "y", answer=["1", "2"], source=["s", "t"])
        Composition([RewardTerm("r", reward)])(prompts, rollouts)
        assert seen["answer"] == ["1", "2"]
        assert seen["source"] == ["s", "t"]
        assert [image[0].tobytes() for image in seen["images"]] == [picture(0).tobytes(), picture(1).tobytes()]
        assert seen["completion_ids"] == [[0], [1]]
        assert seen["completions"][1] == [{"role": "assistant", "content": "y"}]
        assert seen["prompts"][0] == [{"role": "user", "content": "?"}]

    def test_a_skipped_none_has_no_part_in_the_total_and_shows_as_nan(self) -> None:
        terms = [
            RewardTerm("sometimes", lambda completions, **_: [None, 1.0], 0.5, on_none="skip"),
            RewardTerm("always", lambda completions, **_: [1.0, 1.0], 0.5),
        ]
        scores = Composition(terms)(*batch("x", "y"))
        assert scores.total == [0.5, 1.0]
        assert math.isnan(scores.parts["sometimes"][0])

    def test_a_sample_without_any_reward_is_an_error(self) -> None:
        term = RewardTerm("never", lambda completions, **_: [1.0, None], on_none="skip")
        with pytest.raises(ValueError, match=r"(?s)no reward applies.*prompt: p1: .*completion: y"):
            Composition([term])(*batch("x", "y"))

    def test_a_reward_that_raises_stops_the_run_with_its_name(self) -> None:
        def broken(completions: Any, **_: Any) -> Any:
            raise KeyError("oops")

        with pytest.raises(RuntimeError, match=r"(?s)reward 'mine' raised KeyError: 'oops'.*completion: x") as info:
            Composition([RewardTerm("mine", broken)])(*batch("x"))
        assert isinstance(info.value.__cause__, KeyError)

    @pytest.mark.parametrize("returned", [[1.0], 1.0, None])
    def test_the_wrong_number_of_scores_is_an_error(self, returned: Any) -> None:
        with pytest.raises(ValueError, match="must return a list of 2 scores"):
            Composition([RewardTerm("r", lambda completions, **_: returned)])(*batch("x", "y"))

    @pytest.mark.parametrize("score", [math.nan, math.inf, "1"])
    def test_a_score_that_is_no_finite_number_is_an_error(self, score: Any) -> None:
        with pytest.raises(ValueError, match="prompt p0; scores are finite numbers or None"):
            Composition([RewardTerm("r", lambda completions, **_: [score])])(*batch("x"))

    @pytest.mark.parametrize("score", [True, 1, numpy.float32(1), numpy.int64(1)])
    def test_any_real_number_is_a_score(self, score: Any) -> None:
        scores = Composition([RewardTerm("r", lambda completions, **_: [score])])(*batch("x"))
        assert [type(total) for total in scores.total] == [float]
        assert scores.parts == {"r": [1.0]}

    def test_two_rewards_with_one_name_are_an_error(self) -> None:
        term = RewardTerm("same", lambda completions, **_: [1.0])
        with pytest.raises(ValueError, match=r"reward names \['same'\] are used twice"):
            Composition([term, term])

    @pytest.mark.parametrize("weight", [math.nan, math.inf])
    def test_a_weight_that_is_no_finite_number_is_an_error(self, weight: float) -> None:
        with pytest.raises(ValueError, match="weight of reward 'r' is"):
            Composition([RewardTerm("r", lambda completions, **_: [1.0], weight)])

    def test_a_reward_that_edits_its_lists_changes_nothing_for_the_next(self) -> None:
        def rude(completions: Any, answer: Any, **_: Any) -> list[float]:
            completions[0][0]["content"] = answer[0] = "edited"
            return [0.0]

        def polite(completions: Any, answer: Any, **_: Any) -> list[float]:
            return [float(completions[0][0]["content"] == "x" and answer == ["1"])]

        terms = [RewardTerm("rude", rude), RewardTerm("polite", polite)]
        assert Composition(terms)(*batch("x", answer=["1"])).total == [1.0]

    def test_close_closes_the_rewards_that_can_be_closed(self) -> None:
        class Judge:
            closed = False

            def __call__(self, **_: Any) -> list[float]:
                return [1.0]

            def close(self) -> None:
                self.closed = True

        judge = Judge()
        Composition([RewardTerm("judge", judge), RewardTerm("plain", lambda **_: [1.0])]).close()
        assert judge.closed

    def test_an_async_reward_is_awaited(self) -> None:
        async def slow(completions: Any, **_: Any) -> list[float]:
            return [0.25]

        assert Composition([RewardTerm("slow", slow)])(*batch("x")).total == [0.25]

    def test_trl_rewards_work_unmodified(self) -> None:
        from trl.rewards import accuracy_reward, think_format_reward

        terms = [RewardTerm("accuracy", accuracy_reward), RewardTerm("format", think_format_reward)]
        scores = Composition(terms)(*batch("<think>a</think>\n\\boxed{7}", "\\boxed{8}", solution=["$7$", "$7$"]))
        assert scores.parts == {"accuracy": [1.0, 0.0], "format": [1.0, 0.0]}


class TestNone:
    def test_it_stops_the_run_by_default_with_the_sample_and_the_remedy(self) -> None:
        term = RewardTerm("judge", lambda completions, **_: [1.0, None])
        with pytest.raises(ValueError, match=r"(?s)reward 'judge' returned None.*completion: y.*set on_none .*: skip"):
            Composition([term])(*batch("x", "y"))

    def test_it_can_count_as_zero(self) -> None:
        never = RewardTerm("a", lambda completions, **_: [None], 0.5, on_none="zero")
        terms = [never, RewardTerm("b", lambda **_: [1.0])]
        scores = Composition(terms)(*batch("x"))
        assert scores.total == [1.0]
        assert math.isnan(scores.parts["a"][0])
        assert scores.calls["a"][0].status == "none"

    def test_a_reward_that_is_logged_only_may_give_it(self) -> None:
        terms = [RewardTerm("a", lambda completions, **_: [None], 0.0), RewardTerm("b", lambda **_: [1.0])]
        assert Composition(terms)(*batch("x")).total == [1.0]


class TestErrors:
    @staticmethod
    def picky(completions: Any, **_: Any) -> list[float]:
        if any(completion[0]["content"] == "bad" for completion in completions):
            raise ValueError("won't read that")
        return [1.0 for _ in completions]

    @pytest.mark.parametrize(("on_error", "expected"), [("zero", [1.0, 0.0, 1.0]), ("none", [1.0, math.nan, 1.0])])
    def test_only_the_rollout_that_failed_counts_as_the_recipe_says(self, on_error: Any, expected: list[float]) -> None:
        terms = [RewardTerm("r", self.picky, on_none="zero", on_error=on_error)]
        scores = Composition(terms)(*batch("x", "bad", "y"))
        assert scores.total == [1.0, 0.0, 1.0]
        assert scores.parts["r"] == pytest.approx(expected, nan_ok=True)
        assert [call.status for call in scores.calls["r"]] == ["ok", "error", "ok"]

    def test_the_sample_at_fault_is_the_one_that_is_shown(self) -> None:
        with pytest.raises(RuntimeError, match=r"(?s)'r' raised ValueError: won't read that.*p1.*completion: bad"):
            Composition([RewardTerm("r", self.picky)])(*batch("x", "bad", "y"))

    def test_an_exception_in_the_place_of_a_score_is_that_rollout_s_failure(self) -> None:
        term = RewardTerm("r", lambda **_: [1.0, TimeoutError("late")], on_error="zero")
        scores = Composition([term])(*batch("x", "y"))
        assert [call.status for call in scores.calls["r"]] == ["ok", "timeout"]

    def test_a_column_that_the_rows_lack_is_named_before_the_function_is_called(self) -> None:
        def reward(completions: Any, difficulty: Any) -> list[float]:
            return [1.0]

        with pytest.raises(ValueError, match=r"needs difficulty, but the rows have answer, completion"):
            Composition([RewardTerm("r", reward)])(*batch("x", answer=["1"]))

    def test_a_function_without_columns_gets_what_it_names(self) -> None:
        def reward(answer: Any, prompts: Any, other: int = 3) -> list[float]:
            return [float(answer[0]) + other]

        assert Composition([RewardTerm("r", reward)])(*batch("x", answer=["1"])).total == [4.0]


class Counting:
    """A reward with fixed scores by completion text, that remembers what it was called with."""

    def __init__(self, **scores: float | None) -> None:
        self.scores = scores
        self.seen: list[str] = []

    def __call__(self, completions: Any, **_: Any) -> list[float | None]:
        texts = [completion[0]["content"] for completion in completions]
        self.seen += texts
        return [self.scores[text] for text in texts]


class TestExpression:
    SAIL_RL = "0.9 * judge * think * answer + 0.1 * format"

    def test_the_dual_reward_by_hand(self) -> None:
        values = {"judge": [1, 1, 1], "think": [1, 2 / 3, 1], "answer": [1, 1, 0], "format": [1, 1, 1]}
        terms = [RewardTerm(name, lambda v=scores, **_: v) for name, scores in values.items()]
        scores = Composition(terms, expression=self.SAIL_RL, weights_sum_to_one=True)(*batch("x", "y", "z"))
        assert scores.total == pytest.approx([1.0, 0.7, 0.1])
        assert scores.parts["0.9*judge*think*answer"] == pytest.approx([0.9, 0.6, 0.0])
        assert list(scores.parts) == ["judge", "think", "answer", "format", "0.9*judge*think*answer"]

    def test_costly_rewards_are_called_only_where_the_total_depends_on_them_cheapest_first(self) -> None:
        answer = Counting(right=1.0, wrong=0.0, lucky=1.0)
        judge, think = Counting(right=1.0, lucky=1.0), Counting(right=1.0, lucky=0.0)
        shape = Counting(right=1.0, wrong=1.0, lucky=1.0)
        terms = [
            RewardTerm("judge", judge, call_order=9),
            RewardTerm("think", think, call_order=5),
            RewardTerm("answer", answer),
            RewardTerm("format", shape),
        ]
        scores = Composition(terms, expression=self.SAIL_RL)(*batch("right", "wrong", "lucky"))
        assert scores.total == pytest.approx([1.0, 0.1, 0.1])
        assert (think.seen, judge.seen) == (["right", "lucky"], ["right"])
        assert [call.status for call in scores.calls["judge"]] == ["ok", "skipped", "skipped"]
        assert answer.seen == shape.seen == ["right", "wrong", "lucky"]

    def test_a_reward_used_elsewhere_in_the_expression_is_still_called(self) -> None:
        judge = Counting(x=1.0)
        terms = [RewardTerm("answer", Counting(x=0.0)), RewardTerm("judge", judge, call_order=1)]
        assert Composition(terms, expression="answer * judge + 0.5 * judge")(*batch("x")).total == [0.5]
        assert judge.seen == ["x"]

    def test_a_reward_that_is_not_named_is_logged_only(self) -> None:
        terms = [RewardTerm("answer", Counting(x=1.0)), RewardTerm("watched", Counting(x=None), call_order=3)]
        scores = Composition(terms, expression="2 * answer")(*batch("x"))
        assert scores.total == [2.0]
        assert scores.calls["watched"][0].status == "none"

    def test_weights_that_don_t_sum_to_one_are_refused(self) -> None:
        terms = [RewardTerm(name, Counting()) for name in ("answer", "think", "format")]
        Composition(terms, expression="0.6*answer + 0.3*think + 0.1*format", weights_sum_to_one=True)
        with pytest.raises(ValueError, match=r"rewards of 1 make a total of 1\.1"):
            Composition(terms, expression="0.7*answer + 0.3*think + 0.1*format", weights_sum_to_one=True)

    def test_a_division_by_zero_shows_the_sample(self) -> None:
        terms = [RewardTerm("a", Counting(x=1.0)), RewardTerm("b", Counting(x=0.0))]
        with pytest.raises(ValueError, match=r"(?s)divides by 0.*completion: x"):
            Composition(terms, expression="a / b")(*batch("x"))

    def test_an_expression_without_rewards_is_refused(self) -> None:
        with pytest.raises(ValueError, match="names no reward"):
            Composition([RewardTerm("a", Counting())], expression="1 + 1")


def test_an_async_reward_works_inside_a_running_event_loop() -> None:
    async def slow(completions: Any, **_: Any) -> list[float]:
        await asyncio.sleep(0)
        return [0.25]

    async def caller() -> list[float]:
        return Composition([RewardTerm("slow", slow)])(*batch("x")).total

    assert asyncio.run(caller()) == [0.25]
