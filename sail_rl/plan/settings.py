"""Checks of settings against this machine, the model and the libraries that read them, before anything loads."""

from __future__ import annotations

import difflib
import logging
import tempfile
from collections.abc import Mapping

from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from pydantic import ValidationError

from sail_rl.config import Recipe
from sail_rl.data.dataset import Rows
from sail_rl.maths.heldout import metric_names, source_of
from sail_rl.models.tiny import POSITIONS
from sail_rl.records.wandb_run import check_wandb
from sail_rl.run_dir import RunDir

from .policy import model_config

logger = logging.getLogger(__name__)
OWN_ZERO_KEYS = {
    "stage": "deepspeed.zero_stage",
    "offload_optimizer": "deepspeed.offload_optimizer",
    "stage3_gather_16bit_weights_on_model_save": "nothing: it follows from deepspeed.zero_stage",
}
"""Keys of DeepSpeed's `zero_optimization` that the recipe's other settings decide, with the setting to use."""


def check_settings(recipe: Recipe) -> None:
    """Refuse settings that fail on this machine, with this model or in a library, only after a model has loaded.

    Raises:
        ValueError: naming the key, its value and the remedy.
    """
    check_output_dir(recipe.run_dir)
    check_wandb()
    check_zero_options(recipe)
    check_positions(recipe)
    warn_of_warm_ups(recipe)


def warn_of_warm_ups(recipe: Recipe) -> None:
    """Warn of stages that end within a warm-up. A run that is shortened for a trial may."""
    for stage in recipe.training:
        warm_ups = {"optimizer.warmup_steps": stage.optimizer.warmup_steps}
        if stage.kind == "rl" and stage.critic:
            warm_ups["critic.warmup_steps"] = stage.critic.warmup_steps
        for key, steps in warm_ups.items():
            if steps > stage.steps:
                logger.warning(
                    "stage %s: %s is %d, but the stage has only %d steps and ends within its warm-up; lower %s, or "
                    "raise steps", stage.name, key, steps, stage.steps, key,
                )  # fmt: skip


def check_output_dir(run: RunDir) -> None:
    """Refuse an output folder that is no folder, holds other files, or can't be made or written."""
    run.refuse_strangers()
    folder = run.root
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists() or path.is_symlink())
    if not there.is_dir():
        raise ValueError(f"output_dir {folder} can't be made: {there} is a file; give another folder")
    try:
        with tempfile.TemporaryDirectory(prefix=".writable-", dir=there):
            pass
    except OSError as error:
        raise ValueError(
            f"output_dir {folder} can't be made: nothing can be written in {there} ({error.strerror}); give another "
            "folder"
        ) from None


def check_zero_options(recipe: Recipe) -> None:
    """Refuse `deepspeed.zero_options` that DeepSpeed doesn't know, or that contradict the recipe's own settings."""
    given, stage = recipe.deepspeed.zero_options, recipe.deepspeed.zero_stage
    known = set(DeepSpeedZeroConfig.model_fields)
    known |= {str(field.alias) for field in DeepSpeedZeroConfig.model_fields.values() if field.alias}
    for key, value in given.items():
        where = f"deepspeed.zero_options.{key} is {value!r}"
        if key in OWN_ZERO_KEYS:
            raise ValueError(f"{where}, which the recipe decides elsewhere; use {OWN_ZERO_KEYS[key]}")
        if key not in known:
            near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=0.0)[0]
            raise ValueError(f"{where}, which DeepSpeed's zero_optimization doesn't know; the nearest key is {near!r}")
        if key.startswith("stage3_") and stage != 3:
            raise ValueError(f"{where}, but deepspeed.zero_stage is {stage}; leave it out, or set zero_stage to 3")
    try:
        DeepSpeedZeroConfig(**{"stage": stage} | given)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"])) or "*"
        raise ValueError(
            f"deepspeed.zero_options.{key} is {problem['input']!r}: {problem['msg']}; see DeepSpeed's zero_optimization"
        ) from None


def check_positions(recipe: Recipe) -> None:
    """Refuse a `model.max_length` beyond the positions of the recipe's checkpoint."""
    config = model_config(recipe)
    text = config.text_config if config else None
    positions = text.max_position_embeddings if text else POSITIONS
    rope = (text and getattr(text, "rope_parameters", None)) or {}
    if rope.get("factor"):  # a longer context by interpolation, such as YaRN
        positions = int(rope.get("original_max_position_embeddings", positions) * rope["factor"])
    if recipe.model.max_length > positions:
        raise ValueError(
            f"model.max_length is {recipe.model.max_length}, but the model has {positions} positions "
            "(text_config.max_position_embeddings in its config.json); lower model.max_length"
        )


def check_best_metrics(recipe: Recipe, datasets: Mapping[str, Rows]) -> None:
    """Refuse a `metric_for_best_model` that no evaluation reports.

    Args:
        recipe: the resolved recipe.
        datasets: the checked datasets; held-out ones that don't exist yet may be absent.
    """
    evaluation = recipe.evaluation
    halved = recipe.halved
    if halved and halved in datasets and len(datasets[halved]) < 2:
        raise ValueError(
            f"{datasets[halved].path} has one row, so one half of it can't choose the best model and the other report; "
            "give more rows, or leave metric_for_best_model out"
        )
    for stage in recipe.training:
        wanted = stage.metric_for_best_model
        if wanted is None or (wanted.split("/")[1] in evaluation.sets and wanted.split("/")[1] not in datasets):
            continue
        known = [
            f"eval/{name}/{metric}"
            for name in evaluation.sets
            for metric in metric_names(evaluation.rewards, samples=evaluation.samples, sources=_sources(datasets, name))
        ]
        if wanted not in known:
            near = difflib.get_close_matches(wanted, known, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"stage {stage.name}: metric_for_best_model is {wanted!r}, which no evaluation reports; the nearest of "
                f"{len(known)} is {near!r}"
            )


def _sources(datasets: Mapping[str, Rows], name: str) -> list[str]:
    """The sources of a dataset's rows; [] if the dataset doesn't exist yet."""
    rows = datasets.get(name)
    found = (source_of(rows.metadata(index)) for index in range(len(rows))) if rows else ()
    return [source for source in dict.fromkeys(found) if source]
