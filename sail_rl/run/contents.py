"""The deletion of what runs write: nothing else in a run's folder is touched, and no link is followed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from sail_rl.records.store import SHARD
from sail_rl.run_dir import PARTIAL, RunDir, StageDir

DERIVED = re.compile(r".+-[0-9a-f]{12}\.\w.*|[\w-]+\.broken\.jsonl")
"""Names of fetched and curated datasets, of what curation writes beside them, and of lists of dropped rows."""
PICTURE = re.compile(r"[0-9a-f]{24}\.png")
"""Names of the pictures in traces."""


def delete_run(run: RunDir) -> None:
    """Delete what a run has written into its folder, except the recipe and versions that mark the folder.

    A kill in between leaves stages that count as changed, because their keys are deleted first.

    Raises:
        ValueError: for a link in place of a file or folder of the run, before anything is deleted.
    """
    stages = [StageDir(path) for path in _folders(run.stages)]
    written = run.written()
    for path in (*written, *(path for stage in stages for path in stage.written())):
        if path.is_symlink():
            raise ValueError(f"{path} is a link, and --fresh follows no links; delete it first, or give another folder")
    run.summary.unlink(missing_ok=True)
    for stage in stages:
        delete_stage(stage)
    for folder in _folders(run.rollouts):
        delete_rollouts(folder)
    _delete_data(run)
    _delete_matching(run.trace_images, PICTURE.fullmatch)
    _delete_matching(run.curves, re.compile(r"\w+\.png").fullmatch)
    shared = (run.stages, run.rollouts, run.data, run.trace_images, run.curves)
    kept = (run.lock, run.recipe, run.versions)
    for path in shared:
        _remove_if_empty(path)
    _delete(path for path in written if path not in (*shared, *kept))


def delete_stage(stage: StageDir) -> None:
    """Delete what a stage has written, its key first; files of the user stay, with the folder."""
    _delete(stage.written())
    _remove_if_empty(stage.root)


def delete_rollouts(folder: Path) -> None:
    """Delete the stored rollouts of one stage."""
    _delete_matching(folder, SHARD.fullmatch)


def _delete_data(run: RunDir) -> None:
    """Delete the datasets that a builder wrote, or that were fetched or curated."""
    if run.data_manifest.is_file():
        _delete(run.data / name for name in json.loads(run.data_manifest.read_text())["written"])
        _delete([run.data_manifest])
    _delete_matching(run.data, DERIVED.fullmatch)


def _delete_matching(folder: Path, matches: Callable[[str], object]) -> None:
    """Delete the entries of a folder whose names match, finished or not, and the folder if it is then empty."""
    if folder.is_dir() and not folder.is_symlink():
        _delete(path for path in list(folder.iterdir()) if matches(path.name.removesuffix(PARTIAL)))
        _remove_if_empty(folder)


def _delete(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _folders(parent: Path) -> list[Path]:
    """The folders in `parent`, without links."""
    return [path for path in parent.iterdir() if path.is_dir() and not path.is_symlink()] if parent.is_dir() else []


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
        folder.rmdir()
