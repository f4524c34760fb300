"""A whole run: check, build data and base model, run the stages, report. A killed run resumes when started again."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import distributed
from transformers import AutoProcessor

from sail_rl.config import Recipe
from sail_rl.config.recipe import AnyStage
from sail_rl.contracts import Prompt, Rollout, RolloutEngine, Sampling, Scores
from sail_rl.data.encoding import Encoder
from sail_rl.evaluation.evaluate import Evaluator
from sail_rl.files import atomic_write
from sail_rl.imports import resolve
from sail_rl.maths.heldout import halves_of
from sail_rl.plan.overlap import overlaps
from sail_rl.plan.plan import Plan, build_base, check_code, drop_overlong, engine_options, make_plan, share_plan
from sail_rl.plan.rewards import evaluation_scorer
from sail_rl.records.store import RolloutStore
from sail_rl.reporting.report import write_report
from sail_rl.run_dir import BASE
from sail_rl.stages.best import remove_candidates
from sail_rl.stages.dispatch import StageContext, run_stage
from sail_rl.stages.train import StageResult
from sail_rl.trainer import checkpoints
from sail_rl.trainer.distributed import gather_objects, join_process_group, rank, world_size
from sail_rl.trainer.sampling import RolloutObserver

from .folder import await_ready, clear_ready, invalidate_stale_stages, prepare_run_dir, signal_ready, write_stage_key
from .lineage import stage_keys, write_lineage
from .ranks import check_ranks
from .records import Records
from .threads import describe_threads

logger = logging.getLogger(__name__)


class RunError(RuntimeError):
    """A failure during a run. Unlike a mistake in the recipe, it is shown with its traceback."""


def run(recipe: Recipe, *, fresh: bool = False, redo: bool = False) -> dict[str, Any]:
    """Run or resume `recipe` in its output folder; returns the summary that is also in `summary.json`.

    Args:
        recipe: the resolved recipe.
        fresh: delete what a run wrote into the output folder, and start over.
        redo: rerun the stages whose results would change, and keep the others.

    Raises:
        ValueError: for a mistake in recipe, code or data, before any model loads; or if the output folder
            holds another recipe's run or other files, or is in use.
        RunError: for failures that appear only during the run, such as an image that doesn't decode.
    """
    with ExitStack() as stack:
        if rank() != 0:
            await_ready(recipe.output_dir)
            return _run(recipe, None, {})
        # Mistakes are found here, in one process, before anything starts.
        recipe.run_dir.refuse_strangers()
        if recipe.output_dir.exists():
            stack.enter_context(recipe.run_dir.held())
            clear_ready(recipe.output_dir)
        algebra = check_code(recipe, world_size=world_size())  # before a folder is made
        stack.enter_context(recipe.run_dir.held())
        prepare_run_dir(recipe, fresh=fresh, redo=redo)
        return _run(recipe, *_prepared(recipe, algebra, redo=redo))


def _prepared(recipe: Recipe, algebra: dict[str, str], *, redo: bool) -> tuple[Plan, dict[str, str]]:
    """Check the data, settle which stages run again, build the base model; return the plan and the stages' keys."""
    plan = make_plan(recipe, algebra)
    keys = stage_keys(recipe, plan.paths)
    invalidate_stale_stages(recipe, keys, redo=redo)
    check_ranks(recipe, ranks=world_size())
    if recipe.model.path is None and not recipe.run_dir.summary.exists():  # otherwise make_plan has dropped them
        write_stage_key(recipe.run_dir.base, keys[BASE])
        plan = drop_overlong(plan, build_base(recipe, plan.datasets))
    signal_ready(recipe.output_dir)
    for overlap in overlaps(recipe, plan.datasets):
        logger.log(logging.WARNING if overlap.shared else logging.INFO, "%s", overlap)
    for name, line in algebra.items():
        logger.info("stage %s: %s", name, line)
    return plan, keys


def _run(recipe: Recipe, plan: Plan | None, keys: Mapping[str, str]) -> dict[str, Any]:
    """Run the stages on all ranks; returns the summary. `plan` and `keys` are rank 0's, see `_run_stages`."""
    join_process_group(timeout_minutes=recipe.deepspeed.timeout_minutes)
    distributed.barrier()
    describe_threads(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), recipe.engine.kwargs)
    summary_path = recipe.run_dir.summary
    if summary_path.exists():
        summary = json.loads(summary_path.read_text())
    else:
        try:
            results = _run_stages(recipe, plan, keys)
        except ValueError as error:
            raise RunError(str(error)) from error
        summary = {"name": recipe.name, "seed": recipe.seed, "heldout_rows": _heldout_rows(recipe)}
        summary |= {"stages": [asdict(result) for result in results]}
    if rank() == 0:
        atomic_write(summary_path, json.dumps(summary, indent=2) + "\n")
        write_report(recipe.output_dir)
    return summary


