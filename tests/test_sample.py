"""Offline sampling and looking at stored rollouts: with a real model, resumable, pass@k by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from math import comb
from pathlib import Path

import pytest
from conftest import picture
from launching import finish
from rich.console import Console

from sail_rl.config import RewardConfig
from sail_rl.contracts import Rollout
from sail_rl.evaluation.replay import replay, show
from sail_rl.evaluation.sample import SampleOptions, sample, summary
from sail_rl.maths.passk import majority, pass_at_k
from sail_rl.records.store import StoredRollout, read_rollouts


def test_pass_at_k_by_hand_and_by_counting_subsets() -> None:
    assert pass_at_k(0, 8, 4) == 0
    assert pass_at_k(8, 8, 1) == 1
    assert pass_at_k(2, 8, 1) == pytest.approx(2 / 8)
    assert pass_at_k(2, 4, 2) == pytest.approx(1 - comb(2, 2) / comb(4, 2))
    assert pass_at_k(3, 4, 2) == 1
    with pytest.raises(ValueError, match="k must be 1 to 4"):
        pass_at_k(1, 4, 5)


def test_the_majority_is_the_commonest_answer() -> None:
    assert majority(["7", "8", "8", "7", "8"]) == "8"


def test_the_summary_by_hand() -> None:
    rollouts = [
        StoredRollout(
            *("sample", 0, "?", "7", Rollout(prompt, 0, [1] * length, [0.0] * length, text, "stop", 1)), total, {}
        )
        for prompt, total, length, text in [
            *(("a", 1.0, 2, "<think>2+5</think>\\boxed{7}"), ("a", 0.0, 4, "\\boxed{8}")),
            *(("b", 0.0, 6, "\\boxed{9}"), ("b", 0.4, 8, "")),
        ]
    ]
    found = summary(rollouts, {"a": "sum", "b": None})
    assert found == {
        "rollouts": 4,
        "accuracy": 0.25,
        "reward": 0.35,
        "length_mean": 5,
        "accuracy/sum": 0.5,
        "thinking/sum": 0.5,
        "pass@1": 0.25,
        "pass@2": 0.5,
        "maj@2": 0.5,  # of two answers that tie, the first
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = []
    for number in range(5):
        picture(number).save(tmp_path / f"{number}.png")
        rows.append({"prompt": "What is the sum?", "images": [f"{number}.png"], "answer": "7"})
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.py").write_text(
        "def even(completion_ids, answer, **_):\n"
        "    assert set(answer) == {'7'}\n"
        "    return [float(sum(ids) % 2 == 0) for ids in completion_ids]\n"
    )
    return path


def options(data: Path, model: Path, out: Path) -> SampleOptions:
    return SampleOptions(
        model,
        data,
        out,
        n=4,
        rewards=(f"{data.parent}/mine.py:even",),
        engine="rollouts.hf:HFEngine",
        max_length=64,
        max_tokens=4,
        batch_size=2,
    )


def test_sampling_stopped_half_way_goes_on_and_gives_the_same(
    data: Path, tiny_dir: Callable[..., Path], tmp_path: Path
) -> None:
    model = tiny_dir()
    straight = sample(options(data, model, tmp_path / "straight"))
    sample(options(data, model, tmp_path / "again"))
    (tmp_path / "again/rollouts/sample/step-000001-rank-0-0.parquet").unlink()
    assert sample(options(data, model, tmp_path / "again")) == straight
    rollouts = read_rollouts(tmp_path / "again", stage="sample")
    assert rollouts == read_rollouts(tmp_path / "straight", stage="sample")
    assert [stored.rollout.prompt_id for stored in rollouts] == [str(number) for number in range(5) for _ in range(4)]
    assert straight["rollouts"] == 20
    assert 0 < straight["reward"] < 1
    assert straight["pass@1"] <= straight["pass@2"] <= straight["pass@4"]
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"--out .*file is a file; give a folder"):
        sample(options(data, model, tmp_path / "file"))
    with pytest.raises(ValueError, match="again holds rollouts of another n; give another --out"):
        sample(replace(options(data, model, tmp_path / "again"), n=2))


@pytest.mark.slow
def test_the_command_samples_with_vllm(data: Path, tiny_dir: Callable[..., Path], tmp_path: Path) -> None:
    command = ["-m", "sail_rl", "sample", tiny_dir(), data, "--out", tmp_path / "out"]
    limits = ["--n", "2", "--max-tokens", "4", "--max-length", "128", "--batch-size", "8"]
    done = finish([*command, *limits])
    assert "pass@2" in done.stdout
    assert len(read_rollouts(tmp_path / "out")) == 10


class TestStoredRollouts:
    @pytest.fixture
    def run_dir(self, data: Path, tiny_dir: Callable[..., Path], tmp_path: Path) -> Path:
        """A folder with a recipe whose one RL stage has stored rollouts."""
        run = tmp_path / "run"
        sample(options(data, tiny_dir(), run))
        (run / "rollouts/sample").rename(run / "rollouts/rlvr")
        recipe = Path("recipes/quickstart.yaml").resolve()
        changes = f"extends: {recipe}\noutput_dir: {run}\nstages: {{longcot_sft: null, rlvr: {{data: mine}}}}\n"
        changes += f"data: {{builder: null, kwargs: {{}}, files: {{mine: {data}, heldout: {data}}}}}\n"
        (run / "recipe.yaml").write_text(changes)
        return run

    def test_show_prints_the_worst_and_the_best(self, run_dir: Path) -> None:
        console = Console(record=True, width=100)
        show(run_dir, console, stage=None, step=None, worst=2, best=1)
        printed = console.export_text()
        assert printed.count("What is the sum?") == 3
        assert "total 0 (even 0)" in printed
        assert "total 1 (even 1)" in printed
        assert "3 of 20 rollouts" in printed

    def test_replay_scores_them_with_another_reward_and_the_dataset_s_columns(self, run_dir: Path, data: Path) -> None:
        (data.parent / "other.py").write_text(
            "def odd(completion_ids, answer, images, **_):\n"
            "    assert set(answer) == {'7'} and all(len(i) == 1 for i in images)\n"
            "    return [float(sum(ids) % 2) for ids in completion_ids]\n"
        )
        import sail_rl.records.store as store

        stored = run_dir / "rollouts/rlvr"
        for path in stored.glob("*.parquet"):  # written by the stage whose name they now have
            table = store.parquet.read_table(path, schema=store.SCHEMA)
            place = table.schema.get_field_index("stage")
            store.parquet.write_table(table.set_column(place, "stage", [["rlvr"] * len(table)]), path)
        result = replay(run_dir, {"odd": RewardConfig(path=f"{data.parent}/other.py:odd")}, stage="rlvr", step=None)
        assert [old + new for old, new in zip(result["before"], result["scores"], strict=True)] == [1.0] * 20
        assert result["correlation"] == pytest.approx(-1)
        assert result["changed"] == 1
