"""The preparation of a run's folder: a new run, a resumed one, or one whose changed stages run again."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import yaml

from sail_rl.config import Recipe
from sail_rl.config.differences import differences
from sail_rl.config.loading import dump_recipe
from sail_rl.files import StrPath, atomic_write
from sail_rl.records.log import forget_stages
from sail_rl.run_dir import BASE, PARTIAL, RunDir, StageDir

from .contents import delete_rollouts, delete_run, delete_stage

logger = logging.getLogger(__name__)
PREPARATION_LIMIT = 24 * 3600.0
"""Seconds that rank 0 may take to fetch, build and curate data before the other ranks give up."""
PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "deepspeed",
    "accelerate",
    "peft",
    "datasets",
    "math-verify",
    "latex2sympy2_extended",
    "sympy",
    "wandb",
)


def prepare_run_dir(recipe: Recipe, *, fresh: bool, redo: bool) -> None:
    """Prepare the output folder, which this process holds (see `RunDir.held`), for this recipe.

    Raises:
        ValueError: the folder holds another recipe's run.
    """
    run, resolved = recipe.run_dir, dump_recipe(recipe)
    if fresh and run.has_run:
        delete_run(run)
    elif run.has_run and not redo and (different := differences(yaml.safe_load(run.recipe.read_text()), recipe)):
        raise ValueError(
            f"{run.root} holds a run of another recipe: {different}. Give output_dir=…, --redo to rerun only the "
            "stages that change, or --fresh to delete that run"
        )
    run.root.mkdir(parents=True, exist_ok=True)
    versions = {"python": sys.version.split()[0]} | {name: version(name) for name in PACKAGES}
    atomic_write(run.versions, json.dumps(versions, indent=2) + "\n")
    atomic_write(run.recipe, resolved)  # marks the folder as a run's


def invalidate_stale_stages(recipe: Recipe, keys: Mapping[str, str], *, redo: bool) -> None:
    """Delete (with `redo`) or refuse the base model and stages whose stored key differs from their current key.

    Raises:
        ValueError: without `redo`, naming the stages whose inputs changed.
    """
    run = recipe.run_dir
    there = {BASE: _key(StageDir(run.base))} if _begun(run.base) else {}
    there |= {path.name: _key(StageDir(path)) for path in sorted(run.stages.glob("*")) if _begun(path)}
    stale = [name for name, key in there.items() if keys.get(name) != key]
    if stale and not redo:
        raise ValueError(
            f"{run.root}: the data, rewards or model of {', '.join(stale)} changed since the last launch; --redo runs "
            "these stages again and keeps the others, output_dir=… starts a run beside this one"
        )
    if redo:  # the records first, so that a kill in between leaves the stages for the next launch to delete
        run.summary.unlink(missing_ok=True)
        forget_stages(run.root, kept=[stage.name for stage in recipe.stages if stage.name not in stale])
    for name in stale:
        logger.info("%s runs again, because its inputs changed", name)
        delete_rollouts(run.rollouts / name)
        if name == BASE:
            shutil.rmtree(run.base)
        else:
            delete_stage(run.stage(name))


def _key(stage: StageDir) -> str:
    return stage.key.read_text() if stage.key.is_file() else ""


def _begun(path: Path) -> bool:
    """True if the base model or a stage has written more than the partial key of a killed `write_stage_key`."""
    written = path.iterdir() if path.name == BASE and path.is_dir() else StageDir(path).written()
    return any(inner.name != f"{StageDir(path).key.name}{PARTIAL}" for inner in written)


def clear_ready(folder: StrPath) -> None:
    """Remove the ready file of an earlier launch (rank 0, before anything else)."""
    RunDir(folder).ready.unlink(missing_ok=True)


def signal_ready(folder: StrPath) -> None:
    """Tell the other ranks that all checks passed and the datasets are ready (rank 0)."""
    atomic_write(RunDir(folder).ready, _launch())


def await_ready(folder: StrPath, *, limit: float = PREPARATION_LIMIT) -> None:
    """Wait for rank 0's ready file, so that collectives don't time out while rank 0 prepares the datasets.

    If rank 0 fails, the launcher ends this process. If rank 0 starts late, this rank may read the ready file of an
    earlier launch at the same address. It then waits in the process group instead, which has a limit of its own.

    Raises:
        TimeoutError: after `limit` seconds.
    """
    deadline = time.monotonic() + limit
    while not _is_ready(folder):
        if time.monotonic() > deadline:
            raise TimeoutError(f"rank 0 hasn't prepared {folder} within {limit / 3600:g} hours")
        time.sleep(0.2)


def _is_ready(folder: StrPath) -> bool:
    try:
        return RunDir(folder).ready.read_text() == _launch()
    except OSError:  # the file is missing or being replaced
        return False


def _launch() -> str:
    """The identity of this launch: equal on all of its ranks."""
    names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT")
    return " ".join(os.environ.get(name, "-") for name in names)


def write_stage_key(folder: StrPath, key: str) -> None:
    """Write the key of the stage that is about to run in `folder`."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    atomic_write(StageDir(Path(folder)).key, key)
