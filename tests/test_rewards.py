"""Rewards: parsing, equality, format, the killable pool, composition — tables and real processes."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import picture

from rewards.answer import MathAnswer
from rewards.compose import WeightedSum
from rewards.equality import quick_equal
from rewards.format import think_boxed
from rewards.parsing import boxes, final_answer, split_thought
from rewards.pool import VerificationPool
from sail_rl.contracts import Prompt, RewardTerm, Rollout

TOWER = "9^{9^{9^{9}}}"


@pytest.fixture(scope="module")
def math_answer() -> Iterator[MathAnswer]:
    reward = MathAnswer(timeout_s=1.0, workers=2)
    yield reward
    reward.pool.close()


@pytest.fixture
def pool() -> Iterator[VerificationPool]:
    with VerificationPool(workers=2, timeout_s=1.0) as pool:
        yield pool


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
            ("B", "B", 1),
            ("B", "b", 1),
            ("B", "C", 0),
            ("B", r"\text{B}", 1),
            ("cat", "Cat", 1),
            ("cat", "dog", 0),
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
    def test_table(self, math_answer: MathAnswer, gold: str, answer: str, score: float) -> None:
        assert math_answer(completions=[boxed(answer)], answer=[gold]) == [score]

    def test_conversations_and_numbers_as_gold(self, math_answer: MathAnswer) -> None:
        conversation = [{"role": "assistant", "content": [{"type": "text", "text": boxed("4")}]}]
        assert math_answer(completions=[conversation, boxed("5")], answer=[4, 4]) == [1.0, 0.0]

    def test_an_answer_outside_a_box_is_wrong(self, math_answer: MathAnswer) -> None:
        assert math_answer(completions=["<think>x</think>17"], answer=["17"]) == [0.0]

    @pytest.mark.parametrize("gold", [None, "", "  "])
    def test_a_missing_gold_answer_is_an_error(self, math_answer: MathAnswer, gold: Any) -> None:
        with pytest.raises(ValueError, match="answer of sample 1 is"):
            math_answer(completions=[boxed("1"), boxed("1")], answer=["1", gold])

    def test_a_tower_costs_its_limit_and_hurts_nobody_else(self, math_answer: MathAnswer) -> None:
        math_answer(completions=[boxed("1+x")], answer=["x+1"])  # the workers are up
        start = time.monotonic()
        answers = ["x+x", TOWER, "1+x", "y"]
        scores = math_answer(completions=[boxed(a) for a in answers], answer=["2x", "387420489", "x+1", "z"])
        assert scores == [1.0, 0.0, 1.0, 0.0]
        assert time.monotonic() - start < 3.0

    def test_it_works_away_from_the_main_thread(self, math_answer: MathAnswer) -> None:
        scores: list[float] = []
        thread = threading.Thread(target=lambda: scores.extend(math_answer([boxed("x+x"), boxed(TOWER)], ["2x", "3"])))
        thread.start()
        thread.join(timeout=30)
        assert scores == [1.0, 0.0]

    def test_plain_numbers_and_words_need_no_process(self) -> None:
        for gold, answer in [("17", "18"), ("17", "17"), ("cat", "dog"), ("1/2", "0.5"), ("7", "")]:
            assert quick_equal(gold, answer) is not None


class TestPool:
    def test_order_is_kept_and_equal_pairs_are_verified_once(self, pool: VerificationPool) -> None:
        pairs = [("x+1", "1+x"), ("x", "y"), ("x+1", "1+x"), ("2x", "x+x")] * 5
        assert [verdict.equal for verdict in pool.verify(pairs)] == [True, False, True, True] * 5
        assert len(pool._cache) == 3

    def test_a_timeout_says_so_and_the_pool_goes_on(self, pool: VerificationPool) -> None:
        assert pool.verify([("3", TOWER)])[0].status == "timeout"
        assert pool.verify([("2x", "x+x")])[0].equal

    def test_a_worker_killed_from_outside_is_replaced(self, pool: VerificationPool) -> None:
        pool.verify([("2x", "x+x"), ("3x", "x+2x")])
        for worker in pool._workers:
            os.kill(worker.process.pid, signal.SIGKILL)
        assert [verdict.equal for verdict in pool.verify([("4x", "x+3x"), ("y", "z")])] == [True, False]

    def test_the_item_of_a_worker_killed_in_the_middle_is_tried_again(self) -> None:
        with VerificationPool(workers=1, timeout_s=1.5) as pool:
            pool.verify([("2x", "x+x")])
            victim = pool._workers[0].process.pid
            threading.Timer(0.5, os.kill, (victim, signal.SIGKILL)).start()
            verdicts = pool.verify([("3", TOWER), ("x+1", "1+x")])
            replacement = pool._workers[0].process.pid
        assert [verdict.status for verdict in verdicts] == ["timeout", "ok"]
        assert replacement != victim

    def test_an_item_that_kills_its_worker_twice_is_an_error(self) -> None:
        with VerificationPool(workers=1, timeout_s=20.0) as pool:
            pool.verify([("2x", "x+x")])

            def kill_twice() -> None:
                for _ in range(2):
                    while not (pool._workers and pool._workers[0].item == 0):
                        time.sleep(0.01)
                    pool._workers[0].process.kill()
                    time.sleep(0.2)

            threading.Thread(target=kill_twice).start()
            verdicts = pool.verify([("3", TOWER), ("x+1", "1+x")])
        assert [verdict.status for verdict in verdicts] == ["error", "ok"]
        assert "died twice (status -9)" in verdicts[0].message

    def test_workers_have_the_memory_limit(self) -> None:
        with VerificationPool(workers=1, memory_bytes=3 * 1024**3) as pool:
            pool.verify([("2x", "x+x")])
            limits = Path(f"/proc/{pool._workers[0].process.pid}/limits").read_text()
        assert f"{3 * 1024**3}" in next(line for line in limits.splitlines() if line.startswith("Max address space"))

    def test_close_leaves_no_process(self) -> None:
        pool = VerificationPool(workers=2)
        pool.verify([("2x", "x+x"), ("3x", "x+2x")])
        pids = [worker.process.pid for worker in pool._workers]
        pool.close()
        assert len(pids) == 2
        assert not any(alive(pid) for pid in pids)

    def test_workers_die_with_a_parent_that_is_killed(self) -> None:
        script = (
            "import time\n"
            "from rewards.pool import VerificationPool\n"
            "pool = VerificationPool(workers=2)\n"
            "pool.verify([('2x', 'x+x'), ('3x', 'x+2x')])\n"
            "print(*[worker.process.pid for worker in pool._workers], flush=True)\n"
            "time.sleep(60)\n"
        )
        with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
            assert parent.stdout is not None
            pids = [int(pid) for pid in parent.stdout.readline().split()]
            parent.kill()
        deadline = time.monotonic() + 5
        while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(pids) == 2
        assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat").read_text()
    return status.rsplit(")", 1)[1].split()[0] != "Z"  # gone but not reaped: a zombie


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

    def test_an_async_reward_is_awaited(self) -> None:
        async def slow(completions: Any, **_: Any) -> list[float]:
            return [0.25]

        assert WeightedSum([RewardTerm("slow", slow)])(*batch("x")).total == [0.25]

    def test_trl_rewards_work_unmodified(self) -> None:
        from trl.rewards import accuracy_reward, think_format_reward

        terms = [RewardTerm("accuracy", accuracy_reward), RewardTerm("format", think_format_reward)]
        scores = WeightedSum(terms)(*batch("<think>a</think>\n\\boxed{7}", "\\boxed{8}", solution=["$7$", "$7$"]))
        assert scores.parts == {"accuracy": [1.0, 0.0], "format": [1.0, 0.0]}
