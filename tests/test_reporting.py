"""What a run shows: metrics that survive a kill, offline W&B, traces, curves and the report."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
from conftest import picture

from sail_rl.contracts import Prompt, Rollout, Scores
from sail_rl.reporting.log import RunLogger, wandb_mode
from sail_rl.reporting.progress import StageDisplay
from sail_rl.reporting.records import append_record, read_records
from sail_rl.reporting.report import summary_table, write_report
from sail_rl.reporting.schema import METRICS, check_names, metrics_table
from sail_rl.reporting.traces import TraceWriter

HOSTILE = "<think><script>alert(1)</script></think>\\boxed{<b>7</b>}"
STAGES = ["longcot_sft", "rlvr"]


def write_traces(run_dir: Path, stage: str, step: int, completion: str) -> None:
    prompts = [
        Prompt(f"p{i}", [{"role": "user", "content": "How many?"}], "", [picture(i)], {"answer": "7"}) for i in range(4)
    ]
    rollouts = [Rollout(f"p{i}", 0, [1], [0.0], completion, "stop", 1) for i in range(4)]
    scores = Scores([1.0, 0.0, 1.0, 0.0], {"answer": [1.0, 0.0, float("nan"), 0.0]})
    TraceWriter(run_dir).write(stage, step, prompts, rollouts, scores, limit=2)


@pytest.fixture
def finished_run(tmp_path: Path) -> Path:
    """A run's folder with two stages of metrics, traces and a summary."""
    for number, stage in enumerate(STAGES):
        for step in range(5):
            metrics = {"loss": 1.0 / (step + 1), "entropy": 0.5, "eval/heldout/accuracy": 0.1 * step}
            if number:
                metrics |= {"reward/answer/mean": 0.2 * step, "rollout/length_mean": 30.0, "moe/load/0/1": 0.5}
                metrics |= {"rollout/logprob_diff_max": 1e-6, "moe/load/0/0": 0.5}
            append_record(
                tmp_path / "metrics.jsonl", {"stage": stage, "step": step, "global_step": 4 * number + step} | metrics
            )
    write_traces(tmp_path, "rlvr", 1, HOSTILE)
    stage = {"name": "rlvr", "minutes": 2.5, "heldout_accuracy_before": 0.5, "heldout_accuracy_after": 0.875}
    (tmp_path / "summary.json").write_text(json.dumps({"name": "toy", "seed": 1, "stages": [stage]}))
    return tmp_path


def test_the_documented_table_is_the_schema() -> None:
    assert metrics_table() in Path("docs/metrics.md").read_text()
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_an_unknown_metric_is_refused_with_the_nearest_known_one() -> None:
    check_names(["loss", "reward/my_reward/mean", "moe/load/3/7", "eval/heldout/accuracy"])
    with pytest.raises(ValueError, match=r"'rollout/lenght_mean' is not in .*; the nearest is 'rollout/length_mean'"):
        check_names(["rollout/lenght_mean"])


class TestRecords:
    def test_a_torn_last_line_is_left_out(self, tmp_path: Path) -> None:
        append_record(tmp_path / "m.jsonl", {"a": 1})
        with (tmp_path / "m.jsonl").open("a") as file:
            file.write('{"a": 2, "b"')
        assert read_records(tmp_path / "m.jsonl") == [{"a": 1}]

    def test_a_broken_line_in_the_middle_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "m.jsonl").write_text('{"a": 1}\n{"a"\n{"a": 3}\n')
        with pytest.raises(ValueError, match=r"m.jsonl, line 2: not a JSON record"):
            read_records(tmp_path / "m.jsonl")

    def test_what_json_cannot_hold_becomes_null(self, tmp_path: Path) -> None:
        append_record(tmp_path / "m.jsonl", {"a": float("nan"), "b": {"c": float("inf")}})
        assert read_records(tmp_path / "m.jsonl") == [{"a": None, "b": {"c": None}}]


