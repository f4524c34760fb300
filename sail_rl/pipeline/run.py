"""A whole run: check, build data and base model, run the stages, report. Killed and started again, it goes on."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from torch import distributed
from transformers import AutoProcessor

from sail_rl.config import HarvestStage, Recipe, RLStage, SFTStage
from sail_rl.contracts import Prompt, Rollout, Scores
from sail_rl.data.encoding import Encoder
from sail_rl.files import write_whole
from sail_rl.imports import resolve
from sail_rl.recipe import dump_recipe, essence
from sail_rl.reporting.jsonl import append_jsonl
from sail_rl.reporting.log import RunLogger
from sail_rl.reporting.progress import StageDisplay
from sail_rl.reporting.report import write_report
from sail_rl.reporting.store import RolloutStore
from sail_rl.reporting.traces import TraceWriter
from sail_rl.trainer import checkpoints
from sail_rl.trainer.distributed import gather_objects, join_process_group, rank, world_size

from .evaluate import Evaluator
from .harvest import harvest
from .prepare import Plan, build_base, check_code, engine_options, fit_to_context, make_plan
from .scoring import evaluation_scorer
from .stage import Stage, StageResult
from .threads import describe_threads

logger = logging.getLogger(__name__)
PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "deepspeed",
    "accelerate",
    "peft",
    "datasets",
    "math-verify",
    "sympy",
    "wandb",
)


class RunError(RuntimeError):
    """A run that had begun and broke: unlike a mistake in a recipe, shown with its traceback."""


def run(recipe: Recipe, *, fresh: bool = False) -> dict[str, Any]:
    """Run or resume `recipe` in its output folder; returns the summary that is also in `summary.json`.

    Args:
        recipe: the resolved recipe.
        fresh: delete what is in the output folder and start over.

    Raises:
        ValueError: for whatever is wrong with recipe, code or data, before any model loads; or when the output folder
            holds another recipe's run.
        RunError: for what only shows while the run goes on, such as an image that doesn't decode.
    """
    if rank() == 0:
        check_code(recipe, world_size=world_size())  # before a folder is touched
        _claim_folder(recipe, fresh=fresh)
        make_plan(recipe, world_size=world_size())  # fails here, in one process, before anything starts
    join_process_group(timeout_minutes=recipe.deepspeed.timeout_minutes)
    distributed.barrier()
    plan = make_plan(recipe, world_size=world_size())
    for name, algebra in plan.algebra.items():
        logger.info("stage %s: %s", name, algebra)
    describe_threads(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), recipe.engine.kwargs)
    summary_path = recipe.output_dir / "summary.json"
    if summary_path.exists():
        summary = json.loads(summary_path.read_text())
    else:
        # The engine's end takes the process group with it: no rank waits for another from here on.
        try:
            results = _run_stages(plan)
        except ValueError as error:
            raise RunError(str(error)) from error
        summary = {"name": recipe.name, "seed": recipe.seed, "stages": [asdict(result) for result in results]}
    if rank() == 0:
        write_whole(summary_path, json.dumps(summary, indent=2) + "\n")
        write_report(recipe.output_dir)
    return summary


def _run_stages(plan: Plan) -> list[StageResult]:
    """Run every stage that has no result yet, each from the model of the one before it."""
    recipe = plan.recipe
    if rank() == 0:
        build_base(recipe, plan.datasets)
    distributed.barrier()
    parent = build_base(recipe, plan.datasets)
    if recipe.model.path is None:  # otherwise make_plan has done it
        plan = fit_to_context(plan, parent)
    engine = resolve(recipe.engine.path)(parent, **engine_options(recipe))
    evaluator = _evaluator(plan, engine, parent)
    records = _Records(plan) if rank() == 0 else None
    limit = recipe.logging.rollouts_gib
    store = RolloutStore(recipe.output_dir, rank=rank(), max_gib=limit) if limit else None
    results = []
    try:
        for number, config in enumerate(recipe.stages):
            folder = recipe.output_dir / "stages" / config.name
            if (folder / "result.json").exists():
                results.append(StageResult(**json.loads((folder / "result.json").read_text())))
            elif isinstance(config, HarvestStage):
                if rank() == 0:
                    harvest(plan, config)
                distributed.barrier()
                results.append(StageResult(**json.loads((folder / "result.json").read_text())))
            else:
                if records:
                    records.begin(number, folder)
                distributed.barrier()
                if store:
                    found = checkpoints.newest_checkpoint(folder)
                    store.rollback(config.name, found[1] if found else -1)
                stage = Stage(plan, config, parent, engine, evaluator, *_sinks(records, store, config, number))
                results.append(stage.run())
                if records:
                    records.end()
            if not isinstance(config, HarvestStage):
                parent = folder / "model"
        if records:
            trained = [result for result in results if result.heldout_accuracy_after is not None]
            records.logger.summary({f"{r.name}/heldout_accuracy": r.heldout_accuracy_after for r in trained})
    finally:
        evaluator.scorer.close()
        engine.close()
        if records:
            records.logger.finish()
    return results


def _sinks(
    records: _Records | None, store: RolloutStore | None, config: SFTStage | RLStage, number: int
) -> tuple[Callable, Callable]:
    """Where a stage's metrics and rollouts go; every rank takes part in gathering the prompts."""

    def log(metrics: dict[str, float], step: int) -> None:
        if records:
            records.log(metrics, number, step)

    def observe(step: int, prompts: list[Prompt], rollouts: list[Rollout], scores: Scores) -> None:
        if store:
            store.write(config.name, step, prompts, rollouts, scores)
        seen = gather_objects(list(dict.fromkeys(prompt.id for prompt in prompts)))
        if records:
            records.rollouts(config.name, step, seen, prompts, rollouts, scores)

    return log, observe


