"""Compares runs on one page: results, differing settings, overlaid curves, and traces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import yaml

from sail_rl.files import atomic_write
from sail_rl.records.jsonl import read_json, read_jsonl
from sail_rl.run_dir import RunDir

from .curves import save_panel
from .page import embedded, page
from .panels import FAINT, GRID, PALETTE, PARTS_OF_A_STEP, dress
from .report import doctor_section, summary_cells, trace_sections
from .series import RunCurves, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRACES_OF_A_RUN = 8
FEW = 25
"""Number of values below which each is drawn as a point."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One plot of all runs; if `metrics` matches several metrics, LINES gives their line styles."""

    name: str
    title: str
    unit: str
    metrics: tuple[str, ...]
    share: bool = False


LINES = ("-", (0, (4, 2)), (0, (1, 1.5)))
COMPARISONS = (
    Comparison("accuracy", "Held-out accuracy", "right answers", (r"eval/[^/]+/accuracy",), share=True),
    Comparison("reward", "Total reward", "reward", ("reward/total/mean",)),
    Comparison("parts", "Rewards by part", "reward", (r"reward/(?!total|guard_)[^/]+/mean",)),
    Comparison("length", "Length: right (full), wrong (dashed)", "tokens", (r"rollout/length_(correct|wrong)",)),
    Comparison("thinking", "Completions with a thought", "share", ("rollout/thinking",), share=True),
    Comparison("entropy", "Token entropy", "nats", ("entropy",)),
    Comparison("truncation", "Completions cut at the limit", "share", ("rollout/truncated",), share=True),
    Comparison("signal", "Groups without a signal", "share", ("groups/zero_variance",), share=True),
    Comparison("mismatch", "Training–inference mismatch", "nats", ("mismatch/mean",)),
    Comparison("experts", "Busiest expert over its share, minus 1", "", ("moe/load_max_violation",)),
)


def write_comparison(run_dirs: Sequence[Path], out: Path) -> Path:
    """Write `out`/report.html and its PNGs for these runs; returns the page's path.

    Raises:
        ValueError: if a run has no metrics.
    """
    runs = {name: RunCurves.read(RunDir(path).metrics) for name, path in named(run_dirs).items()}
    for path, run in zip(run_dirs, runs.values(), strict=True):
        if not run.records:
            raise ValueError(
                f"{path}: metrics.jsonl is missing or has no metrics; give the folder of a run (output_dir)"
            )
    out.mkdir(parents=True, exist_ok=True)
    folders = named(run_dirs)
    pictures = {}
    for comparison in COMPARISONS:
        if data := _data(comparison, runs):
            pictures[comparison.name] = save_panel(out / f"{comparison.name}.png", _drawing(comparison, data))
    pictures["time"] = save_panel(out / "time.png", lambda axes: _seconds(axes, runs))
    figures = "".join(f'<img class="curve" alt="{name}" src="{embedded(path)}">' for name, path in pictures.items())
    sections = [
        _results(folders),
        _settings(folders),
        f'<section><h2>Curves</h2><div class="curves">{figures}</div></section>',
        *(doctor_section(run, heading=f"{name}: probable problems") for name, run in runs.items()),
        *(section for name, path in folders.items() for section in _traces(name, path)),
    ]
    path = RunDir(out).report
    atomic_write(path, page("Comparison", " · ".join(folders), sections))
    return path


def named(run_dirs: Sequence[Path]) -> dict[str, Path]:
    """The folders by the shortest path suffixes that distinguish them; raises ValueError for a repeated folder."""
    resolved = [path.resolve() for path in run_dirs]
    if len(set(resolved)) < len(resolved):
        raise ValueError("a run is given twice; give each run once")
    parts = 1
    while len({path.parts[-parts:] for path in resolved}) < len(set(resolved)):
        parts += 1
    return {"/".join(path.parts[-parts:]): path for path in resolved}


