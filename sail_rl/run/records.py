"""The records that rank 0 writes during a run: metrics, prompts seen, traces."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from sail_rl.contracts import Prompt, Rollout, Scores
from sail_rl.plan.plan import Plan
from sail_rl.records.jsonl import append_jsonl
from sail_rl.records.log import RunLogger
from sail_rl.records.progress import StageDisplay
from sail_rl.records.traces import TraceWriter
from sail_rl.trainer import checkpoints

logger = logging.getLogger(__name__)


class Records:
    """The run's log files, its W&B run, and the progress display of the current stage."""

    def __init__(self, plan: Plan) -> None:
        recipe = plan.recipe
        self.recipe = recipe
        self.names = [stage.name for stage in recipe.stages]
        self.offsets = [
            sum(getattr(stage, "steps", 0) for stage in recipe.stages[:n]) for n in range(len(recipe.stages))
        ]
        self.logger = RunLogger(
            recipe.output_dir,
            project=recipe.logging.wandb_project,
            run_name=recipe.name,
            config=recipe.model_dump(mode="json"),
        )
        self.traces = TraceWriter(recipe.output_dir)
        self.display: StageDisplay | None = None

    def begin(self, number: int, folder: Path) -> None:
        """Drop the records that a killed run wrote after its newest checkpoint, because those steps will run again."""
        checkpoints.remove_unusable(folder)
        checkpoint = checkpoints.newest_checkpoint(folder)
        stage = self.recipe.stages[number]
        done = checkpoint[1] if checkpoint else 0
        # Step 0 is the evaluation before training. A stage without a checkpoint repeats it.
        finished = {name for name in self.names if self.recipe.run_dir.stage(name).result.is_file()}
        self.logger.rollback(stage.name, done or -1, stages=self.names, finished=finished)
        for unfinished in ("adapter.partial", "adapter", "model.partial", "model"):  # the stage has no result yet
            shutil.rmtree(folder / unfinished, ignore_errors=True)
        if checkpoint:
            logger.info("stage %s: resuming after step %d", stage.name, done)
        if stage.trains:
            self.display = StageDisplay(stage.name, total=stage.steps, done=done)

    def end(self) -> None:
        """Close the stage's display."""
        if self.display:
            self.display.close()
        self.display = None

    def log(self, metrics: dict[str, float], number: int, step: int) -> None:
        """Write one step's metrics."""
        self.logger.log(metrics, stage=self.names[number], step=step, global_step=self.offsets[number] + step)
        if self.display:
            self.display.update(step, metrics)

    def rollouts(
        self, stage: str, step: int, seen: list[str], prompts: list[Prompt], rollouts: list[Rollout], scores: Scores
    ) -> None:
        """Write the prompts of all ranks and a few of this rank's rollouts. On evaluation steps W&B shows them too."""
        number = self.names.index(stage)
        append_jsonl(self.recipe.run_dir.prompts_seen, {"stage": stage, "step": step, "prompt_ids": seen})
        limit = self.recipe.logging.traces_per_step
        traces = self.traces.write(stage, step, prompts, rollouts, scores, limit)
        if traces and step % self.recipe.evaluation.every == 0:
            self.logger.table(traces, global_step=self.offsets[number] + step)
