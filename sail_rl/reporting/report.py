"""report.html: one self-contained page with the summary, the curves and sample traces with their images."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from rich.table import Table

from .curves import draw_curves
from .records import read_records

TRACES_SHOWN = 40
STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#0f172a;background:#f8fafc;margin:0 auto;max-width:1200px;padding:2rem}
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2rem 0 .5rem}
table{border-collapse:collapse;width:100%;background:#fff;box-shadow:0 1px 3px #0002}
th,td{padding:.5rem .75rem;text-align:left;vertical-align:top;border-bottom:1px solid #e2e8f0}
th{background:#f1f5f9;font-weight:600}td.number{text-align:right;font-variant-numeric:tabular-nums}
img.curves{width:100%;background:#fff;box-shadow:0 1px 3px #0002}
img.seen{width:112px;image-rendering:pixelated;border:1px solid #e2e8f0}
.thought{color:#64748b}.answer{color:#047857;font-weight:600}.wrong .answer{color:#b91c1c}
.completion{white-space:pre-wrap;word-break:break-word;font-family:ui-monospace,monospace;font-size:13px}
"""


def write_report(run_dir: Path) -> Path:
    """Draw the curves and write the page from what the run's folder holds; returns the page's path."""
    metrics = read_records(run_dir / "metrics.jsonl")
    if not metrics:
        raise ValueError(f"{run_dir} holds no metrics.jsonl with records: not a run's folder, or nothing logged yet")
    overview = draw_curves(metrics, run_dir)[0]
    summary_path = run_dir / "summary.json"
    summary = json.loads(summary_path.read_text()) if summary_path.exists() else {"stages": []}
    traces = _choose(read_records(run_dir / "traces.jsonl"))
    body = [
        f"<h1>{escape(run_dir.name)}</h1>",
        "<h2>Stages</h2>" + _summary_html(summary) if summary["stages"] else "<p>The run is not finished.</p>",
        f'<h2>Curves</h2><img class="curves" alt="curves" src="{_data_url(overview)}">',
        "<h2>Sample traces</h2>" + _traces_html(traces, run_dir) if traces else "",
    ]
    page = run_dir / "report.html"
    page.write_text(
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(run_dir.name)}</title>"
        f"<style>{STYLE}</style><body>{''.join(body)}</body></html>\n"
    )
    return page


def summary_table(summary: dict[str, Any]) -> Table:
    """The summary for a terminal: stage, held-out accuracy before and after, minutes."""
    table = Table(title=f"{summary['name']} (seed {summary['seed']})")
    table.add_column("stage")
    for column in ("held-out before", "held-out after", "minutes"):
        table.add_column(column, justify="right")
    for stage in summary["stages"]:
        table.add_row(*_summary_cells(stage))
    return table


def _summary_cells(stage: dict[str, Any]) -> list[str]:
    return [
        stage["name"],
        f"{stage['heldout_accuracy_before']:.1%}",
        f"{stage['heldout_accuracy_after']:.1%}",
        f"{stage['minutes']:.1f}",
    ]


def _summary_html(summary: dict[str, Any]) -> str:
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _summary_cells(stage)) + "</tr>"
        for stage in summary["stages"]
    )
    return f"<table><tr><th>stage<th>held-out before<th>held-out after<th>minutes</tr>{rows}</table>"


def _choose(traces: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first and the last traces of the run."""
    if len(traces) <= TRACES_SHOWN:
        return list(traces)
    return [*traces[: TRACES_SHOWN // 2], *traces[-TRACES_SHOWN // 2 :]]


def _traces_html(traces: Sequence[dict[str, Any]], run_dir: Path) -> str:
    head = "<tr><th>step<th>image<th>question<th>completion<th>gold<th>rewards</tr>"
    return f"<table>{head}{''.join(_trace_html(trace, run_dir) for trace in traces)}</table>"


def _trace_html(trace: dict[str, Any], run_dir: Path) -> str:
    images = "".join(f'<img class="seen" alt="" src="{_data_url(run_dir / name)}">' for name in trace["images"])
    rewards = "<br>".join(
        f"{escape(name)} {'none' if value is None else f'{value:g}'}" for name, value in trace["rewards"].items()
    )
    kind = "right" if trace["total"] > 0.5 else "wrong"
    return (
        f'<tr class="{kind}"><td>{escape(trace["stage"])} {trace["step"]}<td>{images}<td>{escape(trace["question"])}'
        f'<td class="completion">{_completion_html(trace["completion"])}<td>{escape(str(trace["answer"]))}<td>{rewards}</tr>'
    )


def _completion_html(completion: str) -> str:
    """Thought and answer in colours of their own; everything escaped."""
    thought, end, answer = completion.rpartition("</think>")
    return (
        f'<span class="thought">{escape(thought + end)}</span><span class="answer">{escape(answer)}</span>'
        if end
        else escape(completion)
    )


def _data_url(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