def differing(trees: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The settings (dotted keys) in which the recipes differ, with each run's value, but without names and folders.

    Only settings that all recipes have are compared, and the kinds of all stages.
    """
    stages = {name: {stage["name"]: stage["kind"] for stage in tree.get("stages", [])} for name, tree in trees.items()}
    every = dict.fromkeys(stage for own in stages.values() for stage in own)
    table: dict[str, dict[str, Any]] = {
        f"stages.{stage}": {name: own.get(stage, "–") for name, own in stages.items()} for stage in every
    }
    flat = {name: _flat(tree) for name, tree in trees.items()}
    for key in dict.fromkeys(key for settings in flat.values() for key in settings):
        if all(key in settings for settings in flat.values()):
            table[key] = {name: settings[key] for name, settings in flat.items()}
    differ = {key: values for key, values in table.items() if len({repr(value) for value in values.values()}) > 1}
    return {key: values for key, values in differ.items() if key not in ("name", "output_dir")}


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(tree, list) and tree and all(isinstance(item, Mapping) and "name" in item for item in tree):
        tree = {item["name"]: item for item in tree}
    if not isinstance(tree, Mapping) or not tree:
        return {prefix: tree}
    return {key: value for name, inner in tree.items()
            for key, value in _flat(inner, f"{prefix}.{name}" if prefix else str(name)).items()}  # fmt: skip


def _data(comparison: Comparison, runs: Mapping[str, RunCurves]) -> dict[str, list[Series]]:
    """The comparison's series by run, at most one for each line style."""
    found = {}
    for name, run in runs.items():
        metrics = [metric for pattern in comparison.metrics for metric in run.names(pattern)][: len(LINES)]
        if series := list(run.present(metrics).values()):
            found[name] = series
    return found


def _drawing(comparison: Comparison, data: Mapping[str, Sequence[Series]]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        dress(axes, comparison.title, comparison.unit)
        axes.set_xlabel("global step", fontsize=9, color=FAINT)
        for (name, several), colour in zip(data.items(), PALETTE * 9, strict=False):
            for number, (series, line) in enumerate(zip(several, LINES, strict=False)):
                style: dict[str, Any] = {"color": colour, "linewidth": 1.9, "linestyle": line}
                label = None if number else name
                if len(series) < FEW:
                    axes.plot(series.steps, series.values, marker="o", markersize=3.5, label=label, **style)
                    continue
                smooth = series.smoothed()
                for stage in numpy.unique(series.stages):  # the line is interrupted between stages
                    own = series.stages == stage
                    first = stage == series.stages[0]
                    axes.plot(series.steps[own], smooth[own], label=label if first else None, **style)
        if comparison.share:
            axes.set_ylim(-0.03, 1.05)
        axes.legend(fontsize=8, frameon=False)

    return draw


def _seconds(axes: Axes, runs: Mapping[str, RunCurves]) -> None:
    """Draw the mean seconds of each part of a step, with one bar per run."""
    dress(axes, "Seconds of a step", "s")
    bottom = numpy.zeros(len(runs))
    for part, colour in zip((*PARTS_OF_A_STEP, "other"), (*PALETTE[: len(PARTS_OF_A_STEP)], GRID), strict=True):
        heights = numpy.array([_mean_seconds(run).get(part, 0.0) for run in runs.values()])
        axes.bar(list(runs), heights, bottom=bottom, color=colour, label=part, width=0.6)
        bottom += heights
    axes.legend(fontsize=8, frameon=False)


def _mean_seconds(run: RunCurves) -> dict[str, float]:
    series = run.present([f"time/{part}" for part in ("step", *PARTS_OF_A_STEP)])
    steps = len(series["time/step"]) if "time/step" in series else 1
    means = {name.removeprefix("time/"): found.values.sum() / steps for name, found in series.items()}
    total = means.pop("step", 0.0)
    return means | {"other": max(0.0, total - sum(means.values()))}


def _results(folders: Mapping[str, Path]) -> str:
    """HTML table of all stages of all runs: accuracy before and after, minutes."""
    rows = []
    for name, path in folders.items():
        for stage in read_json(RunDir(path).summary).get("stages", []):
            cells = "".join(f"<td>{escape(cell)}</td>" for cell in summary_cells(stage))
            rows.append(f"<tr><td>{escape(name)}</td>{cells}</tr>")
    head = "".join(f"<th>{heading}</th>" for heading in ("run", "stage", "before", "after", "minutes"))
    return f'<section><h2>Results</h2><table class="summary runs"><tr>{head}</tr>{"".join(rows)}</table></section>'


def _settings(folders: Mapping[str, Path]) -> str:
    trees = {}
    for name, path in folders.items():
        file = RunDir(path).recipe
        trees[name] = yaml.safe_load(file.read_text()) if file.is_file() else {}
    head = "".join(f"<th>{escape(name)}</th>" for name in ("setting", *trees))
    rows = [
        f"<tr><td>{escape(key)}</td>" + "".join(f"<td>{escape(str(values[name]))}</td>" for name in trees) + "</tr>"
        for key, values in differing(trees).items()
    ]
    return (
        f'<section><h2>Settings that differ</h2><table class="summary runs"><tr>{head}</tr>{"".join(rows)}</table>'
        "</section>"
    )


def _traces(name: str, path: Path) -> Iterator[str]:
    traces = read_jsonl(RunDir(path).traces)
    for section in trace_sections(traces, path, limit=TRACES_OF_A_RUN, prefix=f"{name} · "):
        yield f"<details><summary>{escape(name)}: traces</summary>{section}</details>"
