"""Everything that can be wrong with a run, found before any model loads; then data and base model on disk."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from transformers import AutoProcessor

from sail_rl.config import Recipe, RLStage, SFTStage
from sail_rl.data.dataset import Rows
from sail_rl.data.encoding import Encoder
from sail_rl.data.hub import fetched
from sail_rl.data.mixed import MixedRows
from sail_rl.data.mixture import sources_of
from sail_rl.files import write_whole
from sail_rl.imports import resolve
from sail_rl.models.tiny import build_tiny

from .policy import check_lora, is_moe
from .scoring import check_gold_answers, evaluation_scorer, stage_scorer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe whose parts were all found: code imported, datasets read and checked, batches that come out even."""

    recipe: Recipe
    datasets: dict[str, Rows]
    algebra: dict[str, str]
    """The batch algebra of each stage, in words."""
    paths: dict[str, Path]
    """Where the datasets are."""


def check_code(recipe: Recipe, *, world_size: int) -> dict[str, str]:
    """Check the batch algebra and import all code that the recipe names; returns the algebra by stage.

    Raises:
        ValueError: naming the stage and field, the algebra, or the real import error.
    """
    algebra = {stage.name: stage.check_algebra(world_size) for stage in recipe.training}
    engine = resolve(recipe.engine.path)
    evaluation_scorer(recipe.evaluation)
    for stage in recipe.training:
        if isinstance(stage, RLStage):
            if stage.staleness and not getattr(engine, "concurrent", False):
                raise ValueError(
                    f"stage {stage.name}: staleness {stage.staleness} takes an engine in processes of its own, and "
                    f"{recipe.engine.path} runs in the trainer's; set engine.path to rollouts.workers:WorkerEngine"
                )
            if stage.partial_tokens and not getattr(engine, "continues", False):
                raise ValueError(
                    f"stage {stage.name}: partial_tokens takes an engine that goes on with what another policy began, "
                    f"which {recipe.engine.path} doesn't; set engine.path to rollouts.vllm_engine:VLLMEngine or "
                    "rollouts.workers:WorkerEngine"
                )
            if stage.routing_replay:
                _check_replay(stage, recipe, engine)
            try:
                stage_scorer(stage)
            except ValueError as error:
                raise ValueError(f"stage {stage.name}: {error}") from error
    if recipe.data.builder:
        resolve(recipe.data.builder)
    if recipe.model.path is not None and not (recipe.model.path / "config.json").is_file():
        raise ValueError(f"model.path is {recipe.model.path}, which has no config.json; give a saved SAIL-VL2 folder")
    check_lora(recipe)
    return algebra


def build_data(recipe: Recipe) -> dict[str, Path]:
    """Paths of the datasets by name; a builder runs unless what it makes of these very arguments is there."""
    if not recipe.data.builder:
        return {name: _local(recipe, name) for name in recipe.data.files}
    folder = recipe.output_dir / "data"
    manifest = folder / "manifest.json"
    made_from = {"builder": recipe.data.builder, "seed": recipe.seed, "kwargs": recipe.data.kwargs}
    if manifest.exists():
        written = json.loads(manifest.read_text())
        if written["made_from"] == made_from:
            return {name: Path(path) for name, path in written["paths"].items()}
    logger.info("building the datasets in %s", folder)
    paths = resolve(recipe.data.builder)(folder, seed=recipe.seed, **recipe.data.kwargs)
    if not isinstance(paths, dict) or not all(Path(path).is_file() for path in paths.values()):
        raise ValueError(
            f"data.builder {recipe.data.builder} must return a dict of name: path of a file it has written"
        )
    write_whole(
        manifest, json.dumps({"made_from": made_from, "paths": {name: str(path) for name, path in paths.items()}})
    )
    return paths


def _local(recipe: Recipe, name: str) -> Path:
    """Path of a dataset; one of the hub is fetched, once."""
    source = recipe.data.source(name)
    assert source is not None
    if source.hub is None:
        assert source.path is not None
        return source.path
    return fetched(recipe.output_dir / "data", name, **source.on_hub)


def open_rows(recipe: Recipe, paths: Mapping[str, Path], name: str, needs: Sequence[str] = ("prompt",)) -> Rows:
    """The dataset called `name`, read as the recipe says and checked."""
    source = recipe.data.source(name)
    return Rows(
        paths[name],
        needs=needs,
        video_frames=recipe.data.video_frames,
        columns=source.columns if source else None,
        root=source.root if source else None,
    )


def load_data(recipe: Recipe, paths: Mapping[str, Path]) -> dict[str, Rows]:
    """Read and check every dataset that a stage or the evaluation uses."""
    needs: dict[str, set[str]] = {name: {"prompt"} for name in recipe.evaluation.sets}
    harvested = {stage.name for stage in recipe.harvests}
    for stage in recipe.training:
        for source in sources_of(recipe.data.mixtures, stage.data).keys() - harvested:
            needs.setdefault(source, {"prompt"}).update({"completion"} if isinstance(stage, SFTStage) else ())
    unknown = sorted(set(needs) - set(paths))
    if unknown:
        raise ValueError(f"no dataset named {', '.join(unknown)}; data gives {', '.join(sorted(paths))}")
    return {name: open_rows(recipe, paths, name, sorted(columns)) for name, columns in needs.items()}