class _Records:
    """What rank 0 writes while the run goes on: metrics, prompts seen, traces."""

    def __init__(self, plan: Plan) -> None:
        recipe = plan.recipe
        self.recipe = recipe
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

    def begin(self, number: int, folder: Path) -> None:
        """Forget what a killed run wrote after its newest checkpoint: those steps happen again."""
        checkpoints.remove_unusable(folder)
        checkpoint = checkpoints.newest_checkpoint(folder)
        stage = self.recipe.stages[number]
        assert not isinstance(stage, HarvestStage)
        done = checkpoint[1] if checkpoint else 0
        # Step 0 is the evaluation before training: a stage without a checkpoint does it again.
        self.logger.rollback(stage.name, done or -1, stages=[stage.name for stage in self.recipe.stages])
        for unfinished in ("adapter.partial", "adapter", "model.partial", "model"):  # there is no result beside them
            shutil.rmtree(folder / unfinished, ignore_errors=True)
        if checkpoint:
            logger.info("stage %s: going on after step %d", stage.name, done)
        self.display = StageDisplay(stage.name, total=stage.steps, done=done)

    def end(self) -> None:
        """Close the stage's display."""
        self.display.close()

    def log(self, metrics: dict[str, float], number: int, step: int) -> None:
        """Write one step's metrics."""
        stage = self.recipe.stages[number]
        self.logger.log(metrics, stage=stage.name, step=step, global_step=self.offsets[number] + step)
        self.display.update(step, metrics)

    def rollouts(
        self, stage: str, step: int, seen: list[str], prompts: list[Prompt], rollouts: list[Rollout], scores: Scores
    ) -> None:
        """Write the prompts of all ranks and some of this rank's rollouts; on evaluation steps W&B shows them too."""
        number = [config.name for config in self.recipe.stages].index(stage)
        append_jsonl(self.recipe.output_dir / "prompts_seen.jsonl", {"stage": stage, "step": step, "prompt_ids": seen})
        limit = self.recipe.logging.traces_per_step
        traces = self.traces.write(stage, step, prompts, rollouts, scores, limit)
        if traces and step % self.recipe.evaluation.every == 0:
            self.logger.table(traces, global_step=self.offsets[number] + step)


def _evaluator(plan: Plan, engine: Any, model_dir: Path) -> Evaluator:
    """Held-out evaluation; each rank takes every n-th prompt."""
    config = plan.recipe.evaluation
    encoder = Encoder(AutoProcessor.from_pretrained(model_dir), max_length=plan.recipe.model.max_length)
    prompts = [encoder.prompt(row) for row in plan.datasets[config.data]][rank() :: world_size()]
    scorer = evaluation_scorer(config)
    return Evaluator(config.data, engine, scorer, prompts, config.max_tokens, config.temperature)


def _claim_folder(recipe: Recipe, *, fresh: bool) -> None:
    """Make the output folder this recipe's, or refuse."""
    folder, resolved = recipe.output_dir, dump_recipe(recipe)
    written = folder / "recipe.yaml"
    if fresh and folder.exists():
        if not written.exists() and any(folder.iterdir()):
            raise ValueError(
                f"{folder} is not the folder of a run (it has no recipe.yaml), so --fresh does not delete it"
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if written.exists() and essence(yaml.safe_load(written.read_text())) != essence(yaml.safe_load(resolved)):
        raise ValueError(
            f"{folder} holds a run of another recipe (see {written}); give output_dir=…, or --fresh to delete that run"
        )
    write_whole(written, resolved)
    versions = {"python": sys.version.split()[0]} | {name: version(name) for name in PACKAGES}
    write_whole(folder / "versions.json", json.dumps(versions, indent=2) + "\n")
