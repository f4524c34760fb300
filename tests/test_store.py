"""All rollouts in Parquet: readable with `datasets`, whole after a kill, rolled back with the run, limited in size."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from datasets import load_dataset

from sail_rl.contracts import Prompt, Rollout, Scores
from sail_rl.records.store import RolloutStore, read_rollouts


def write(store: RolloutStore, step: int, *, samples: int = 2, text: str = "a") -> Path:
    prompt = Prompt("p7", [{"role": "user", "content": "?"}], "<user>?", [], {"answer": 10})
    rollouts = [Rollout("p7", n, [5, 6], [-0.1, -0.25], text, "stop", step) for n in range(samples)]
    scores = Scores([float(n) for n in range(samples)], {"answer": [1.0] * samples, "format": [0.5] * samples})
    return store.write("rlvr", step, [prompt] * samples, rollouts, scores)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write(RolloutStore(tmp_path), 3)
    first, second = read_rollouts(tmp_path, stage="rlvr", step=3)
    assert (first.rollout.prompt_id, first.rollout.sample, second.rollout.sample) == ("p7", 0, 1)
    assert first.rollout.token_ids == [5, 6]
    assert first.rollout.logprobs == pytest.approx([-0.1, -0.25])
    assert first.answer == "10"
    assert second.total == 1.0
    assert first.rewards == {"answer": 1.0, "format": 0.5}


def test_datasets_reads_the_folder(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path)
    for step in (1, 2):
        write(store, step)
    rows = load_dataset("parquet", data_files=str(tmp_path / "rollouts/rlvr/*.parquet"), split="train")
    assert rows["step"] == [1, 1, 2, 2]


def test_rounds_and_ranks_of_a_step_have_files_of_their_own(tmp_path: Path) -> None:
    for rank in (0, 1):
        for _ in range(2):
            write(RolloutStore(tmp_path, rank=rank), 1)
    assert len(read_rollouts(tmp_path, step=1)) == 8


def test_a_rollback_forgets_later_steps_of_this_rank_only(tmp_path: Path) -> None:
    stores = [RolloutStore(tmp_path, rank=rank) for rank in (0, 1)]
    for store in stores:
        for step in (1, 2, 3):
            write(store, step)
    stores[0].rollback("rlvr", 1, ranks=2)
    assert [stored.step for stored in read_rollouts(tmp_path)] == [1] * 4 + [2] * 2 + [3] * 2


def test_a_rollback_of_fewer_ranks_forgets_what_the_missing_ones_wrote(tmp_path: Path) -> None:
    for rank in (0, 1):
        for step in (1, 2):
            write(RolloutStore(tmp_path, rank=rank), step)
    RolloutStore(tmp_path, rank=0).rollback("rlvr", 1, ranks=1)
    assert [stored.step for stored in read_rollouts(tmp_path)] == [1] * 4


def test_above_its_limit_the_oldest_go_and_that_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    size = write(RolloutStore(tmp_path / "measured"), 1).stat().st_size
    store = RolloutStore(tmp_path, max_gib=2.5 * size / 2**30)
    with caplog.at_level(logging.WARNING):
        for step in range(1, 6):
            write(store, step)
    assert {stored.step for stored in read_rollouts(tmp_path)} == {4, 5}
    assert caplog.text.count("the oldest rollouts are deleted") == 1


def test_asking_for_what_is_not_there_says_what_is(tmp_path: Path) -> None:
    write(RolloutStore(tmp_path), 3)
    with pytest.raises(ValueError, match="no rollouts of stage rlvr, step 9; it has steps 3 to 3 of rlvr"):
        read_rollouts(tmp_path, stage="rlvr", step=9)
