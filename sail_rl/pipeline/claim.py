"""Making a folder a recipe's: a new run, the same run going on, or one of which only what changed is done again."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import yaml

from sail_rl.config import Recipe
from sail_rl.config.recipe import BASE
from sail_rl.files import write_whole
from sail_rl.recipe import dump_recipe, essence
from sail_rl.reporting.log import forget_stages
from sail_rl.reporting.store import FOLDER as ROLLOUTS

logger = logging.getLogger(__name__)
KEY = "key"
CLOCK_SKEW = 300.0  # seconds by which machines and their starts may differ
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


def claim_folder(recipe: Recipe, *, fresh: bool, redo: bool) -> None:
    """Make the output folder this recipe's, or refuse.

    Raises:
        ValueError: it holds another recipe's run, or isn't a run's.
    """
    folder, resolved = recipe.output_dir, dump_recipe(recipe)
    written = folder / "recipe.yaml"
    if fresh and folder.exists():
        if not written.exists() and any(
            path.name != "data" for path in folder.iterdir()
        ):  # `check` may have made these
            raise ValueError(
                f"{folder} is not the folder of a run (it has no recipe.yaml), so --fresh does not delete it"
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if written.exists() and not redo:
        before, now = essence(yaml.safe_load(written.read_text())), essence(yaml.safe_load(resolved))
        if before != now:
            raise ValueError(
                f"{folder} holds a run of another recipe (see {written}); give output_dir=…, --redo to do again only "
                "the stages that change, or --fresh to delete that run"
            )
    write_whole(written, resolved)
    versions = {"python": sys.version.split()[0]} | {name: version(name) for name in PACKAGES}
    write_whole(folder / "versions.json", json.dumps(versions, indent=2) + "\n")


def settle_stages(recipe: Recipe, keys: Mapping[str, str], *, redo: bool) -> None:
    """Compare what is there with the keys of now: with `redo` what has another key is deleted, without it refused.

    Raises:
        ValueError: naming the stages that would come out otherwise.
    """
    folder = recipe.output_dir
    stages = [path for path in (folder / "stages").glob("*") if path.is_dir()]
    there = {path.name: (path / KEY).read_text() for path in stages if (path / KEY).is_file()}
    if redo:  # without a key nothing is known of what it was made of
        there |= {path.name: "" for path in stages if path.name not in there}
    if (base := folder / BASE / KEY).is_file():
        there[BASE] = base.read_text()
    stale = [name for name, key in there.items() if keys.get(name) != key]
    if stale and not redo:
        raise ValueError(
            f"{folder}: what {', '.join(stale)} depends on changed since it was run (data, rewards or model); --redo "
            "does it again and keeps the rest, output_dir=… starts a run beside this one"
        )
    if redo:  # the records first: a kill in between leaves stages to be deleted the next time
        (folder / "summary.json").unlink(missing_ok=True)
        forget_stages(folder, kept=[stage.name for stage in recipe.stages if stage.name not in stale])
    for name in stale:
        logger.info("%s is done again: what it depends on changed", name)
        shutil.rmtree(folder / BASE if name == BASE else folder / "stages" / name)
        shutil.rmtree(folder / ROLLOUTS / name, ignore_errors=True)


PREPARED = "PREPARED"
PREPARATION_LIMIT = 24 * 3600.0
"""Seconds that rank 0 may take to fetch, build and curate data before the other ranks give up."""


def announce(folder: Path) -> None:
    """Tell the other ranks that everything was checked and the data are there (rank 0)."""
    (folder / PREPARED).touch()


def await_announcement(folder: Path, *, limit: float = PREPARATION_LIMIT) -> None:
    """Wait for it, so that no rank's patience with the others runs out while rank 0 prepares data.

    A launcher ends this process when rank 0 fails. What an earlier launch announced in the last minutes counts, too:
    then this rank waits when it joins the others, which has its own limit.

    Raises:
        TimeoutError: after `limit` seconds.
    """
    begun = time.time()
    while not (folder / PREPARED).is_file() or (folder / PREPARED).stat().st_mtime < begun - CLOCK_SKEW:
        if time.time() - begun > limit:
            raise TimeoutError(f"rank 0 hasn't prepared {folder} within {limit / 3600:g} hours")
        time.sleep(0.2)


def mark_stage(folder: Path, key: str) -> None:
    """Note the key of what is about to be made in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / KEY, key)
