"""The doctor's rules, each on metrics that set it off and on metrics that don't; runs compared on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sail_rl.cli.main import main
from sail_rl.records.jsonl import append_jsonl
from sail_rl.records.schema import is_known
from sail_rl.reporting.compare import differing, named, write_comparison
from sail_rl.reporting.doctor import examine
from sail_rl.reporting.series import RunCurves

HEALTHY = {
    "reward/total/mean": [0.5, 0.55, 0.6, 0.65, 0.7, 0.72, 0.75, 0.8],
    "groups/zero_variance": [0.3] * 8,
    "rollout/truncated": [0.02] * 8,
    "entropy": [0.5, 0.5, 0.45, 0.4, 0.4, 0.4, 0.35, 0.3],
    "mismatch/p99": [1e-6] * 8,
    "ratio/effective_share": [0.99] * 8,
    "rollout/length_mean": [100.0] * 8,
    "reward/answer/std": [0.4] * 8,
    "reward/answer/timeout": [0.0] * 8,
    "grad_norm": [9.0, 1.0, 1.1, 1.2, 1.0, 1.1, 1.0, 1.0],
    "train/skipped_steps": [0.0] * 8,
    "time/step": [2.0] * 8,
    "time/generate": [0.9] * 8,
    "eval/heldout/accuracy": [0.5, None, 0.6, None, None, 0.65, None, 0.66],
}


def run_of(**changes: Any) -> RunCurves:
    metrics = HEALTHY | {name.replace("__", "/"): values for name, values in changes.items()}
    records = []
    for step in range(8):
        record = {"stage": "rlvr", "step": step, "global_step": step}
        records.append(record | {name: values[step] for name, values in metrics.items()})
    assert all(is_known(name) for name in metrics)
    return RunCurves(records, RunCurves.read(Path("nothing")).stages or _spans())


def _spans() -> list[Any]:
    from sail_rl.reporting.series import StageSpan

    return [StageSpan("rlvr", 0, 7)]


def test_a_healthy_run_has_nothing() -> None:
    assert examine(run_of()) == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        (
            {"groups__zero_variance": [0.2] * 4 + [0.9] * 4},
            "zero-variance groups 90% at a mean reward of 0.78: .* easy",
        ),
        (
            {"groups__zero_variance": [0.9] * 8, "reward__total__mean": [0.05] * 8},
            "zero-variance groups 90% at a mean reward of 0.05: the data are too hard",
        ),
        ({"rollout__truncated": [0.0] * 4 + [0.4] * 4}, "40% of the completions are cut"),
        ({"entropy": [0.5] * 4 + [0.01] * 4}, "entropy fell from 0.5 to 0.01 nats"),
        ({"entropy": [0.5] * 4 + [4.0] * 4}, "entropy rose from 0.5 to 4 nats"),
        ({"mismatch__p99": [1e-6] * 7 + [0.5]}, "engine and trainer differ by more than 0.5 nats"),
        ({"ratio__effective_share": [0.3] * 8}, "effective sample size 30%"),
        (
            {"eval__heldout__accuracy": [0.6, None, 0.6, None, None, 0.58, None, 0.56]},
            "the reward rose by 0.25 while eval/heldout/accuracy fell from 60.0% to 56.0%",
        ),
        (
            {"eval__heldout__accuracy": [0.5, None, 0.8, None, None, 0.7, None, 0.7]},
            "eval/heldout/accuracy ends at 70.0%, below its best of 80.0%",
        ),
        ({"reward__guard_several_boxes__mean": [0.5] * 8}, "reward/guard_several_boxes/mean is 0.50"),
        (
            {"rollout__length_mean": [100.0] * 4 + [300.0] * 4, "reward__total__mean": [0.5] * 8},
            "completions grew from 100 to 300 tokens without more reward",
        ),
        ({"reward__answer__timeout": [0.0] * 4 + [0.2] * 4}, "reward/answer/timeout is 20.0%"),
        ({"reward__answer__std": [0.0] * 8}, "reward/answer/std is 0 at every step"),
        ({"train__skipped_steps": [0.0] * 6 + [1.0, 2.0]}, r"2 step\(s\) were skipped"),
        ({"grad_norm": [1.0] * 6 + [50.0, 1.0]}, "the gradient norm jumps to 50, and its median is 1"),
        ({"moe__dead_experts": [3.0] * 8}, "3 experts are dead"),
        ({"moe__load_max_violation": [7.0] * 8}, "the busiest expert has 8.0x its share"),
        ({"time__generate": [1.8] * 8}, "generate takes 90% of a step"),
    ],
)
def test_each_rule_says_what_it_sees(changes: dict[str, Any], what: str) -> None:
    import re

    (finding,) = examine(run_of(**changes))
    assert finding.stage == "rlvr"
    assert re.search(what, finding.problem)
    assert finding.remedy


def test_guards_that_pass_over_rollouts_and_short_stages_are_no_finding() -> None:
    assert examine(run_of(reward__guard_leaked_gold__none=[1.0] * 8)) == []
    records = [{"stage": "rlvr", "step": step, "global_step": step, "rollout/truncated": 1.0} for step in range(3)]
    assert examine(RunCurves(records, _spans())) == []


def write_run(folder: Path, name: str, *, seed: int = 0, reward: float = 0.5) -> Path:
    run = folder / name
    run.mkdir(parents=True)
    for step in range(6):
        metrics = {"reward/total/mean": reward + step / 20, "eval/heldout/accuracy": reward, "time/step": 1.0}
        append_jsonl(run / "metrics.jsonl", {"stage": "rlvr", "step": step, "global_step": step, **metrics})
    stages = [{"name": "rlvr", "kind": "rl", "optimizer": {"learning_rate": 1e-4 * (1 + seed)}}]
    (run / "recipe.yaml").write_text(yaml.safe_dump({"name": name, "seed": seed, "stages": stages}))
    return run


def test_runs_are_compared_with_what_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [write_run(tmp_path, name, seed=seed, reward=0.2 + seed / 4) for seed, name in enumerate(["a", "b", "c"])]
    assert main(["report", *map(str, runs), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out/report.html")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("report.html", "accuracy.png", "reward.png", "time.png")
    }
    page = (tmp_path / "out/report.html").read_text()
    assert "<td>stages.rlvr.optimizer.learning_rate</td><td>0.0001</td><td>0.0002</td>" in page
    assert "<td>seed</td><td>0</td><td>1</td><td>2</td>" in page
    with pytest.raises(ValueError, match="is missing or has no metrics"):
        write_comparison([runs[0], tmp_path], tmp_path / "out")


def test_settings_of_stages_that_others_lack_are_one_line() -> None:
    one = {"name": "x", "stages": [{"name": "sft", "kind": "sft", "steps": 1}], "new": 1}
    other = {"name": "y", "stages": [{"name": "sft", "kind": "sft", "steps": 2}, {"name": "soup", "kind": "soup"}]}
    assert differing({"one": one, "other": other}) == {
        "stages.soup": {"one": "–", "other": "soup"},
        "stages.sft.steps": {"one": 1, "other": 2},
    }


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    paths = [tmp_path / "a/run", tmp_path / "b/run"]
    assert list(named(paths)) == ["a/run", "b/run"]
    assert list(named(paths[:1])) == ["run"]


def test_the_doctor_prints_its_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    for step in range(8):
        record = {"stage": "rlvr", "step": step, "global_step": step, "rollout/truncated": 0.9}
        append_jsonl(run / "metrics.jsonl", record)
    assert main(["doctor", str(run)]) == 0
    assert "rlvr: 90% of the completions are cut at the token limit" in capsys.readouterr().out
    assert main(["doctor", str(tmp_path)]) == 2
