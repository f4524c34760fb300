"""RunLogger: every metric to `metrics.jsonl` and to Weights & Biases, offline unless the user has asked otherwise."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from .records import append_record, keep_records
from .schema import check_names

STEP_FILES = ("metrics.jsonl", "traces.jsonl", "prompts_seen.jsonl")
"""Files whose records carry `stage` and `step`."""


class RunLogger:
    """Writes a run's metrics; only one process of a job may have one.

    W&B's mode is WANDB_MODE if that is set, "online" if there is a key in WANDB_API_KEY, and otherwise "offline": then
    nothing leaves the machine and `wandb sync` can send it later. A resumed run goes on as the same W&B run.

    Args:
        run_dir: the run's folder.
        project, run_name: W&B's names.
        config: shown as the W&B run's configuration.
    """

    def __init__(self, run_dir: Path, *, project: str, run_name: str, config: dict[str, Any]) -> None:
        self.run_dir = run_dir
        self._wandb = wandb.init(
            project=project,
            name=run_name,
            id=_run_id(run_dir),
            resume="allow",
            dir=run_dir,
            config=config,
            mode=wandb_mode(),
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._wandb.define_metric("*", step_metric="global_step")

    def log(self, metrics: Mapping[str, float], *, stage: str, step: int, global_step: int) -> None:
        """Write one step: `step` counts within the stage, `global_step` over all stages.

        Raises:
            ValueError: for a metric that the schema doesn't have.
        """
        check_names(list(metrics))
        place = {"stage": stage, "step": step, "global_step": global_step, "time": round(time.time(), 3)}
        append_record(self.run_dir / "metrics.jsonl", place | dict(metrics))
        self._wandb.log({**metrics, "global_step": global_step})

    def rollback(self, stage: str, step: int, *, stages: Sequence[str]) -> None:
        """Forget `stage`'s records after `step`, and those of the stages after it: they will happen again."""
        later = set(stages[list(stages).index(stage) + 1 :])

        def wanted(record: dict[str, Any]) -> bool:
            return record["stage"] not in later and (record["stage"] != stage or record["step"] <= step)

        for name in STEP_FILES:
            keep_records(self.run_dir / name, wanted)

    def traces(self, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Show rows in W&B's table of completions; PIL images become pictures."""
        import PIL.Image

        table = wandb.Table(columns=list(columns))
        for row in rows:
            table.add_data(*[wandb.Image(cell) if isinstance(cell, PIL.Image.Image) else cell for cell in row])
        self._wandb.log({"completions": table})

    def summary(self, values: Mapping[str, float]) -> None:
        """Set the run's final values."""
        self._wandb.summary.update(dict(values))

    def finish(self) -> None:
        """Close the W&B run."""
        self._wandb.finish()


def wandb_mode() -> str:
    """WANDB_MODE, or "online" with a key, or "offline"."""
    return os.environ.get("WANDB_MODE") or ("online" if os.environ.get("WANDB_API_KEY") else "offline")


def _run_id(run_dir: Path) -> str:
    """The W&B run's id, made once for each folder."""
    path = run_dir / "wandb_run_id"
    if not path.exists():
        path.write_text(uuid.uuid4().hex[:8])
    return path.read_text()
