"""Checks of a whole run before any model loads, and the plan that they make: code, datasets, batch algebra."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sail_rl.config import Recipe, RLStage
from sail_rl.data.dataset import Rows
from sail_rl.data.mixture import sources_of
from sail_rl.files import StrPath
from sail_rl.imports import resolve
from sail_rl.models.tiny import build_tiny
from sail_rl.trainer.distributed import gather_objects

from .datasets import build_data, fit_to_context, load_data, open_rows
from .policy import check_base, check_lora, is_moe
from .rewards import check_gold_answers, evaluation_scorer, stage_scorer
from .settings import check_best_metrics, check_settings


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe that passed all checks, with its datasets."""

    recipe: Recipe
    datasets: dict[str, Rows]
    algebra: dict[str, str]
    """The batch algebra of each stage, in words."""
    paths: dict[str, Path]
    """Files of the datasets by name."""


def check_code(recipe: Recipe, *, world_size: int) -> dict[str, str]:
    """Check the batch algebra and import all code that the recipe names; returns the algebra by stage.

    Raises:
        ValueError: naming the stage and field, the algebra, or the real import error.
    """
    check_settings(recipe)
    algebra = {stage.name: stage.check_algebra(world_size) for stage in recipe.training}
    engine = resolve(recipe.engine.path)
    try:
        inspect.signature(engine).bind(Path(), **{"max_model_len": 0, "dtype": ""} | recipe.engine.kwargs)
    except TypeError as error:
        raise ValueError(f"engine.kwargs: {recipe.engine.path}: {error}") from None
    if check_options := getattr(engine, "check_options", None):
        try:
            check_options(**recipe.engine.kwargs)
        except (TypeError, ValueError) as error:
            raise ValueError(f"engine.kwargs: {recipe.engine.path}: {error}") from None
    evaluation_scorer(recipe.evaluation)
    for stage in recipe.rl_stages:
        if stage.sampling.staleness and not getattr(engine, "runs_out_of_process", False):
            raise ValueError(
                f"stage {stage.name}: staleness {stage.sampling.staleness} takes an engine in processes of its "
                f"own, and {recipe.engine.path} runs in the trainer's; set engine.path to "
                "rollouts.workers:WorkerEngine"
            )
        if stage.sampling.partial_tokens and not getattr(engine, "supports_partial_rollouts", False):
            raise ValueError(
                f"stage {stage.name}: partial_tokens requires an engine that continues rollouts of an older policy, "
                f"which {recipe.engine.path} doesn't; set engine.path to rollouts.vllm_engine:VLLMEngine or "
                "rollouts.workers:WorkerEngine"
            )
        if stage.sampling.routing_replay:
            _check_replay(stage, recipe, engine)
        for key, path in stage.custom_code.items():
            if not callable(found := resolve(path)):
                raise ValueError(f"stage {stage.name}: {key}: {path} is a {type(found).__name__}, not a function")
        try:
            stage_scorer(stage)
        except ValueError as error:
            raise ValueError(f"stage {stage.name}: {error}") from error
    if recipe.data.builder:
        try:
            inspect.signature(resolve(recipe.data.builder)).bind(Path(), seed=0, **recipe.data.kwargs)
        except TypeError as error:
            raise ValueError(f"data.kwargs: {recipe.data.builder}: {error}") from None
    check_lora(recipe)
    return algebra


def make_plan(recipe: Recipe, algebra: dict[str, str]) -> Plan:
    """Check model folder, datasets and gold answers after `check_code`, which returned `algebra`.

    Builds missing datasets, and loads no model. Only rank 0 does this; see `share_plan`.

    Raises:
        ValueError: naming the file and row, or the field.
    """
    if recipe.model.path:
        check_base(recipe.model.path)
    paths = build_data(recipe)
    plan = Plan(recipe, load_data(recipe, paths), algebra, paths)
    check_gold_answers(recipe, plan.datasets)
    check_best_metrics(recipe, plan.datasets)
    return drop_overlong(plan, recipe.model.path) if recipe.model.path else plan


def share_plan(recipe: Recipe, plan: Plan | None) -> Plan:
    """Give every rank the plan of rank 0 (a collective). The others open the datasets without checking them again."""
    indices = {name: rows.row_index for name, rows in plan.datasets.items()} if plan else {}
    ((algebra, paths, indices),) = gather_objects([(plan.algebra, plan.paths, indices)] if plan else [])
    if plan:
        return plan
    datasets = {name: open_rows(recipe, paths, name, row_index=index) for name, index in indices.items()}
    return Plan(recipe, datasets, algebra, paths)


def drop_overlong(plan: Plan, model_dir: StrPath) -> Plan:
    """The plan with rows that fit the context, see `datasets.fit_to_context`."""
    return replace(plan, datasets=fit_to_context(plan.recipe, plan.datasets, model_dir))


def build_base(recipe: Recipe, datasets: Mapping[str, Rows]) -> Path:
    """Folder of the tiny SAIL-VL2 that a run without a `model.path` starts from, built from the datasets' texts."""
    folder = recipe.run_dir.base
    if not recipe.run_dir.base_complete.exists():
        sources = [source for stage in recipe.training for source in sources_of(recipe.data.mixtures, stage.data)]
        texts = [text for source in sources if source in datasets for text in datasets[source].texts()]
        build_tiny(folder, texts, llm=recipe.model.llm, seed=recipe.seed)
        recipe.run_dir.base_complete.touch()
    return folder


def engine_options(recipe: Recipe) -> dict[str, Any]:
    """Keyword arguments of the rollout engine."""
    options: dict[str, Any] = {"max_model_len": recipe.model.max_length, "dtype": recipe.model.dtype}
    if recipe.model.head_dtype:
        options["head_dtype"] = recipe.model.head_dtype
    if any(stage.sampling.routing_replay for stage in recipe.rl_stages):
        options["capture_routed_experts"] = True
    return options | recipe.engine.kwargs


def _check_replay(stage: RLStage, recipe: Recipe, engine: Any) -> None:
    if not is_moe(recipe):
        raise ValueError(f"stage {stage.name}: routing_replay is for an MoE, and this model is dense; leave it out")
    if not getattr(engine, "captures_routed_experts", False):
        raise ValueError(
            f"stage {stage.name}: routing_replay takes an engine that captures routed experts, which "
            f"{recipe.engine.path} doesn't; set engine.path to rollouts.vllm_engine:VLLMEngine or "
            "rollouts.workers:WorkerEngine"
        )
