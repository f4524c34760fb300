"""From rollouts to data: by hand, and with the command on a store and a dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import picture

from sail_rl.cli.main import main
from sail_rl.contracts import Prompt, Rollout, Scores
from sail_rl.curation.harvest import (
    hard_cases,
    histogram,
    is_right,
    keeps_difficulty,
    pass_rates,
    rejection_sample,
)
from sail_rl.data.dataset import Rows
from sail_rl.data.saving import save_rows
from sail_rl.records.store import RolloutStore, StoredRollout

RIGHT = {"answer": 1.0, "format": 1.0}


def stored(
    prompt: str, sample: int, answer: float, text: str = "", *, tokens: int = 5, stop_reason: Any = "stop"
) -> StoredRollout:
    rollout = Rollout(prompt, sample, [1] * tokens, [0.0] * tokens, text or f"{prompt}{sample}", stop_reason, 1)
    return StoredRollout("rlvr", 1, "?", "7", rollout, answer, {"answer": answer, "format": 1.0})


def test_right_is_what_ended_by_itself_with_every_score() -> None:
    assert is_right(stored("a", 0, 1.0), RIGHT)
    assert not is_right(stored("a", 0, 0.5), RIGHT)
    assert not is_right(stored("a", 0, float("nan")), RIGHT), "no score"
    assert not is_right(stored("a", 0, 1.0, stop_reason="length"), RIGHT)
    with pytest.raises(ValueError, match="no reward is called 'think'; the rollouts have answer, format"):
        is_right(stored("a", 0, 1.0), {"think": 1.0})


def test_pass_rates_and_the_report_s_difficulty_filter() -> None:
    rollouts = [stored("easy", n, 1.0) for n in range(4)] + [stored("some", n, float(n == 0)) for n in range(4)]
    rollouts += [stored("never", n, 0.0) for n in range(4)]
    rates = pass_rates(rollouts, RIGHT)
    assert rates == {"easy": 1.0, "some": 0.25, "never": 0.0}
    assert [p for p in rates if keeps_difficulty(rates[p], "perception")] == ["some", "never"]
    assert [p for p in rates if keeps_difficulty(rates[p], "reasoning")] == ["some"]
    assert hard_cases(rates | {"half": 0.5}) == ["some", "half"]
    assert histogram(rates.values(), samples=4) == {"0/4": 1, "1/4": 1, "2/4": 0, "3/4": 0, "4/4": 1}


def test_rejection_sampling_takes_right_and_typical_completions_no_two_alike() -> None:
    rollouts = [
        stored("b", 0, 1.0, "long", tokens=90),
        stored("b", 1, 1.0, "usual", tokens=20),
        stored("b", 2, 1.0, "usual", tokens=20),
        stored("b", 3, 1.0, "short", tokens=2),
        stored("b", 4, 0.0, "wrong", tokens=20),
        stored("a", 0, 0.0, "wrong"),
        stored("c", 0, 1.0, "only"),
    ]
    assert [each.rollout.text for each in rejection_sample(rollouts, RIGHT)] == ["usual", "only"]
    two = rejection_sample(rollouts, RIGHT, per_prompt=2)
    assert [each.rollout.text for each in two] == ["usual", "short", "only"]
    assert len(rejection_sample(rollouts, RIGHT, per_prompt=9)) == 4
    with pytest.raises(ValueError, match="per_prompt is 0"):
        rejection_sample(rollouts, RIGHT, per_prompt=0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three rows, the second with two images, the last with none."""
    lines = []
    for number, count in enumerate([1, 2, 0]):
        for image in range(count):
            picture(10 * number + image).save(tmp_path / f"{number}-{image}.png")
        images = [f"{number}-{image}.png" for image in range(count)]
        lines.append({"id": f"row{number}", "prompt": "What?", "images": images, "answer": "7"})
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Four rollouts of each row at two steps: row 0 always right, row 1 once in four, row 2 never."""
    store = RolloutStore(tmp_path / "run")
    for step in (1, 2):
        prompts, rollouts, answer = [], [], []
        for row, right in enumerate([4, 1, 0]):
            for sample in range(4):
                prompts.append(Prompt(f"row{row}", [{"role": "user", "content": "What?"}], "What?"))
                text = f"<think>{row} {sample} {step}</think>\\boxed{{7}}"
                rollouts.append(Rollout(f"row{row}", sample, [1, 2, 3], [0.0] * 3, text, "stop", step))
                answer.append(float(sample < right))
        store.write("rlvr", step, prompts, rollouts, Scores(answer, {"answer": answer}))
    return tmp_path / "run"


def test_harvest_writes_rows_that_train_with_their_images(
    run_dir: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "elsewhere" / "cot.parquet"
    command = ["data", "harvest", str(run_dir), str(data), str(out), "--minimum", "answer=1", "--last-steps", "1"]
    assert main(command) == 0
    assert "12 rollouts of 3 prompts -> 2 completions of 2 prompts" in capsys.readouterr().out
    rows, source = Rows(out, needs=("prompt", "completion")), Rows(data)
    assert [row["id"].partition("#")[0] for row in rows] == ["row0", "row1"]
    assert rows[1]["completion"] == "<think>1 0 2</think>\\boxed{7}"
    assert rows[1]["answer"] == "7"
    for index in range(2):
        assert [image.tobytes() for image in rows[index]["images"]] == [
            image.tobytes() for image in source[index]["images"]
        ]


def test_filter_keeps_what_can_be_learnt_and_says_where_the_rest_went(
    run_dir: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rl.parquet"
    assert main(["data", "filter", str(run_dir), str(data), str(out), "--minimum", "answer=1"]) == 0
    printed = capsys.readouterr().out
    assert "pass rate   2/8: 1 prompts" in printed
    assert "3 rows -> 1" in printed
    (row,) = Rows(out)
    assert (row["id"], row["pass_rate"]) == ("row1", 0.25)
    dropped = [json.loads(line) for line in (tmp_path / "rl.dropped.jsonl").read_text().splitlines()]
    assert dropped == [{"id": "row0", "pass_rate": 1.0}, {"id": "row2", "pass_rate": 0.0}]


def test_mistakes_are_refused(run_dir: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*options: str, dataset: Path = data) -> str:
        arguments = ["data", "harvest", str(run_dir), str(dataset), str(tmp_path / "o.parquet"), *options]
        assert main(arguments) == 2
        return capsys.readouterr().err

    assert "say what is right" in refused()
    assert "--minimum answer: write REWARD=SCORE" in refused("--minimum", "answer")
    assert "no reward is called 'think'" in refused("--minimum", "think=1")
    assert "none of 24 rollouts is right" in refused("--minimum", "answer=2")
    other = tmp_path / "other.jsonl"
    other.write_text('{"id": "x", "prompt": "p"}\n')
    assert "has no row with id 'row0'" in refused("--minimum", "answer=1", dataset=other)
    with pytest.raises(ValueError, match=r"end the name in \.parquet"):
        save_rows(tmp_path / "o.jsonl", Rows(data), [0])
