"""What a run shows: its series, curves, report page and summary, from a synthetic run."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import numpy
import pytest
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from sail_rl.contracts import Prompt, Rollout, Scores
from sail_rl.records.jsonl import append_jsonl
from sail_rl.records.schema import METRICS
from sail_rl.records.traces import TraceWriter
from sail_rl.reporting.curves import write_curves
from sail_rl.reporting.panels import PANELS
from sail_rl.reporting.report import choose_traces, split_completion, summary_table, write_report
from sail_rl.reporting.series import RunCurves, StageSpan

HOSTILE = "<think>\"<script>alert(1)</script>' & so</think>&amp; <img src=x onerror=alert(1)>\\boxed{<b>10</b>}"
SUMMARY = {
    "name": "quick<start>",
    "seed": 17,
    "stages": [
        {"name": "longcot_sft", "minutes": 2.04, "heldout_accuracy_before": 0.0, "heldout_accuracy_after": 0.844},
        {"name": "rlvr", "minutes": 3.0, "heldout_accuracy_before": 0.844, "heldout_accuracy_after": None},
    ],
}


def write_metrics(run_dir: Path, *, experts: bool = False) -> None:
    """Ten steps of SFT, ten of RL, with one held-out evaluation before and one after each."""
    for stage, offset in (("longcot_sft", 0), ("rlvr", 10)):
        for step in range(11):
            metrics = {"loss": 1 / (1 + step), "entropy": 0.5, "time/step": 3.0, "time/train": 2.0} if step else {}
            if step in (0, 10):
                metrics["eval/heldout/accuracy"] = (offset + step) / 25
            if step and offset:
                metrics |= {"reward/total/mean": 0.5, "reward/answer/mean": 0.5, "rollout/length_mean": 30.0}
                metrics |= {"mismatch/max": 1e-5 * (step - 1)}
            if step and experts:
                metrics |= {f"moe/load/{layer}/{expert}": 0.25 for layer in range(2) for expert in range(4)}
                metrics |= {f"moe/entropy/{layer}": 1.3 for layer in range(2)}
                metrics |= {"moe/aux_loss": 1.0 + 1 / step, "moe/z_loss": 4.0}
            append_jsonl(
                run_dir / "metrics.jsonl", {"stage": stage, "step": step, "global_step": offset + step, **metrics}
            )


def write_traces(run_dir: Path, completions: list[str], *, totals: list[float] | None = None) -> None:
    """One step of RL for each completion."""
    image = Image.fromarray(numpy.arange(600 * 500, dtype=numpy.uint8).reshape(500, 600))
    prompt = Prompt("p<1>", [{"role": "user", "content": "Is 1<2?"}], "", [image], {"answer": "<i>10</i>"})
    for step, text in enumerate(completions, start=1):
        total = totals[step - 1] if totals else 0.5
        sample = Rollout("p<1>", 0, [1], [0.0], text, "stop", step)
        TraceWriter(run_dir).write("rlvr", step, [prompt], [sample], Scores([total], {"answer": [math.nan]}), limit=1)


class Page(HTMLParser):
    """The elements of a page and its text, tags of either kind counted."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text_by_class: dict[str, list[str]] = {}
        self._open: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not [name for name in values if name.startswith("on")]
        if tag not in ("img", "meta"):
            self._open.append((tag, values.get("class") or ""))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for kind in {kind for _, kind in self._open if kind}:
            self.text_by_class.setdefault(kind, []).append(data)

    def text(self, kind: str) -> str:
        return "".join(self.text_by_class.get(kind, []))


# Series


