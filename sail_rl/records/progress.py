"""Shows the progress of a stage: a bar with its rate on a terminal, else a line every few seconds."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

LINE_SECONDS = 10.0
SHOWN = {
    "loss": "loss",
    "reward/total/mean": "reward",
    "rollout/length_mean": "length",
    "mismatch/mean": "mismatch",
}
"""The metrics beside the bar, with their short names; held-out accuracies are shown, too."""


class StageDisplay:
    """Shows the steps of one stage; call `update` after each step and `close` at the end.

    Args:
        name: the name of the stage.
        total: the number of its optimiser steps.
        done: the number of steps before it was resumed.
    """

    def __init__(self, name: str, *, total: int, done: int = 0) -> None:
        self.name, self.total, self.done = name, total, done
        self._started, self._last_line = time.monotonic(), 0.0
        self._held_out = ""
        self._progress: Progress | None = None
        if sys.stderr.isatty():
            columns = [
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[metrics]}"),
            ]
            self._progress = Progress(*columns, console=Console(stderr=True))
            self._task = self._progress.add_task(name, total=total, completed=done, rate="", metrics="")
            self._progress.start()

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Show that `step` has finished."""
        rate = f"{(step - self.done) / max(time.monotonic() - self._started, 1e-9):.2f} steps/s"
        text = self._describe(metrics)
        if self._progress:
            self._progress.update(self._task, completed=step, rate=rate, metrics=text)
        elif time.monotonic() - self._last_line > LINE_SECONDS or step == self.total:
            self._last_line = time.monotonic()
            logger.info("%s %d/%d  %s  %s", self.name, step, self.total, rate, text)

    def close(self) -> None:
        """Stop updating the bar."""
        if self._progress:
            self._progress.stop()

    def _describe(self, metrics: Mapping[str, float]) -> str:
        held_out = [f"held-out {value:.1%}" for name, value in metrics.items() if name.endswith("/accuracy")]
        self._held_out = held_out[0] if held_out else self._held_out
        shown = [f"{short} {metrics[name]:.3g}" for name, short in SHOWN.items() if name in metrics]
        return "  ".join([*shown, self._held_out])
