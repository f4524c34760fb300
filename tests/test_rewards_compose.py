"""Combining rewards: arguments, weights, missing scores and errors of `WeightedSum`."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
from conftest import picture

from rewards.compose import WeightedSum
from sail_rl.contracts import Prompt, RewardTerm, Rollout


def batch(*texts: str, **columns: Any) -> tuple[list[Prompt], list[Rollout]]:
    """Prompts and rollouts with these texts; each column gives one value a rollout."""
    prompts = [
        Prompt(f"p{i}", [{"role": "user", "content": "?"}], "?", [picture(i)], {k: v[i] for k, v in columns.items()})
        for i in range(len(texts))
    ]
    return prompts, [Rollout(f"p{i}", 0, [i], [0.0], text, "stop", 1) for i, text in enumerate(texts)]


class TestWeightedSum:
    def test_total_and_parts_by_hand(self) -> None:
        terms = [
            RewardTerm("a", lambda completions, **_: [1.0, 0.0], 0.9),
            RewardTerm("b", lambda completions, **_: [1.0, 1.0], 0.1),
            RewardTerm("logged", lambda completions, **_: [7, 8], 0.0),
        ]
        scores = WeightedSum(terms)(*batch("x", "y"))
        assert scores.total == pytest.approx([1.0, 0.1])
        assert scores.parts == {"a": [1, 0], "b": [1, 1], "logged": [7, 8]}

    def test_a_reward_sees_images_ids_prompts_and_every_column(self) -> None:
        seen: dict[str, Any] = {}

        def reward(completions: Any, prompts: Any, completion_ids: Any, images: Any, answer: Any, source: Any) -> Any:
            seen.update(locals())
            return [0.0, 0.0]

        prompts, rollouts = batch("x", "y", answer=["1", "2"], source=["s", "t"])
        WeightedSum([RewardTerm("r", reward)])(prompts, rollouts)
        assert seen["answer"] == ["1", "2"]
        assert seen["source"] == ["s", "t"]
        assert [image[0].tobytes() for image in seen["images"]] == [picture(0).tobytes(), picture(1).tobytes()]
        assert seen["completion_ids"] == [[0], [1]]
        assert seen["completions"][1] == [{"role": "assistant", "content": "y"}]
        assert seen["prompts"][0] == [{"role": "user", "content": "?"}]

    def test_none_has_no_part_in_the_total_and_shows_as_nan(self) -> None:
        terms = [
            RewardTerm("sometimes", lambda completions, **_: [None, 1.0], 0.5),
            RewardTerm("always", lambda completions, **_: [1.0, 1.0], 0.5),
        ]
        scores = WeightedSum(terms)(*batch("x", "y"))
        assert scores.total == [0.5, 1.0]
        assert math.isnan(scores.parts["sometimes"][0])

    def test_a_sample_without_any_reward_is_an_error(self) -> None:
        term = RewardTerm("never", lambda completions, **_: [1.0, None])
        with pytest.raises(ValueError, match="no reward applies to prompt p1"):
            WeightedSum([term])(*batch("x", "y"))

    def test_a_reward_that_raises_stops_the_run_with_its_name(self) -> None:
        def broken(completions: Any, **_: Any) -> Any:
            raise KeyError("oops")

        with pytest.raises(RuntimeError, match=r"reward 'mine' raised KeyError: 'oops'") as info:
            WeightedSum([RewardTerm("mine", broken)])(*batch("x"))
        assert isinstance(info.value.__cause__, KeyError)

    @pytest.mark.parametrize("returned", [[1.0], 1.0, None])
    def test_the_wrong_number_of_scores_is_an_error(self, returned: Any) -> None:
        with pytest.raises(ValueError, match="must return a list of 2 scores"):
            WeightedSum([RewardTerm("r", lambda completions, **_: returned)])(*batch("x", "y"))

    @pytest.mark.parametrize("score", [math.nan, math.inf, "1"])
    def test_a_score_that_is_no_finite_number_is_an_error(self, score: Any) -> None:
        with pytest.raises(ValueError, match="prompt p0; scores are finite numbers or None"):
            WeightedSum([RewardTerm("r", lambda completions, **_: [score])])(*batch("x"))

    @pytest.mark.parametrize("score", [True, 1, numpy.float32(1), numpy.int64(1)])
    def test_any_real_number_is_a_score(self, score: Any) -> None:
        scores = WeightedSum([RewardTerm("r", lambda completions, **_: [score])])(*batch("x"))
        assert [type(total) for total in scores.total] == [float]
        assert scores.parts == {"r": [1.0]}

    def test_two_rewards_with_one_name_are_an_error(self) -> None:
        term = RewardTerm("same", lambda completions, **_: [1.0])
        with pytest.raises(ValueError, match=r"reward names \['same'\] are used twice"):
            WeightedSum([term, term])

    @pytest.mark.parametrize("weight", [math.nan, math.inf])
    def test_a_weight_that_is_no_finite_number_is_an_error(self, weight: float) -> None:
        with pytest.raises(ValueError, match="weight of reward 'r' is"):
            WeightedSum([RewardTerm("r", lambda completions, **_: [1.0], weight)])

    def test_a_reward_that_edits_its_lists_changes_nothing_for_the_next(self) -> None:
        def rude(completions: Any, answer: Any, **_: Any) -> list[float]:
            completions[0][0]["content"] = answer[0] = "edited"
            return [0.0]

        def polite(completions: Any, answer: Any, **_: Any) -> list[float]:
            return [float(completions[0][0]["content"] == "x" and answer == ["1"])]

        terms = [RewardTerm("rude", rude), RewardTerm("polite", polite)]
        assert WeightedSum(terms)(*batch("x", answer=["1"])).total == [1.0]

    def test_close_closes_the_rewards_that_can_be_closed(self) -> None:
        class Judge:
            closed = False

            def __call__(self, **_: Any) -> list[float]:
                return [1.0]

            def close(self) -> None:
                self.closed = True

        judge = Judge()
        WeightedSum([RewardTerm("judge", judge), RewardTerm("plain", lambda **_: [1.0])]).close()
        assert judge.closed

    def test_an_async_reward_is_awaited(self) -> None:
        async def slow(completions: Any, **_: Any) -> list[float]:
            return [0.25]

        assert WeightedSum([RewardTerm("slow", slow)])(*batch("x")).total == [0.25]

    def test_trl_rewards_work_unmodified(self) -> None:
        from trl.rewards import accuracy_reward, think_format_reward

        terms = [RewardTerm("accuracy", accuracy_reward), RewardTerm("format", think_format_reward)]
        scores = WeightedSum(terms)(*batch("<think>a</think>\n\\boxed{7}", "\\boxed{8}", solution=["$7$", "$7$"]))
        assert scores.parts == {"accuracy": [1.0, 0.0], "format": [1.0, 0.0]}