def test_stages_cover_their_steps_in_order(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    run = RunCurves.read(tmp_path / "metrics.jsonl")
    assert run.stages == [StageSpan("longcot_sft", 0, 10), StageSpan("rlvr", 10, 20)]


def test_a_series_leaves_nulls_out_and_takes_the_last_of_two_values(tmp_path: Path) -> None:
    for step, loss in ((1, 5.0), (2, None), (1, 4.0), (3, 2.0)):
        append_jsonl(tmp_path / "metrics.jsonl", {"stage": "rlvr", "step": step, "global_step": step, "loss": loss})
    series = RunCurves.read(tmp_path / "metrics.jsonl").series("loss")
    assert series.steps.tolist() == [1, 3]
    assert series.values.tolist() == [4.0, 2.0]


def test_smoothing_does_not_mix_stages(tmp_path: Path) -> None:
    for step in range(1, 49):
        stage, value = ("longcot_sft", 2.0) if step <= 24 else ("rlvr", 0.0)
        append_jsonl(tmp_path / "metrics.jsonl", {"stage": stage, "step": step, "global_step": step, "loss": value})
    smooth = RunCurves.read(tmp_path / "metrics.jsonl").series("loss").smoothed()
    assert smooth.tolist() == [2.0] * 24 + [0.0] * 24


# Curves


def test_each_panel_with_data_is_a_picture_and_all_are_in_the_overview(tmp_path: Path) -> None:
    write_metrics(tmp_path, experts=True)
    paths = write_curves(tmp_path)
    curves = ["accuracy", "reward", "length", "entropy", "logprobs", "loss", "time"]
    assert list(paths) == ["overview", *curves, "experts", "expert_map", "balance", "router"]
    assert paths["overview"] == tmp_path / "curves.png"
    assert paths["loss"] == tmp_path / "curves" / "loss.png"
    pixels = {name: numpy.asarray(Image.open(path)) for name, path in paths.items()}
    assert pixels["overview"].shape[1] > 1500
    for name in paths.keys() - {"overview"}:
        assert min(pixels[name].shape[:2]) > 250
        for border in (pixels[name][0], pixels[name][-1], pixels[name][:, 0], pixels[name][:, -1]):
            assert (border == 255).all(), f"{name} is cut off"


def test_panels_without_data_are_not_drawn(tmp_path: Path) -> None:
    append_jsonl(
        tmp_path / "metrics.jsonl", {"stage": "sft", "step": 0, "global_step": 0, "eval/heldout/accuracy": 0.1}
    )
    assert list(write_curves(tmp_path)) == ["overview", "accuracy"]
    assert write_curves(tmp_path / "nothing") == {}


def test_every_panel_is_a_panel_of_the_schema() -> None:
    second_views = {"guards", "expert_map"}  # of "experts"
    assert {panel.name for panel in PANELS} - second_views <= {metric.panel for metric in METRICS}


def test_the_seconds_of_a_step_are_stacked_up_to_the_whole(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    axes = Figure().add_subplot()
    next(panel for panel in PANELS if panel.name == "time").draw(axes, RunCurves.read(tmp_path / "metrics.jsonl"))
    bars = {container.get_label(): [bar.get_height() for bar in container] for container in axes.containers}
    assert set(bars) == {"train", "other"}
    assert bars["train"] == pytest.approx([2.0] * 20)
    assert bars["other"] == pytest.approx([1.0] * 20)


def test_the_expert_map_has_a_row_a_layer_and_a_column_an_expert_and_shows_the_last_tenth(tmp_path: Path) -> None:
    for step in range(1, 21):
        loads = {f"moe/load/{layer}/{expert}": 0.25 for layer in range(3) for expert in range(4)}
        loads |= {"moe/load/2/3": 0.5 if step > 18 else 0.9, "moe/load/2/0": 0.0}
        append_jsonl(tmp_path / "metrics.jsonl", {"stage": "rlvr", "step": step, "global_step": step, **loads})
    axes = Figure().add_subplot()
    panel = next(panel for panel in PANELS if panel.name == "expert_map")
    panel.draw(axes, RunCurves.read(tmp_path / "metrics.jsonl"))
    heat = axes.collections[0].get_array()
    assert heat is not None
    numpy.testing.assert_allclose(heat, [[1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 2]])
    assert axes.get_xlabel() == "expert"


# The report


def test_the_report_is_one_file_that_needs_nothing_else(tmp_path: Path) -> None:
    write_metrics(tmp_path, experts=True)
    write_traces(tmp_path, ["<think>1+2=3</think>so \\boxed{3}"])
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    html = write_report(tmp_path).read_text()
    page = Page(html)
    assert len(page.sources) == 11 + 1, "a curve for each panel and the trace's image"
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert "http://" not in html
    assert "https://" not in html
    assert page.text("summary") == ("stageheld-out beforeheld-out afterminuteslongcot_sft0.0%84.4%2.0rlvr84.4%–3.0")


def test_nothing_a_model_or_a_user_writes_becomes_markup(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    write_traces(tmp_path, [HOSTILE, "<think>" + HOSTILE, "</div></article><script>alert(2)</script>"])
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    (tmp_path / "recipe.yaml").write_text("name: </pre><script>alert(3)</script>")
    html = write_report(tmp_path).read_text()
    page = Page(html)
    assert "<script" not in html
    assert "script" not in page.tags
    assert "i" not in page.tags
    assert "\"<script>alert(1)</script>' & so" in page.text("thought")
    assert "&amp; <img src=x onerror=alert(1)>\\boxed{<b>10</b>}" in page.text("answer")
    assert "Is 1<2?" in page.text("task")
    assert "<i>10</i>" in page.text("gold")


def test_an_unfinished_run_without_traces_has_a_report_too(tmp_path: Path) -> None:
    write_metrics(tmp_path)
    assert "it hasn't finished" in write_report(tmp_path).read_text()


def test_a_folder_without_metrics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"metrics\.jsonl is missing.*give the folder of a run"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<think>a</think>is \\boxed{1_{2}} c", ("<think>a</think>", "is \\boxed{1_{2}} c", "\\boxed{1_{2}}")),
        ("prefilled</think>\\boxed{1} \\boxed{2}", ("prefilled</think>", "\\boxed{1} \\boxed{2}", "\\boxed{2}")),
        ("<think>cut \\boxed{1}", ("<think>cut \\boxed{1}", "", "")),
        ("no thought \\boxed{1", ("", "no thought \\boxed{1", "")),
        ("", ("", "", "")),
    ],
)  # fmt: skip
def test_a_completion_is_split_into_thought_answer_and_boxed(text: str, parts: tuple[str, str, str]) -> None:
    assert split_completion(text) == parts


def test_shown_traces_are_early_and_late_right_and_wrong_and_capped() -> None:
    traces = [
        {"stage": "rlvr", "step": step, "prompt_id": f"p{step}", "total": float(step % 2)} for step in range(1, 201)
    ]
    chosen = choose_traces(traces, limit=40)
    assert list(chosen) == ["rlvr: first steps", "rlvr: last steps"]
    assert [len(shown) for shown in chosen.values()] == [20, 20]
    assert max(trace["step"] for trace in chosen["rlvr: first steps"]) <= 80
    assert min(trace["step"] for trace in chosen["rlvr: last steps"]) > 120
    for shown in chosen.values():
        assert sum(trace["total"] for trace in shown) == 10


def test_no_trace_is_shown_twice() -> None:
    traces = [{"stage": "rlvr", "step": step, "prompt_id": "p", "total": 1.0} for step in (1, 2, 3)]
    assert [trace["step"] for shown in choose_traces(traces, limit=40).values() for trace in shown] == [1, 2, 3]


def test_the_terminal_shows_a_line_for_each_stage() -> None:
    text = StringIO()
    Console(file=text, width=100).print(summary_table(SUMMARY))
    assert "longcot_sft │            0.0% │          84.4% │     2.0" in text.getvalue()
    assert summary_table({}).row_count == 0
