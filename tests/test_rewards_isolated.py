"""Custom rewards in killable processes: hangs, crashes, memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import picture
from test_rewards_compose import batch

from rewards.combine.compose import Composition
from rewards.process.isolated import Isolated
from sail_rl.contracts import RewardTerm

MINE = """
import os, time

async def reward(completions, answer, images, *, bonus=0.0, **columns):
    text = completions[0][0]["content"]
    if text == "hang":
        while True: pass
    if text == "crash": os._exit(3)
    if text == "eat": bytearray(10 * 1024**3)
    if text == "raise": raise KeyError("oops")
    if text == "nothing": return [None]
    print("noise on standard output")
    return [float(answer[0]) + bonus + images[0][0].width]

def picky(completions, difficulty): return [1.0]
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mine") / "mine.py"
    path.write_text(MINE)
    return path


@pytest.fixture(scope="module")
def isolated(mine: Path) -> Iterator[Isolated]:
    reward = Isolated(f"{mine}:reward", {"bonus": 0.5}, timeout_s=1.0)
    reward.check_gold(None)
    yield reward
    reward.close()


def test_what_hangs_crashes_or_eats_memory_hurts_only_its_own_rollout(isolated: Isolated) -> None:
    texts = ("good", "hang", "crash", "eat", "raise", "fine")
    term = RewardTerm("mine", isolated, on_error="zero")
    start = time.monotonic()
    scores = Composition([term])(*batch(*texts, answer=["1", "2", "3", "4", "5", "6"]))
    width = picture(0).width
    assert scores.total == [1.5 + width, 0, 0, 0, 0, 6.5 + width]
    assert [call.status for call in scores.calls["mine"]] == ["ok", "timeout", "error", "error", "error", "ok"]
    assert time.monotonic() - start < 100


def test_a_failure_stops_the_run_by_default_with_the_sample(isolated: Isolated) -> None:
    with pytest.raises(
        RuntimeError,
        match=r"(?s)'mine' raised RuntimeError: KeyError: 'oops' \(.*mine.py, line 10: if .*completion: raise",
    ):
        Composition([RewardTerm("mine", isolated)])(*batch("good", "raise", answer=["1", "2"]))


def test_none_comes_through(isolated: Isolated) -> None:
    scores = Composition([RewardTerm("mine", isolated, on_none="zero")])(*batch("nothing", answer=["1"]))
    assert scores.calls["mine"][0].status == "none"


def test_a_file_that_doesn_t_import_is_found_when_the_data_is_checked(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    reward = Isolated(f"{tmp_path}/broken.py:reward", {})
    with pytest.raises(ValueError, match="No module named 'no_such_module'"):
        reward.check_gold("1")
    reward.close()


def test_a_missing_column_is_named_whatever_on_error_says(mine: Path) -> None:
    reward = Isolated(f"{mine}:picky", {}, workers=1)
    with pytest.raises(ValueError, match="needs difficulty, but the rows have answer"):
        Composition([RewardTerm("mine", reward, on_error="zero")])(*batch("x", answer=["1"]))
    reward.close()