def rows_of(plan: Plan, data: str, encoder: Encoder) -> Rows | MixedRows:
    """The rows of the dataset, harvest or mixture named `data`."""
    harvests = {stage.name for stage in plan.recipe.harvests}
    weights = sources_of(plan.recipe.data.mixtures, data)
    sources = {
        # Its videos are named by their absolute paths, which were checked where they came from.
        name: Rows(harvest_file(plan.recipe, name), needs=("prompt", "completion"), root=Path("/"))
        if name in harvests
        else plan.datasets[name]
        for name in weights
    }
    if data not in plan.recipe.data.mixtures:
        return sources[data]
    if plan.recipe.data.mix_by == "samples":
        return MixedRows(sources, weights, dict.fromkeys(sources, 1.0))
    tokens = {
        name: fmean(encoder.length(rows.outline(index), completion=True) for index in range(len(rows)))
        for name, rows in sources.items()
    }
    return MixedRows(sources, weights, tokens)


def harvest_file(recipe: Recipe, name: str) -> Path:
    """The dataset that a harvest stage makes."""
    return recipe.output_dir / "stages" / name / "data.parquet"


def make_plan(recipe: Recipe, *, world_size: int) -> Plan:
    """Check everything; builds data if need be, loads no model."""
    algebra = check_code(recipe, world_size=world_size)
    paths = build_data(recipe)
    plan = Plan(recipe, load_data(recipe, paths), algebra, paths)
    check_gold_answers(recipe, plan.datasets)
    return fit_to_context(plan, recipe.model.path) if recipe.model.path else plan


def fit_to_context(plan: Plan, model_dir: Path) -> Plan:
    """The plan with datasets that fit `model.max_length` as this model's processor counts; `data.overlong` decides.

    A prompt must leave room for one token; a stage that trains on completions needs room for them whole.
    """
    recipe = plan.recipe
    encoder = Encoder(AutoProcessor.from_pretrained(model_dir), max_length=recipe.model.max_length)
    training = [stage.data for stage in recipe.training if isinstance(stage, SFTStage)]
    supervised = {source for data in training for source in sources_of(recipe.data.mixtures, data)}
    fitting = {}
    for name, rows in plan.datasets.items():
        limit = encoder.max_length - (name not in supervised)
        lengths = [encoder.length(rows.outline(i), completion=name in supervised) for i in range(len(rows))]
        overlong = [index for index, length in enumerate(lengths) if length > limit]
        if overlong and (recipe.data.overlong == "error" or len(overlong) == len(rows)):
            raise ValueError(
                f"{rows.path}: {len(overlong)} of {len(rows)} rows are too long, first row {rows.number(overlong[0])} "
                f"with {lengths[overlong[0]]} tokens where {limit} fit; raise model.max_length, or leave such rows out "
                "with data.overlong=drop (they are never cut)"
            )
        if overlong:
            logger.warning("%s: dropped %d of %d rows, longer than %d tokens", name, len(overlong), len(rows), limit)
        fitting[name] = rows.without(overlong)
    return replace(plan, datasets=fitting)


def build_base(recipe: Recipe, datasets: Mapping[str, Rows]) -> Path:
    """Folder of the base model: the recipe's checkpoint, or a tiny SAIL-VL2 built from its texts."""
    if recipe.model.path is not None:
        return recipe.model.path
    folder = recipe.output_dir / "base"
    if not (folder / "COMPLETE").exists():
        sources = [source for stage in recipe.training for source in sources_of(recipe.data.mixtures, stage.data)]
        texts = [text for source in sources if source in datasets for text in datasets[source].texts()]
        build_tiny(folder, texts, llm=recipe.model.llm, seed=recipe.seed)
        (folder / "COMPLETE").touch()
    return folder


def engine_options(recipe: Recipe) -> dict[str, Any]:
    """Keyword arguments of the rollout engine."""
    options: dict[str, Any] = {"max_model_len": recipe.model.max_length, "dtype": recipe.model.dtype}
    if any(isinstance(stage, RLStage) and stage.routing_replay for stage in recipe.training):
        options["capture_routes"] = True
    return options | recipe.engine.kwargs


def _check_replay(stage: RLStage, recipe: Recipe, engine: Any) -> None:
    if not is_moe(recipe):
        raise ValueError(f"stage {stage.name}: routing_replay is for an MoE, and this model is dense; leave it out")
    if not getattr(engine, "captures_routes", False):
        raise ValueError(
            f"stage {stage.name}: routing_replay takes an engine that captures routes, which {recipe.engine.path} "
            "doesn't; set engine.path to rollouts.vllm_engine:VLLMEngine or rollouts.workers:WorkerEngine"
        )
