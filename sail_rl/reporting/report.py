"""Writes report.html, a self-contained page with summary, curves and sample traces; prints the summary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rich.table import Table

from sail_rl.completion import THINK_END, THINK_START, box_spans
from sail_rl.files import atomic_write
from sail_rl.records.jsonl import Record, read_json, read_jsonl
from sail_rl.records.traces import extremes
from sail_rl.run_dir import RunDir

from .curves import write_curves
from .doctor import examine
from .page import chip, embedded, page
from .series import RunCurves

TRACES_SHOWN = 40
SEARCHED = 4
"""The traces shown are the best and worst of this many times as many candidates."""


def write_report(run_dir: Path) -> Path:
    """Draw the curves of a finished or unfinished run and write its report.html, whose path is returned.

    Raises:
        ValueError: if `run_dir` has no metrics.
    """
    pictures = write_curves(run_dir)
    if not pictures:
        raise ValueError(
            f"{run_dir}: metrics.jsonl is missing or has no metrics; give the folder of a run (output_dir)"
        )
    files = RunDir(run_dir)
    summary = read_json(files.summary)
    title = str(summary.get("name") or run_dir.resolve().name)
    sections = [
        _summary_section(summary),
        _curves_section(pictures),
        doctor_section(RunCurves.read(files.metrics)),
        *trace_sections(read_jsonl(files.traces), run_dir, limit=TRACES_SHOWN),
        *_file_sections(run_dir),
    ]
    atomic_write(files.report, page(title, f"seed {summary['seed']}" if "seed" in summary else "", sections))
    return files.report


def summary_table(summary: dict[str, Any]) -> Table:
    """The summary as a terminal table: stage, held-out accuracy before and after, minutes."""
    table = Table(title=summary.get("name"))
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if number else "left")
    for stage in summary.get("stages", []):
        table.add_row(*summary_cells(stage))
    return table


HEADINGS = ("stage", "held-out before", "held-out after", "minutes")


def summary_cells(stage: dict[str, Any]) -> list[str]:
    """The cells under HEADINGS, with a dash for missing values."""

    def show(key: str, form: str) -> str:
        return "–" if stage.get(key) is None else format(stage[key], form)

    return [
        str(stage["name"]),
        show("heldout_accuracy_before", ".1%"),
        show("heldout_accuracy_after", ".1%"),
        show("minutes", ".1f"),
    ]


def _summary_section(summary: dict[str, Any]) -> str:
    stages = summary.get("stages")
    if not stages:
        return "<section><h2>Stages</h2><p>The run has no summary.json, because it hasn't finished.</p></section>"
    head = "".join(f"<th>{heading}</th>" for heading in HEADINGS)
    rows = ["".join(f"<td>{escape(cell)}</td>" for cell in summary_cells(stage)) for stage in stages]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<section><h2>Stages</h2><table class="summary"><tr>{head}</tr>{body}</table></section>'


def _curves_section(pictures: dict[str, Path]) -> str:
    figures = [
        f'<img class="curve {escape(name)}" alt="{escape(name)}" src="{embedded(path)}">'
        for name, path in pictures.items()
        if name != "overview"
    ]
    return f'<section><h2>Curves</h2><div class="curves">{"".join(figures)}</div></section>'


def choose_traces(traces: Sequence[Record], *, limit: int) -> dict[str, list[Record]]:
    """At most `limit` traces by heading, from the first and the last steps of each stage.

    Half of them have high rewards, and half have low ones.
    """
    stages: dict[str, list[Record]] = {}
    for trace in traces:
        stages.setdefault(trace["stage"], []).append(trace)
    chosen: dict[str, list[Record]] = {}
    for stage, own in stages.items():
        own = sorted(own, key=lambda trace: trace["step"])
        share = max(1, limit // (2 * len(stages)))
        early = own[: min(SEARCHED * share, -(-len(own) // 2))]
        late = own[len(early) :][-SEARCHED * share :]
        for heading, window in ((f"{stage}: first steps", early), (f"{stage}: last steps", late)):
            totals = [trace["total"] for trace in window]
            picked = extremes(totals, share, groups=[trace["prompt_id"] for trace in window])
            if picked:
                chosen[heading] = [window[index] for index in sorted(picked)]
    return chosen


def trace_sections(traces: Sequence[Record], run_dir: Path, *, limit: int, prefix: str = "") -> Iterator[str]:
    """HTML sections of traces that `choose_traces` selects; `prefix` starts their headings."""
    for heading, chosen in choose_traces(traces, limit=limit).items():
        cards = "".join(_trace_card(trace, run_dir) for trace in chosen)
        yield f'<section><h2>{escape(prefix + heading)}</h2><div class="cards">{cards}</div></section>'


def doctor_section(run: RunCurves, *, heading: str = "Probable problems") -> str:
    """HTML section of the doctor's findings."""
    findings = "".join(
        f"<li><b>{escape(finding.stage)}</b>: {escape(finding.problem)}. <i>{escape(finding.remedy)}</i></li>"
        for finding in examine(run)
    )
    body = f'<ul class="doctor">{findings}</ul>' if findings else "<p>The doctor found no problems.</p>"
    return f"<section><h2>{escape(heading)}</h2>{body}</section>"


def _trace_card(trace: Record, run_dir: Path) -> str:
    """An HTML card: image and question on the left, thought and answer on the right, rewards below."""
    images = "".join(
        f'<img class="seen" alt="" src="{embedded(run_dir / name, pixels=320)}">' for name in trace["images"]
    )
    gold = (
        f'<p class="gold">gold answer: <b>{escape(str(trace["answer"]))}</b></p>' if trace["answer"] is not None else ""
    )
    thought, rest, boxed = split_completion(trace["completion"])
    before, _, after = rest.rpartition(boxed) if boxed else (rest, "", "")
    text = f'<div class="thought">{escape(thought)}</div>' if thought else ""
    text += f'<div class="answer">{escape(before)}<mark>{escape(boxed)}</mark>{escape(after)}</div>' if rest else ""
    chips = [chip("reward", trace["total"], scale=True)]
    chips += [chip(name, value) for name, value in trace["rewards"].items()]
    chips += [chip("tokens", trace["tokens"]), chip("stopped by", trace["stop_reason"])]
    chips.append(chip("weights", trace["weights_version"]))
    return (
        f"<article><header>step {trace['step']} · {escape(str(trace['prompt_id']))} #{trace['sample']}</header>"
        f'<div class="task">{images}<p>{escape(trace["question"])}</p>{gold}</div>'
        f'<div class="completion">{text}</div><footer>{"".join(chips)}</footer></article>'
    )


def split_completion(text: str) -> tuple[str, str, str]:
    """The thought with its tags, the rest, and the last complete `\\boxed{…}` of the rest; empty if missing.

    The opening tag is optional, because a template may prefill it. An unclosed thought extends to the end.
    """
    thought, end, rest = text.partition(THINK_END)
    if not end and text.lstrip().startswith(THINK_START):
        return text, "", ""
    thought, rest = (thought + end, rest) if end else ("", text)
    spans = box_spans(rest)
    return thought, rest, rest[slice(*spans[-1][:2])] if spans else ""


def _file_sections(run_dir: Path) -> Iterator[str]:
    """Collapsed HTML sections of the recipe and the versions."""
    for path in (RunDir(run_dir).recipe, RunDir(run_dir).versions):
        if path.exists():
            text = path.read_text(encoding="utf-8")
            yield f"<section><details><summary>{path.name}</summary><pre>{escape(text)}</pre></details></section>"
