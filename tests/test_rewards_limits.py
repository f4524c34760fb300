"""Nothing that a policy writes costs the trainer time or memory: hostile texts, rules that hang, limits of a batch."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_rewards_compose import batch

from benchmarks.hostile import LENGTHS, PLACES, TOKENS, repeated
from rewards.answer import Answer
from rewards.combine.calls import chosen_arguments
from rewards.combine.compose import Composition
from rewards.format import tag_count, think_boxed
from rewards.guards import GUARDS
from rewards.process import verification
from rewards.process.handle import Target
from rewards.verify import latex
from rewards.verify.latex import impossible, unwrapped
from rewards.verify.verifiers import VERIFIERS, Verifier, longest_answer
from sail_rl.completion import box_count, boxes, final_answer
from sail_rl.contracts import RewardTerm, reward_hook

SLOW_RULES = r"""
import re, time
from rewards.verify import questions
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

class Questions(questions.Questions):
    def differ(self, left, right):
        return score(left, right, {}) == 0
"""


def boxed(answer: str) -> str:
    return f"<think>because</think>\\boxed{{{answer}}}"


def processes(reward: Answer) -> list[int]:
    return [worker.process.pid for worker in reward.verification.pool._workers]


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

    def test_a_guard_that_runs_into_a_limit_gives_no_score_and_says_so(self, slow: Answer) -> None:
        texts = [rf"<think>\boxed{{right}}</think>\boxed{{{answer}}}" for answer in ("right", "hang", "wrong", "eat")]
        term = RewardTerm("guard", GUARDS["guard_thought_disagrees"], weight=0.0)
        right = RewardTerm("right", lambda completions: [1.0] * len(completions))
        scores = Composition([term, right])(*batch(*texts))
        assert [call.status for call in scores.calls["guard"]] == ["ok", "timeout", "ok", "error"]
        assert [str(score) for score in scores.parts["guard"]] == ["0.0", "nan", "1.0", "nan"]
        assert scores.total == [1.0] * 4


class TestSharing:
    def test_rewards_and_guards_share_the_same_processes_whatever_their_time_limits(self) -> None:
        first, second = Answer(), Answer("text", timeout_s=5.0)
        assert first([boxed("1/3")], ["0.5"]) == [0.0]
        pids = processes(first)
        assert second([boxed("cat")], ["cat"]) == [1.0]
        text = r"<think>\boxed{2}</think>\boxed{3}"
        assert GUARDS["guard_thought_disagrees"]([text], prefilled=[False]) == [1.0]
        assert processes(second) == pids
        second.close()
        assert processes(first) == []
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
        assert first([boxed("1/3")], ["1/4"]) == [0.0]
        reward_hook(GUARDS["guard_copied_option"], "close")()
        assert processes(first) == []

    def test_another_memory_cap_means_other_processes(self) -> None:
        with closing(Answer(memory_gib=1.5)) as other, closing(Answer()) as reward:
            assert other([boxed("2/3")], ["0.5"]) == reward([boxed("2/3")], ["0.5"]) == [0.0]
            assert not set(processes(other)) & set(processes(reward))

    @pytest.mark.parametrize("setting", ["timeout_s", "batch_timeout_s", "memory_gib", "workers"])
    def test_limits_are_above_0(self, setting: str) -> None:
        with pytest.raises(ValueError, match=f"{setting} is 0: give a number above 0"):
            Answer(**{setting: 0})


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

    def test_math_verify_reads_only_short_answers_and_only_latex(self) -> None:
        with closing(Answer()) as reward:
            scores = reward([boxed("x|" * 106), boxed("x" + "^y" * 20), boxed("(" * 50 + ")" * 50)], ["7", "x", "x"])
        assert scores == [0.0] * 3
        assert reward.failures == {"too_long": 1}

    @pytest.mark.parametrize(
        ("text", "expected"),
        [("x^2", False), ("2^{3^{4^5}}", False), ("x_1^2", False), ("x^2^3^4", True), ("x_1_2_3", True)],
    )
    def test_scripts_on_end_are_no_latex(self, text: str, expected: bool) -> None:
        assert impossible(text) is expected

    def test_guards_give_none_for_texts_that_are_too_long(self) -> None:
        texts = [
            rf"<think>\boxed{{{first}}}</think>\boxed{{{last}}}"
            for first, last in [("7" * 2000, "8"), ("7" * 2000,) * 2]
        ]
        found = GUARDS["guard_thought_disagrees"](texts, prefilled=[False] * 2)
        assert [getattr(score, "status", None) for score in found] == ["too_long", "ok"]
        assert found[1] == 0.0


@pytest.fixture(autouse=True)
def no_garbage_collection() -> Iterator[None]:
    """A collection of the objects that other tests have left takes longer than what is timed here."""
    gc.disable()
    yield
    gc.enable()


class TestAttack:
    """The tokens of benchmarks/hostile.py, in this process's own time; the benchmark measures whole batches."""

    @pytest.fixture(scope="class")
    def reward(self) -> Iterator[Answer]:
        with closing(Answer()) as reward:
            reward([boxed("x"), boxed("y")], ["2x", "2y"])
            yield reward

    @pytest.mark.parametrize("kind", TOKENS)
    def test_repeated_tokens_cost_the_trainer_nothing(self, reward: Answer, kind: str) -> None:
        for length, place in ((length, place) for length in LENGTHS for place in PLACES):
            gold, completion = repeated(kind, length, place, gold="7")
            start = time.thread_time()
            score = reward([completion], [gold])[0]
            spent = [time.thread_time() - start]
            columns = {"completions": [completion], "answer": [gold], "prompts": ["A. 1\nB. 2"], "prefilled": [False]}
            for name, watch in {**GUARDS, "format": think_boxed, "tags": tag_count}.items():
                start = time.thread_time()
                watch(**chosen_arguments(name, watch, columns))
                spent.append(time.thread_time() - start)
            assert max(spent) < 1.0  # what isn't linear takes many seconds
            assert score in (0.0, 1.0) if kind == "reversed items" else score == 0.0

    def test_the_answer_that_rules_read_may_be_hostile_too(self, reward: Answer) -> None:
        reward.failures.clear()
        texts = [boxed((token * 1000)[:1000]) for token in TOKENS.values() if token]
        assert reward(texts, ["7"] * len(texts)) == [0.0] * len(texts)
        assert set(reward.failures) <= {"too_long"}


