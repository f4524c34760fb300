"""What a run writes down: metric names, metrics.jsonl and W&B, rollback, traces, progress."""

from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import wandb
from PIL import Image
from wandb.sdk.lib.service import service_port_file

from sail_rl.contracts import Prompt, Rollout, Scores
from sail_rl.records.jsonl import append_jsonl, keep_records, read_jsonl
from sail_rl.records.log import RunLogger
from sail_rl.records.progress import StageDisplay
from sail_rl.records.schema import METRICS, is_known, metrics_table, nearest_known
from sail_rl.records.traces import TraceWriter, extremes, side_by_side
from sail_rl.records.wandb_run import choose_wandb_mode

ROOT = Path(__file__).parent.parent
STAGES = ["longcot_sft", "rlvr"]


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reaches W&B, whatever this machine is set to."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb_data"))


def run_logger(run_dir: Path, *, mode: str = "disabled") -> RunLogger:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", mode)
        return RunLogger(run_dir, project="tests", run_name="run", config={"seed": 1})


def rollout(prompt_id: str, sample: int, text: str = "") -> Rollout:
    return Rollout(prompt_id, sample, [5, 6], [-0.1, -0.2], text, "stop", 3)


# The schema


def test_docs_hold_the_metrics_table() -> None:
    remedy = "write metrics_table() of sail_rl/records/schema.py below the introduction of docs/metrics.md"
    assert (ROOT / "docs" / "metrics.md").read_text().endswith("\n\n" + metrics_table()), remedy


def test_a_placeholder_stands_for_one_part_of_a_name() -> None:
    assert is_known("loss")
    assert is_known("reward/think-boxed/mean")
    assert is_known("moe/load/3/127")
    assert not is_known("reward/a/b/mean")
    assert not is_known("reward//mean")
    assert not is_known("losses")


def test_every_name_in_the_table_is_there_once() -> None:
    names = [metric.name for metric in METRICS]
    assert sorted(set(names)) == sorted(names)


def test_the_nearest_name_keeps_the_parts_that_vary() -> None:
    assert nearest_known("reward/answer/meen") == "reward/answer/mean"
    assert nearest_known("grad-norm") == "grad_norm"


# metrics.jsonl


def test_an_unknown_metric_is_refused_with_the_nearest_known_one_and_nothing_is_written(tmp_path: Path) -> None:
    log = run_logger(tmp_path)
    with pytest.raises(ValueError, match=r"'rollout/length_men'.*'rollout/length_mean'.*schema\.py"):
        log.log({"loss": 1.0, "rollout/length_men": 3.0}, stage="rlvr", step=1, global_step=1)
    assert read_jsonl(tmp_path / "metrics.jsonl") == []


def test_a_record_is_complete_and_valid_json_even_when_a_value_is_not_finite(tmp_path: Path) -> None:
    run_logger(tmp_path).log(
        {"loss": math.nan, "grad_norm": math.inf, "entropy": 0.5}, stage="rlvr", step=2, global_step=7
    )
    line = (tmp_path / "metrics.jsonl").read_text()
    record = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert record.pop("time") > 1.7e9
    assert record == {
        "stage": "rlvr", "step": 2, "global_step": 7, "loss": None, "grad_norm": None, "entropy": 0.5,
    }  # fmt: skip


def test_a_killed_process_loses_no_metrics(tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from sail_rl.records.log import RunLogger
log = RunLogger(Path({str(tmp_path)!r}), project="tests", run_name="run", config={{}})
for step in range(5):
    log.log({{"loss": 0.5}}, stage="rlvr", step=step, global_step=step)
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=os.environ | {"WANDB_MODE": "disabled"}, check=False
    )
    assert killed.returncode == -9
    assert [record["step"] for record in read_jsonl(tmp_path / "metrics.jsonl")] == [0, 1, 2, 3, 4]


def test_a_torn_last_line_is_no_record_and_the_next_one_replaces_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2')
    assert read_jsonl(path) == [{"step": 1}]
    append_jsonl(path, {"step": 3})
    assert path.read_text() == '{"step": 1}\n{"step": 3}\n'


def test_a_file_with_nothing_but_a_torn_line_starts_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"st')
    append_jsonl(path, {"step": 1})
    assert read_jsonl(path) == [{"step": 1}]


