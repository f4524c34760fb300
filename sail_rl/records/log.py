"""Logs a run's metrics to metrics.jsonl in its folder and to Weights & Biases."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from sail_rl.run_dir import RunDir

from .jsonl import Record, append_jsonl, keep_records
from .schema import is_known, nearest_known
from .traces import side_by_side
from .wandb_run import choose_wandb_mode, start_wandb

logger = logging.getLogger(__name__)
TABLE_ROWS = 16


def forget_stages(run_dir: Path, *, kept: Collection[str]) -> None:
    """Drop the records of all stages except the `kept` ones."""
    for path in _stepped_files(run_dir):
        keep_records(path, lambda record: record["stage"] in kept)


class RunLogger:
    """Logs one new or resumed run, from one process of the job only.

    Args:
        run_dir: the run's folder, which holds metrics.jsonl, wandb_run_id and wandb/.
        project: the W&B project.
        run_name: the run's name in W&B.
        config: the resolved recipe, which W&B shows.
    """

    def __init__(self, run_dir: Path, *, project: str, run_name: str, config: dict[str, Any]) -> None:
        self.run_dir = run_dir
        run_dir.mkdir(parents=True, exist_ok=True)
        mode = choose_wandb_mode()
        self.wandb_run = start_wandb(run_dir, mode, project=project, name=run_name, config=config)
        logger.info("W&B %s: project %s, run %s", mode, project, self.wandb_run.id)

    def log(self, metrics: Mapping[str, float], *, stage: str, step: int, global_step: int) -> None:
        """Write one step's metrics; the file contains them on return.

        Args:
            metrics: values by name; NaN and infinities become null in the file.
            stage: the name of the stage.
            step: the optimiser step within the stage; 0 is before the first.
            global_step: the optimiser step counted over all stages.

        Raises:
            ValueError: if a name isn't in the schema, before anything is written.
        """
        for name in metrics:
            if not is_known(name):
                raise ValueError(
                    f"unknown metric {name!r}; the nearest known one is {nearest_known(name)!r}. New metrics are added "
                    "to METRICS in sail_rl/records/schema.py"
                )
        position = {"stage": stage, "step": step, "global_step": global_step, "time": round(time.time(), 3)}
        append_jsonl(RunDir(self.run_dir).metrics, position | dict(metrics))
        self.wandb_run.log({"global_step": global_step, **metrics})

    def rollback(self, stage: str, step: int, *, stages: Sequence[str], finished: Collection[str] = ()) -> None:
        """Drop the records after `step` of `stage`, because these steps will run again; step -1 drops the stage.

        W&B keeps the points that it received, so that repeated steps appear there twice.

        Args:
            stage: the name of the stage that resumes.
            step: the step of its newest checkpoint.
            stages: all stages in order; records of later ones are dropped.
            finished: later stages whose records are kept, because they don't depend on `stage`.

        Raises:
            ValueError: if `stage`, or the stage of a record, isn't in `stages`.
        """
        limit = (_number(stage, stages, self.run_dir), step)
        for path in _stepped_files(self.run_dir):

            def happened(record: Record, path: Path = path) -> bool:
                number = _number(record["stage"], stages, path)
                return record["stage"] in finished or (number, record["step"]) <= limit

            if dropped := keep_records(path, happened):
                logger.info("%s: %d records after step %d of %s dropped", path.name, dropped, step, stage)

    def table(self, records: Iterable[Record], *, global_step: int) -> None:
        """Send up to TABLE_ROWS traces of `TraceWriter.write` to W&B as a table with images."""
        fields = ["question", "completion", "answer", "total", "tokens", "stop_reason"]
        table = wandb.Table(columns=["prompt", "images", *fields])
        for record in list(records)[:TABLE_ROWS]:
            picture = side_by_side([self.run_dir / image for image in record["images"]])
            prompt = f"{record['prompt_id']} #{record['sample']}"
            table.add_data(prompt, wandb.Image(picture) if picture else None, *(record[field] for field in fields))
        self.wandb_run.log({"global_step": global_step, "traces": table})

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set W&B's summary of the run."""
        self.wandb_run.summary.update(dict(values))

    def finish(self) -> None:
        """End the W&B run, after its uploads if it is online."""
        self.wandb_run.finish()


def _stepped_files(run_dir: Path) -> tuple[Path, ...]:
    """The files whose records have a `stage` and a `step`, which rollbacks use."""
    files = RunDir(run_dir)
    return files.metrics, files.traces, files.prompts_seen


def _number(stage: str, stages: Sequence[str], where: Path) -> int:
    """The position of `stage` in the order of stages."""
    if stage not in stages:
        raise ValueError(f"{where}: stage {stage!r} isn't one of {', '.join(stages)}; use another run folder")
    return stages.index(stage)