class TestRunLogger:
    def test_a_resumed_run_forgets_what_happens_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_MODE", "offline")
        logger = RunLogger(tmp_path, project="test", run_name="toy", config={"seed": 1})
        for stage in STAGES:
            for step in range(4):
                logger.log({"loss": float(step)}, stage=stage, step=step, global_step=step)
            write_traces(tmp_path, stage, 3, "x")
        logger.rollback("rlvr", 1, stages=STAGES)
        kept = [(record["stage"], record["step"]) for record in read_records(tmp_path / "metrics.jsonl")]
        assert kept == [("longcot_sft", step) for step in range(4)] + [("rlvr", 0), ("rlvr", 1)]
        assert {record["stage"] for record in read_records(tmp_path / "traces.jsonl")} == {"longcot_sft"}
        logger.rollback("longcot_sft", 2, stages=STAGES)
        assert [record["step"] for record in read_records(tmp_path / "metrics.jsonl")] == [0, 1, 2]
        logger.finish()
        assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))

    def test_both_parts_of_a_resumed_run_are_one_wandb_run(self, tmp_path: Path) -> None:
        ids = []
        for _ in range(2):
            logger = RunLogger(tmp_path, project="test", run_name="toy", config={})
            ids.append(logger._wandb.id)
            logger.finish()
        assert ids[0] == ids[1]

    def test_nothing_is_sent_without_being_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("WANDB_MODE", raising=False)
        monkeypatch.delenv("WANDB_API_KEY", raising=False)
        assert wandb_mode() == "offline"
        monkeypatch.setenv("WANDB_API_KEY", "k")
        assert wandb_mode() == "online"
        monkeypatch.setenv("WANDB_MODE", "disabled")
        assert wandb_mode() == "disabled"


class TestReport:
    def test_the_page_is_self_contained_and_escapes_what_models_write(self, finished_run: Path) -> None:
        html = write_report(finished_run).read_text()
        assert "<script>" not in html
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
        assert not re.findall(r'(?:src|href)="(?!data:)', html)
        assert "87.5%" in html
        assert html.count('class="seen"') == 2  # one image for each trace

    def test_thought_and_answer_are_told_apart(self, finished_run: Path) -> None:
        html = write_report(finished_run).read_text()
        assert 'class="answer">\\boxed{&lt;b&gt;7&lt;/b&gt;}' in html

    def test_every_panel_with_data_is_drawn(self, finished_run: Path) -> None:
        write_report(finished_run)
        names = {path.stem for path in (finished_run / "curves").glob("*.png")}
        assert names == {
            "held_out",
            "reward",
            "loss",
            "response_length",
            "entropy",
            "engine_vs_trainer__log_prob_gap",
            "expert_load",
        }
        assert (finished_run / "curves.png").stat().st_size > 10_000

    def test_a_folder_without_a_run_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"holds no metrics.jsonl"):
            write_report(tmp_path)

    def test_an_image_is_stored_once(self, tmp_path: Path) -> None:
        write_traces(tmp_path, "rlvr", 1, "x")
        write_traces(tmp_path, "rlvr", 2, "x")
        assert len(list((tmp_path / "trace_images").glob("*.png"))) == 2
        assert len(read_records(tmp_path / "traces.jsonl")) == 4

    def test_the_summary_table_has_a_row_for_each_stage(self, finished_run: Path) -> None:
        table = summary_table(json.loads((finished_run / "summary.json").read_text()))
        assert [column._cells[0] for column in table.columns] == ["rlvr", "50.0%", "87.5%", "2.5"]


class TestDisplay:
    def test_plain_lines_away_from_a_terminal(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            display = StageDisplay("rlvr", total=3, terminal=False)
            for step in range(1, 4):
                display.update(step, {"loss": 0.5, "eval/heldout/accuracy": 0.25 * step})
            display.close()
        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) == 2  # the first step, and the last
        assert lines[-1].startswith("rlvr 3/3")
        assert "loss 0.5" in lines[-1]
        assert "held-out 75.0%" in lines[-1]

    def test_a_bar_with_its_rate_on_a_terminal(self, capsys: pytest.CaptureFixture[str]) -> None:
        display = StageDisplay("rlvr", total=2, terminal=True)
        display.update(2, {"loss": 0.5})
        display.close()
        written = capsys.readouterr().err
        assert "2/2" in written
        assert "steps/s" in written
