"""Lineage of models: each stage's key, a hash of everything that its result depends on, and lineage.json."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sail_rl.config import Recipe
from sail_rl.config.recipe import AnyStage
from sail_rl.config.result_settings import code_hashes, is_timed, result_settings
from sail_rl.data.mixture import sources_of
from sail_rl.files import atomic_write, content_hash, sampled_hash, short_hash
from sail_rl.plan.datasets import builder_inputs
from sail_rl.run_dir import BASE

SHARED = ("model", "engine", "deepspeed", "evaluation")


def stage_keys(recipe: Recipe, paths: Mapping[str, Path]) -> dict[str, str]:
    """Keys of the base model and of each stage. A changed key means that the result would change.

    A key depends on the stage's settings, the content of its data, the settings of model, engine, DeepSpeed and
    evaluation, the seed, and the keys of its parents. Settings that change only speed don't count (see
    `config.result_settings`).

    Args:
        recipe: the resolved recipe.
        paths: its datasets.
    """
    resolved = recipe.model_dump(mode="json")
    code = {stage["name"]: code_hashes([stage, *(resolved[name] for name in SHARED)]) for stage in resolved["stages"]}
    tree = result_settings(resolved, timing=False)
    settings = {stage["name"]: stage for stage in tree["stages"]}
    data = {name: data_hash(recipe, name, path) for name, path in paths.items()}
    shared = {name: tree[name] for name in SHARED}
    shared["model"] = shared["model"] | {"path": None}  # its content counts, not its place
    path = recipe.model.path
    if path:
        base = sampled_hash(path) if path.is_dir() else None
    else:  # the tiny model's tokenizer is trained on the training data
        trained = {source for stage in recipe.training for source in _mixture(recipe, stage)}
        base = short_hash([[name, data[name]] for name in sorted(trained & data.keys())])
    keys = {BASE: short_hash([shared["model"], recipe.seed, base])}
    for stage in recipe.stages:
        own = settings[stage.name] | {"name": None, "parent": None, "seed": recipe.seed_of(stage)}
        if is_timed(stage.model_dump()):
            own["timing"] = [recipe.evaluation.every, getattr(stage, "save_every", None)]
        datasets, stages = inputs(recipe, stage)
        mixture = _mixture(recipe, stage)
        shares = [mixture, recipe.data.mix_by if len(mixture) > 1 else None]
        read = [{name: data[name] for name in datasets if name in data}, {name: keys[name] for name in stages}]
        keys[stage.name] = short_hash(
            [own, shared, code[stage.name], read, shares, [keys[parent] for parent in recipe.parents(stage)]]
        )
    return keys


def inputs(recipe: Recipe, stage: AnyStage) -> tuple[list[str], list[str]]:
    """The datasets that a stage reads, and the stages whose rollouts or datasets it reads."""
    if sampled := stage.reads_rollouts_of:
        return [recipe.origin(recipe.rl_stage(sampled).data)], [sampled]
    made = {maker.name for maker in recipe.dataset_stages}
    own = _mixture(recipe, stage)
    evaluated = recipe.evaluation.sets if stage.evaluated else []
    return sorted({*own, *evaluated} - made), sorted(own.keys() & made)


def _mixture(recipe: Recipe, stage: AnyStage) -> dict[str, float]:
    """The sources that a stage trains on, with their shares."""
    return sources_of(recipe.data.mixtures, stage.data) if stage.trains else {}


def data_hash(recipe: Recipe, name: str, path: Path) -> str:
    """Hash of a dataset: of a builder's arguments, or of a file's content and of the settings that read it."""
    if recipe.data.builder:
        settings = [recipe.data.video_frames, recipe.data.overlong]
        return short_hash([builder_inputs(recipe), name, settings])
    source = recipe.data.source(name)
    read = None  # a curated dataset has no source
    if source:
        root = os.path.relpath(os.path.realpath(source.root), os.path.realpath(path.parent)) if source.root else None
        read = source.model_dump(mode="json", exclude={"path"}) | {"root": root}
    return short_hash([content_hash(path), read, recipe.data.video_frames, recipe.data.overlong])


def write_lineage(
    recipe: Recipe, stage: AnyStage, keys: Mapping[str, str], paths: Mapping[str, Path], result: Mapping[str, Any]
) -> None:
    """Write `lineage.json` (inputs, settings, metrics, versions) into the folders of stage, model and adapter."""
    folder = recipe.run_dir.stage(stage.name)
    datasets, stages = inputs(recipe, stage)
    read: dict[str, dict[str, str]] = {
        name: {"path": str(paths[name]), "hash": data_hash(recipe, name, paths[name])}
        for name in datasets
        if name in paths
    }
    of_rollouts = stage.reads_rollouts_of is not None
    trained_on = datasets if of_rollouts else _mixture(recipe, stage)
    prefix = "rollouts of " if of_rollouts else ""
    of_stages = {prefix + name: {"stage": name, "key": keys[name]} for name in stages}
    base = str(recipe.model.path or recipe.run_dir.base)
    lineage = {
        "run": recipe.name,
        "stage": stage.name,
        "key": keys[stage.name],
        "parents": [
            {"stage": name, "key": keys[name]} | ({"model": base} if name == BASE else {})
            for name in recipe.parents(stage)
        ],
        "data": {name: found for name, found in read.items() if name in trained_on} | of_stages,
        "evaluation": {name: found for name, found in read.items() if name not in trained_on},
        "seed": recipe.seed_of(stage),
        "settings": stage.model_dump(mode="json"),
        "metrics": {name: value for name, value in result.items() if name != "name"},
        "versions": json.loads(recipe.run_dir.versions.read_text()),
    }
    text = json.dumps(lineage, indent=2) + "\n"
    atomic_write(folder.lineage, text)
    for made in (folder.model, folder.adapter):
        if made.is_dir():
            atomic_write(made / folder.lineage.name, text)