@pytest.mark.parametrize("broken", ['{"step": 2', "[1]"])
def test_a_broken_line_elsewhere_is_an_error_that_names_file_and_line(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{broken}\n{{"step": 3}}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: not"):
        read_jsonl(path)


def test_a_missing_file_has_no_records(tmp_path: Path) -> None:
    assert read_jsonl(tmp_path / "metrics.jsonl") == []
    assert keep_records(tmp_path / "metrics.jsonl", lambda record: False) == 0


# Rollback


def write_places(path: Path, places: list[tuple[str, int]]) -> None:
    for stage, step in places:
        append_jsonl(path, {"stage": stage, "step": step})


def read_places(path: Path) -> list[tuple[str, int]]:
    return [(record["stage"], record["step"]) for record in read_jsonl(path)]


@pytest.mark.parametrize(
    ("stage", "step", "kept"),
    [
        ("rlvr", 1, [("longcot_sft", 0), ("longcot_sft", 5), ("rlvr", 0), ("rlvr", 1)]),
        ("rlvr", -1, [("longcot_sft", 0), ("longcot_sft", 5)]),
        ("longcot_sft", 4, [("longcot_sft", 0)]),
        ("longcot_sft", -1, []),
    ],
)
def test_rollback_forgets_later_steps_and_later_stages(
    tmp_path: Path, stage: str, step: int, kept: list[tuple[str, int]]
) -> None:
    files = [tmp_path / name for name in ("metrics.jsonl", "traces.jsonl", "prompts_seen.jsonl")]
    for path in files:
        write_places(path, [("longcot_sft", 0), ("longcot_sft", 5), ("rlvr", 0), ("rlvr", 1), ("rlvr", 2)])
        with path.open("a") as file:
            file.write('{"torn": ')
    run_logger(tmp_path).rollback(stage, step, stages=STAGES)
    assert [read_places(path) for path in files] == [kept] * 3
    assert not list(tmp_path.glob("*.partial"))


def test_rollback_of_a_fresh_run_makes_no_files(tmp_path: Path) -> None:
    run_logger(tmp_path).rollback("rlvr", -1, stages=STAGES)
    assert not list(tmp_path.glob("*.jsonl"))


def test_rollback_refuses_a_stage_that_the_run_does_not_have(tmp_path: Path) -> None:
    write_places(tmp_path / "metrics.jsonl", [("warmup", 1)])
    log = run_logger(tmp_path)
    with pytest.raises(ValueError, match=r"metrics\.jsonl: stage 'warmup' isn't one of longcot_sft, rlvr"):
        log.rollback("rlvr", 3, stages=STAGES)
    with pytest.raises(ValueError, match="stage 'rl' isn't one of"):
        log.rollback("rl", 3, stages=STAGES)
    assert read_places(tmp_path / "metrics.jsonl") == [("warmup", 1)]


# Weights & Biases


def test_a_resumed_run_goes_on_as_the_same_wandb_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for step in (1, 2):
        log = run_logger(tmp_path, mode="offline")
        log.log({"loss": 0.5}, stage="rlvr", step=step, global_step=step)
        log.summary({"rlvr/heldout_accuracy": 0.9})
        log.finish()
        assert log.wandb_run.id == (tmp_path / "wandb_run_id").read_text().strip()
    assert len(list(tmp_path.glob(f"wandb/offline-run-*/run-{log.wandb_run.id}.wandb"))) >= 1
    assert capfd.readouterr() == ("", ""), "offline runs are quiet"


def test_a_service_of_wandb_that_starts_badly_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    poll, calls = service_port_file._poll_once, []

    def read_too_early(file: Path) -> object:
        calls.append(file)
        if len(calls) == 1:  # the service has made the file, and not written it yet
            file.write_text("")
        return poll(file)

    monkeypatch.setattr(service_port_file, "_poll_once", read_too_early)
    wandb.teardown()
    log = run_logger(tmp_path, mode="offline")
    log.finish()
    assert "IndexError" in caplog.text
    assert len(calls) > 1


def test_traces_go_to_wandb_as_a_table_with_a_limited_number_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sail_rl.records.log.TABLE_ROWS", 3)
    prompt = Prompt("p", [{"role": "user", "content": "?"}], "", [Image.new("RGB", (4, 4))] * 2, {"answer": 10})
    samples = [rollout("p", n, "text") for n in range(5)]
    records = TraceWriter(tmp_path).write("rlvr", 1, [prompt] * 5, samples, Scores([0.0] * 5, {}), limit=5)
    log = run_logger(tmp_path, mode="offline")
    log.table(records, global_step=1)
    log.finish()
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/*.table.json")
    data = json.loads(table.read_text())["data"]
    assert [row[0] for row in data] == ["p #0", "p #4", "p #1"]
    assert [row[1] for row in data] == ["Image"] * 3


def test_images_of_a_trace_stand_side_by_side_for_wandb(tmp_path: Path) -> None:
    paths = [tmp_path / "low.png", tmp_path / "high.png"]
    Image.new("RGB", (8, 4), "red").save(paths[0])
    Image.new("L", (100, 1000)).save(paths[1])
    row = side_by_side(paths, height=100)
    assert row is not None
    assert row.size == (8 + 10, 100)
    assert row.getpixel((0, 0)) == (255, 0, 0)
    assert side_by_side([]) is None


def test_wandb_is_online_only_with_a_key_and_the_environment_decides_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_wandb_mode() == "offline"
    (tmp_path / "netrc").write_text("machine example.org login user password none\n")
    assert choose_wandb_mode() == "offline"
    monkeypatch.setenv("WANDB_BASE_URL", "https://example.org")
    assert choose_wandb_mode() == "online"
    monkeypatch.delenv("WANDB_BASE_URL")
    monkeypatch.setenv("WANDB_API_KEY", "not a key")
    assert choose_wandb_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert choose_wandb_mode() == "disabled"


def test_a_netrc_that_cannot_be_parsed_leaves_wandb_offline_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "netrc").write_text("not a netrc file\n")
    assert choose_wandb_mode() == "offline"
    assert "W&B stays offline" in caplog.text


# Traces


def test_a_trace_holds_question_answer_completion_and_rewards(tmp_path: Path) -> None:
    content: list[dict[str, Any]] = [{"type": "image"}, {"type": "text", "text": "Sum?"}]
    messages = [
        {"role": "user", "content": "old"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": content},
    ]
    prompt = Prompt("p1", messages, "…", [Image.new("RGB", (4, 4), "red")], {"answer": 10})
    scores = Scores([0.9], {"answer": [1.0], "judge": [math.nan]})
    returned = TraceWriter(tmp_path).write("rlvr", 4, [prompt], [rollout("p1", 0, "\\boxed{10} ✓")], scores, limit=2)
    (record,) = read_jsonl(tmp_path / "traces.jsonl")
    assert [record] == returned
    (image,) = record.pop("images")
    assert numpy.array_equal(numpy.asarray(Image.open(tmp_path / image)), numpy.full((4, 4, 3), [255, 0, 0]))
    assert record == {
        "stage": "rlvr", "step": 4, "prompt_id": "p1", "sample": 0, "question": "Sum?", "answer": "10",
        "completion": "\\boxed{10} ✓", "stop_reason": "stop", "tokens": 2, "weights_version": 3, "total": 0.9,
        "rewards": {"answer": 1.0, "judge": None},
    }  # fmt: skip


def test_an_image_is_saved_once_and_in_any_mode(tmp_path: Path) -> None:
    writer = TraceWriter(tmp_path)
    for step, mode in enumerate(("RGB", "RGB", "CMYK", "F")):
        prompt = Prompt("p", [{"role": "user", "content": "?"}], "", [Image.new(mode, (4, 4))])
        writer.write("rlvr", step, [prompt], [rollout("p", 0)], Scores([0.0], {}), limit=1)
    assert len(list((tmp_path / "trace_images").iterdir())) == 3
    assert {Image.open(path).size for path in (tmp_path / "trace_images").iterdir()} == {(4, 4)}


def test_traces_alternate_between_best_and_worst_of_different_prompts() -> None:
    totals, groups = [0.0, 1.0, 0.9, 0.1], ["a", "a", "b", "b"]
    assert extremes(totals, 2, groups=groups) == [1, 3]
    assert extremes(totals, 3, groups=groups) == [1, 3, 2]
    assert sorted(extremes(totals, 9, groups=groups)) == [0, 1, 2, 3]
    assert extremes(totals, 0, groups=groups) == []
    assert extremes([], 2, groups=[]) == []


# Progress


def test_a_stage_off_a_terminal_logs_its_first_and_its_last_step(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    display = StageDisplay("rlvr", total=3)
    for step in (1, 2, 3):
        display.update(step, {"loss": 0.25, "eval/heldout/accuracy": 0.5} if step == 1 else {"loss": 0.125})
    display.close()
    assert [message.split("  ")[0] for message in caplog.messages] == ["rlvr 1/3", "rlvr 3/3"]
    assert caplog.messages[1].endswith("loss 0.125  held-out 50.0%")


def test_a_stage_on_a_terminal_draws_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    display = StageDisplay("rlvr", total=3, done=1)
    display.update(2, {"loss": 0.25})
    display.close()
    assert "2/3" in capsys.readouterr().err
