"""Making a folder a recipe's: a new run, the same run going on, or one of which only what changed is done again."""

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
from sail_rl.config.loading import dump_recipe, result_settings
from sail_rl.files import atomic_write
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
    "sympy",
    "wandb",
)


def prepare_run_dir(recipe: Recipe, *, fresh: bool, redo: bool) -> None:
    """Make the output folder this recipe's, or refuse.

    Raises:
        ValueError: it holds another recipe's run, or isn't a run's.
    """
    run, folder, resolved = recipe.run_dir, recipe.output_dir, dump_recipe(recipe)
    written = run.recipe
    if fresh and folder.exists() and not written.exists():
        # Datasets may be there, which `check` makes, too; they are left alone.
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
                f"{folder} holds a run of another recipe (see {written}); give output_dir=…, --redo to do again only "
                "the stages that change, or --fresh to delete that run"
            )
    atomic_write(written, resolved)
    versions = {"python": sys.version.split()[0]} | {name: version(name) for name in PACKAGES}
    atomic_write(run.versions, json.dumps(versions, indent=2) + "\n")


def invalidate_stale_stages(recipe: Recipe, keys: Mapping[str, str], *, redo: bool) -> None:
    """Compare what is there with the keys of now: with `redo` what has another key is deleted, without it refused.

    Raises:
        ValueError: naming the stages that would come out otherwise.
    """
    run = recipe.run_dir
    for path in run.stages.glob(f"{STALE}*"):  # a kill while they were deleted
        shutil.rmtree(path)
    begun = [path for path in (run.base, *run.stages.glob("*")) if _begun(path)]
    # Without a key nothing is known of what it was made of.
    there = {path.name: _key(StageDir(path)) for path in begun}
    stale = [name for name, key in there.items() if keys.get(name) != key]
    if stale and not redo:
        raise ValueError(
            f"{run.root}: what {', '.join(stale)} depends on changed since it was run (data, rewards or model); --redo "
            "does it again and keeps the rest, output_dir=… starts a run beside this one"
        )
    if redo:  # the records first: a kill in between leaves stages to be deleted the next time
        run.summary.unlink(missing_ok=True)
        forget_stages(run.root, kept=[stage.name for stage in recipe.stages if stage.name not in stale])
    for name in stale:
        logger.info("%s is done again: what it depends on changed", name)
        shutil.rmtree(run.rollouts / name, ignore_errors=True)
        doomed = run.stages / f"{STALE}{name}"
        doomed.parent.mkdir(exist_ok=True)
        (run.base if name == BASE else run.stage(name).root).rename(doomed)  # at once, or not at all
        shutil.rmtree(doomed)


def _key(stage: StageDir) -> str:
    return stage.key.read_text() if stage.key.is_file() else ""


def _begun(path: Path) -> bool:
    """Whether there is anything but what `write_stage_key` leaves when it is killed."""
    return path.is_dir() and any(inner.name != f"{StageDir(path).key.name}.partial" for inner in path.iterdir())


def clear_ready(folder: Path) -> None:
    """Take back what an earlier launch announced (rank 0, first of all)."""
    RunDir(folder).ready.unlink(missing_ok=True)


def signal_ready(folder: Path) -> None:
    """Tell the other ranks that everything was checked and the data are there (rank 0)."""
    atomic_write(RunDir(folder).ready, _launch())


def await_ready(folder: Path, *, limit: float = PREPARATION_LIMIT) -> None:
    """Wait for it, so that no rank's patience with the others runs out while rank 0 prepares data.

    A launcher ends this process when rank 0 fails. What an earlier launch at the same address announced may be taken
    for this one's, if rank 0 is late: then this rank waits where it joins the others, which has its own limit.

    Raises:
        TimeoutError: after `limit` seconds.
    """
    deadline = time.monotonic() + limit
    while not _is_ready(folder):
        if time.monotonic() > deadline:
            raise TimeoutError(f"rank 0 hasn't prepared {folder} within {limit / 3600:g} hours")
        time.sleep(0.2)


def _is_ready(folder: Path) -> bool:
    try:
        return RunDir(folder).ready.read_text() == _launch()
    except OSError:  # it isn't there, or is being replaced
        return False


def _launch() -> str:
    """What the ranks of one launch have in common."""
    names = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT")
    return " ".join(os.environ.get(name, "-") for name in names)


def write_stage_key(folder: Path, key: str) -> None:
    """Note the key of what is about to be made in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic_write(StageDir(folder).key, key)