MEMORY = r"""
import resource

from benchmarks.hostile import TOKENS, PLACES, repeated
from rewards.answer import Answer

def peak(who):
    return resource.getrusage(who).ru_maxrss / 1024

reward = Answer(memory_gib=0.5)
reward([r"\boxed{x}"], ["2x"])
before = peak(resource.RUSAGE_SELF)
for kind in TOKENS:
    for place in PLACES:
        gold, completion = repeated(kind, 16384, place, "7")
        reward([completion], [gold])
texts = [r"\boxed{" + (token * 1000)[:1000] + "}" for token in TOKENS.values()]
reward(texts, ["7"] * len(texts))
after = peak(resource.RUSAGE_SELF)
reward.close()
print(after - before, peak(resource.RUSAGE_CHILDREN))
"""


@pytest.mark.slow
def test_hostile_texts_take_little_memory_here_and_no_more_than_the_cap_in_workers() -> None:
    command = [sys.executable, "-c", MEMORY]
    output = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent
    ).stdout
    grown, worker = map(float, output.split())
    assert grown < 64, "MiB; the longest text has 0.25 MiB"
    assert worker < 512


BOX = re.compile(r"(?P<box>\\(?:boxed|fbox)\s*{)|\\.|(?P<brace>[{}])", re.DOTALL)


@given(
    st.lists(st.sampled_from(["\\boxed{", "\\fbox {", "\\boxed", "{", "}", "\\", "a", " ", "\\{"]), max_size=20).map(
        "".join
    )
)
def test_boxes_are_those_of_the_whole_text(text: str) -> None:
    """The parser starts at the first box; this one starts at the first character."""
    opened: list[re.Match[str]] = []
    found: list[tuple[int, int]] = []
    for token in BOX.finditer(text):
        if token["box"] or token["brace"] == "{":
            opened.append(token)
        elif token["brace"] and opened and (opening := opened.pop())["box"]:
            found = [box for box in found if box[0] < opening.end()] + [(opening.end(), token.start())]
    expected = [text[start:end].strip() for start, end in found]
    assert boxes(text) == expected
    assert final_answer(text) == (expected[-1] if expected else None)
    assert box_count(text) == sum(bool(token["box"]) for token in BOX.finditer(text))


PIECES = ["\\text{", "\\mathrm {", "\\boxed{", "\\frac{", "{", "}", "}", "\\{", "\\}", "\\\\", "a", "1", " ", "\n"]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_wrappers_are_removed_as_innermost_first_would(text: str) -> None:
    wrapper = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|operatorname|mbox|boxed)\s*{([^{}]*)}")
    expected = text
    while (plain := wrapper.sub(r"\1", expected)) != expected:
        expected = plain
    assert unwrapped(text) == expected


@given(st.text("aZ09 .,+-*/()=<>:;!?'\"|[]^", max_size=20))
def test_ordinary_texts_have_no_notation_to_remove(text: str) -> None:
    assert latex._ORDINARY.fullmatch(text)
    assert latex._without_notation(text) == text


@pytest.mark.parametrize(
    "text", ["\\text{" * 50_000, "\\text{" * 50_000 + "}" * 50_000, "{" * 100_000, "\\text  " * 50_000]
)
def test_wrappers_cost_one_pass(text: str) -> None:
    start = time.thread_time()
    unwrapped(text)
    assert time.thread_time() - start < 1.0


@pytest.mark.parametrize(
    ("kind", "gold", "text"),
    [
        ("set", ",".join(map(str, range(300))), "\n" * 11_000),
        ("list", ",".join(map(str, range(300))), ' "' * 5_000),
        ("ocr", "hello " * 1000, "red " * 15_000),
        ("choice", "B", "½" * 13_000),
        ("text", ["yes", "no"] * 50, "the a an " * 1_000),
    ],
)
def test_rules_of_other_kinds_take_their_time_from_the_length_only(kind: str, gold: Any, text: str) -> None:
    def seconds(size: int) -> float:
        start = time.thread_time()
        VERIFIERS[kind].score(gold, text[:size], {"options": ["red", "blue"]})
        return time.thread_time() - start

    assert seconds(len(text)) < 0.5 + 8 * seconds(len(text) // 4)
