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
from sail_rl.config.loading import dump_recipe
from sail_rl.config.result_settings import result_settings
from sail_rl.files import StrPath, atomic_write
from sail_rl.records.log import forget_stages
from sail_rl.run_dir import BASE, RunDir, StageDir

logger = logging.getLogger(__name__)
STALE = ".stale-"
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
    """Claim the output folder for this recipe.

    Raises:
        ValueError: the folder holds another recipe's run, or files that no run wrote.
    """
    run, folder, resolved = recipe.run_dir, recipe.output_dir, dump_recipe(recipe)
    written = run.recipe
    if fresh and folder.exists() and not written.exists():
        # `sail-rl check` may have made datasets here. They stay.
        if any(path != run.data for path in folder.iterdir()):
            raise ValueError(
                f"{folder} is not the folder of a run (it has no recipe.yaml), so --fresh does not delete it"
            )
    elif fresh and folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if written.exists() and not redo:
        before, now = result_settings(yaml.safe_load(written.read_text())), result_settings(yaml.safe_load(resolved))
        if before != now:
            raise ValueError(
                f"{folder} holds a run of another recipe (see {written}); give output_dir=…, --redo to rerun only "
                "the stages that change, or --fresh to delete that run"
            )
    atomic_write(written, resolved)
    versions = {"python": sys.version.split()[0]} | {name: version(name) for name in PACKAGES}
    atomic_write(run.versions, json.dumps(versions, indent=2) + "\n")


def invalidate_stale_stages(recipe: Recipe, keys: Mapping[str, str], *, redo: bool) -> None:
    """Delete (with `redo`) or refuse the base model and stages whose stored key differs from their current key.

    Raises:
        ValueError: without `redo`, naming the stages whose inputs changed.
    """
    run = recipe.run_dir
    for path in run.stages.glob(f"{STALE}*"):  # left by a kill during their deletion
        shutil.rmtree(path)
    begun = [path for path in (run.base, *run.stages.glob("*")) if _begun(path)]
    there = {path.name: _key(StageDir(path)) for path in begun}
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
        shutil.rmtree(run.rollouts / name, ignore_errors=True)
        doomed = run.stages / f"{STALE}{name}"
        doomed.parent.mkdir(exist_ok=True)
        (run.base if name == BASE else run.stage(name).root).rename(doomed)  # atomic
        shutil.rmtree(doomed)


def _key(stage: StageDir) -> str:
    return stage.key.read_text() if stage.key.is_file() else ""


def _begun(path: Path) -> bool:
    """True if the folder holds more than the partial key of a killed `write_stage_key`."""
    return path.is_dir() and any(inner.name != f"{StageDir(path).key.name}.partial" for inner in path.iterdir())


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
