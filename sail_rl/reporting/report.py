"""report.html, one self-contained page with summary, curves and sample traces; and the summary for a terminal."""

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
"""A stage's shown traces are the extremes of this many times as many: early ones are mostly wrong, late ones right."""


def write_report(run_dir: Path) -> Path:
    """Draw the curves and write `run_dir`/report.html from what is there, of an unfinished run too; returns its path.

    Raises:
        ValueError: nothing was logged in `run_dir`.
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
    """The summary for a terminal: stage, held-out accuracy before and after, minutes."""
    table = Table(title=summary.get("name"))
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if number else "left")
    for stage in summary.get("stages", []):
        table.add_row(*summary_cells(stage))
    return table


HEADINGS = ("stage", "held-out before", "held-out after", "minutes")


def summary_cells(stage: dict[str, Any]) -> list[str]:
    """Cells under HEADINGS; a dash for what isn't there."""

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
        return "<section><h2>Stages</h2><p>The run has no summary.json: it hasn't finished.</p></section>"
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
    """At most `limit` traces under headings: of each stage, some of its first steps and some of its last.

    Half of them are among the best rewarded and half among the worst.
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
    """HTML sections of chosen traces, see `choose_traces`; `prefix` goes before their headings."""
    for heading, chosen in choose_traces(traces, limit=limit).items():
        cards = "".join(_trace_card(trace, run_dir) for trace in chosen)
        yield f'<section><h2>{escape(prefix + heading)}</h2><div class="cards">{cards}</div></section>'


def doctor_section(run: RunCurves, *, heading: str = "What looks wrong") -> str:
    """HTML section of the doctor's findings; says so if there are none."""
    findings = "".join(
        f"<li><b>{escape(finding.stage)}</b>: {escape(finding.what)}. <i>{escape(finding.remedy)}</i></li>"
        for finding in examine(run)
    )
    body = f'<ul class="doctor">{findings}</ul>' if findings else "<p>Nothing, by the doctor's rules.</p>"
    return f"<section><h2>{escape(heading)}</h2>{body}</section>"


def _trace_card(trace: Record, run_dir: Path) -> str:
    """Image and question on the left, thought and answer on the right, rewards below."""
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
    """Thought with its tags, the rest, and the last complete `\\boxed{…}` of the rest (empty where there is none).

    A thought needs no opening tag (templates may prefill it), and one that never closes is all there is.
    """
    thought, end, rest = text.partition(THINK_END)
    if not end and text.lstrip().startswith(THINK_START):
        return text, "", ""
    thought, rest = (thought + end, rest) if end else ("", text)
    spans = box_spans(rest)
    return thought, rest, rest[slice(*spans[-1][:2])] if spans else ""


def _file_sections(run_dir: Path) -> Iterator[str]:
    """Recipe and versions, folded."""
    for path in (RunDir(run_dir).recipe, RunDir(run_dir).versions):
        if path.exists():
            text = path.read_text(encoding="utf-8")
            yield f"<section><details><summary>{path.name}</summary><pre>{escape(text)}</pre></details></section>"