def _heldout_rows(recipe: Recipe) -> str:
    """The rows whose accuracy the summary shows, in words."""
    first = recipe.evaluation.sets[0]
    if recipe.halved is None:
        return f"all of {first}"
    return f"half of {first} (eval/{halves_of(first)[1]}); the other half chose the best models"


def _run_stages(recipe: Recipe, plan: Plan | None, keys: Mapping[str, str]) -> list[StageResult]:
    """Run every stage that has no result yet, each from the models that it starts from.

    Args:
        recipe: the resolved recipe.
        plan: rank 0's; None on the others.
        keys: rank 0's; {} on the others.
    """
    plan = share_plan(recipe, plan)
    base = recipe.model.path or recipe.run_dir.base
    engine = resolve(recipe.engine.path)(base, **engine_options(recipe))
    evaluator = _evaluator(plan, engine, base)
    records = Records(plan) if rank() == 0 else None
    results = []
    try:
        for number, config in enumerate(recipe.stages):
            stage = recipe.run_dir.stage(config.name)
            if not stage.result.exists():
                if records:
                    write_stage_key(stage.root, keys[config.name])
                    records.begin(number, stage.root)
                distributed.barrier()
                result = run_stage(_context(plan, number, base, engine, evaluator, records))
                if records:
                    records.end()
                    facts = asdict(result) | {"heldout_rows": _heldout_rows(recipe)}
                    write_lineage(recipe, config, keys, plan.paths, facts)
                    atomic_write(stage.result, json.dumps(asdict(result), indent=2))
                    remove_candidates(stage.root)
                distributed.barrier()
            results.append(StageResult(**json.loads(stage.result.read_text())))
        if records:
            trained = [result for result in results if result.heldout_accuracy_after is not None]
            records.logger.summary({f"{r.name}/heldout_accuracy": r.heldout_accuracy_after for r in trained})
    finally:
        evaluator.scorer.close()
        engine.close()
        if records:
            records.logger.finish()
    return results


def _context(
    plan: Plan, number: int, base: Path, engine: RolloutEngine, evaluator: Evaluator, records: Records | None
) -> StageContext:
    """The context of stage `number`."""
    recipe, config = plan.recipe, plan.recipe.stages[number]
    models = [base if name == BASE else recipe.run_dir.model(name) for name in recipe.parents(config)]

    def log(metrics: dict[str, float], step: int) -> None:
        if records:
            records.log(metrics, number, step)

    return StageContext(plan, config, models, engine, evaluator, log, _observer(recipe, config, records))


def _observer(recipe: Recipe, config: AnyStage, records: Records | None) -> RolloutObserver:
    """The observer that stores and logs a stage's rollouts; every rank must call it (collective)."""
    store = None
    if config.trains and (limit := recipe.logging.rollouts_gib):
        store = RolloutStore(recipe.output_dir, rank=rank(), max_gib=limit)
        found = checkpoints.newest_checkpoint(recipe.run_dir.stage(config.name).root)
        store.rollback(config.name, found[1] if found else -1, ranks=world_size())

    def observe(step: int, prompts: list[Prompt], rollouts: list[Rollout], scores: Scores) -> None:
        if store and rollouts:
            store.write(config.name, step, prompts, rollouts, scores)
        seen = gather_objects(list(dict.fromkeys(prompt.id for prompt in prompts)))
        if records:
            records.rollouts(config.name, step, seen, prompts, rollouts, scores)

    return observe


def _evaluator(plan: Plan, engine: Any, model_dir: Path) -> Evaluator:
    """The held-out evaluator; of n ranks, each evaluates every n-th prompt."""
    config = plan.recipe.evaluation
    encoder = Encoder(AutoProcessor.from_pretrained(model_dir), max_length=plan.recipe.model.max_length)
    sets = {name: [encoder.prompt(row) for row in plan.datasets[name]][rank() :: world_size()] for name in config.sets}
    sampling = Sampling(config.samples, config.max_tokens, config.temperature)
    return Evaluator(engine, evaluation_scorer(config), sets, sampling, plan.recipe.halved)
