"""Prints the results of a reward test."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from statistics import fmean, pstdev

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sail_rl.evaluation.reward_examples import RewardExamples
from sail_rl.evaluation.reward_trial import RewardTrial, agreement, call_statistics

BINS, WIDTH = 10, 40
PLAIN_WIDTH = 120  # characters of a line in a file
TAIL = 60  # characters of a completion that are shown
STATUS = {"timeout": "timed out", "error": "failed", "too_long": "too long", "none": "None", "skipped": "not needed"}


def print_test(trial: RewardTrial, examples: RewardExamples, *, show: int, console: Console | None = None) -> None:
    """Print samples, distribution, calls, agreement and warnings."""
    console = console or Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    if show:
        console.print(_samples(trial, examples, _interesting(trial, examples, show)))
    known = [score for score in trial.scores if score is not None]
    speed = f"{len(examples) / max(trial.seconds, 1e-9):,.0f} a second"
    console.print(f"\n[bold]{len(examples)} completions in {trial.seconds:.2f} s, {speed}[/bold]")
    if known:
        console.print(f"score: mean {fmean(known):.4g}, deviation {pstdev(known):.4g}, {len(known)} of {len(examples)}")
        for line in histogram(known):
            console.print(line, highlight=False)
    console.print(_calls(trial))
    _print_agreement(console, trial, examples)
    for warning in trial.warnings:
        console.print(f"[yellow]warning:[/yellow] {escape(warning)}", highlight=False)


def histogram(values: Sequence[float]) -> list[str]:
    """Bars of text: one for each value if there are few, else of BINS equal stretches."""
    if len(set(values)) <= BINS:
        counts = {f"{value:g}": values.count(value) for value in sorted(set(values))}
    else:
        low, width = min(values), (max(values) - min(values)) / BINS
        counts = {f"{low + n * width:.3g} to {low + (n + 1) * width:.3g}": 0 for n in range(BINS)}
        labels = list(counts)
        for value in values:
            counts[labels[min(BINS - 1, int((value - low) / width))]] += 1
    most, margin = max(counts.values()), max(map(len, counts))
    return [f"  {label:>{margin}} {'█' * math.ceil(WIDTH * n / most)} {n}" for label, n in counts.items()]


def _interesting(trial: RewardTrial, examples: RewardExamples, show: int) -> list[int]:
    """Rows that differ from what was expected or have no score first, then the lowest and highest scores in turn."""
    found = agreement(trial.scores, examples.expected)
    first = [*(found["differing"] if found else []), *(n for n, s in enumerate(trial.scores) if s is None)]
    rest = sorted(set(range(len(examples))) - set(first), key=lambda n: (trial.scores[n] or 0.0, n))
    ends = [rest[n // 2] if n % 2 == 0 else rest[-(n // 2) - 1] for n in range(len(rest))]
    return sorted((first + ends)[:show])


def _samples(trial: RewardTrial, examples: RewardExamples, rows: Sequence[int]) -> Table:
    table = Table("where", "score", *trial.parts, title=f"{len(rows)} of {len(examples)} samples", title_justify="left")
    if any(label is not None for label in examples.expected):
        table.add_column("expected")
    table.add_column("completion ends in", overflow="fold")
    for row in rows:
        cells = [escape(examples.locations[row].partition(", ")[2]), _number(trial.scores[row])]
        for name, values in trial.parts.items():
            call = trial.calls[name][row] if name in trial.calls else None
            status = STATUS.get(call.status) if call else None
            cells.append(_number(values[row]) if status is None or values[row] is not None else f"[red]{status}[/red]")
        if any(label is not None for label in examples.expected):
            cells.append(_number(examples.expected[row]))
        table.add_row(*cells, escape(examples.rollouts[row].text[-TAIL:].replace("\n", "↵")))
    return table


def _calls(trial: RewardTrial) -> Table:
    table = Table(
        "reward", "None", "timed out", "failed", "too long", "not needed", "cached", "ms p50", "p90", "p99", "max"
    )
    for name, calls in trial.calls.items():
        found = call_statistics(calls)
        shares = [f"{found[key]:.1%}" for key in ("none", "timeout", "error", "too_long", "skipped", "cached")]
        table.add_row(name, *shares, *(_number(found[key]) for key in ("ms_p50", "ms_p90", "ms_p99", "ms_max")))
    return table


def _print_agreement(console: Console, trial: RewardTrial, examples: RewardExamples) -> None:
    if (found := agreement(trial.scores, examples.expected)) is None:
        return
    related = "" if found["correlation"] is None else f", correlation {found['correlation']:.3f}"
    console.print(f"against the expected scores: {found['agree']:.1%} of {found['compared']} agree{related}")
    counts = found["confusion"]
    console.print(
        f"  of those expected right (above 0.5): {counts['right_as_right']} right, {counts['right_as_wrong']} wrong; "
        f"of those expected wrong: {counts['wrong_as_wrong']} wrong, {counts['wrong_as_right']} right"
    )


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.4g}"
