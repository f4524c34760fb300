"""Maps each kind of stage to the function that runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from sail_rl.config.recipe import AnyStage
from sail_rl.contracts import RolloutEngine
from sail_rl.evaluation.evaluate import Evaluator
from sail_rl.models.files import saved_weights
from sail_rl.plan.plan import Plan
from sail_rl.trainer.distributed import rank
from sail_rl.trainer.sampling import RolloutObserver

from .export import export_stage
from .harvest import filter_stage, harvest_stage
from .soup import soup_stage
from .train import Stage, StageResult


@dataclass(frozen=True, slots=True)
class StageContext:
    """The inputs of one stage.

    Args:
        plan: the checked recipe and its datasets.
        config: the stage's part of the recipe.
        models: folders of the models that it starts from.
        engine: rollout engine, shared by all stages.
        evaluator: held-out evaluation with that engine.
        log: `log(metrics, step)` writes the metrics of a step on rank 0 and does nothing on other ranks.
        observer: receives the rollouts of an RL stage.
    """

    plan: Plan
    config: AnyStage
    models: Sequence[Path]
    engine: RolloutEngine
    evaluator: Evaluator
    log: Callable[[dict[str, float], int], None]
    observer: RolloutObserver


def run_stage(context: StageContext) -> StageResult:
    """Run one stage of any kind; every rank calls it."""
    return STAGES[context.config.kind](context)


def _train(context: StageContext) -> StageResult:
    assert context.config.trains
    models, engine, evaluator = context.models, context.engine, context.evaluator
    return Stage(context.plan, context.config, models[0], engine, evaluator, context.log, context.observer).run()


def _on_rank_0(make: Callable[[Plan, Any, Sequence[Path]], StageResult]) -> Callable[[StageContext], StageResult]:
    """Wrap `make`: rank 0 runs it, and the other ranks wait."""

    def run(context: StageContext) -> StageResult:
        result = StageResult(context.config.name, 0.0, None, None)
        if rank() == 0:
            result = make(context.plan, context.config, context.models)
        distributed.barrier()
        return result

    return run


def _soup(context: StageContext) -> StageResult:
    """Average the models on rank 0, and evaluate the average on all ranks."""
    result = _on_rank_0(soup_stage)(context)
    recipe = context.plan.recipe
    weights = saved_weights(recipe.run_dir.model(context.config.name), getattr(torch, recipe.model.dtype))
    context.engine.push_weights(1, weights)
    metrics = context.evaluator()
    context.log(metrics, 0)
    return replace(result, heldout_accuracy_after=metrics[context.evaluator.accuracy_name])


STAGES: dict[str, Callable[[StageContext], StageResult]] = {
    "sft": _train,
    "rl": _train,
    "harvest": _on_rank_0(harvest_stage),
    "filter": _on_rank_0(filter_stage),
    "soup": _soup,
    "export": _on_rank_0(export_stage),
}
