"""Which checkpoints can be resumed from: a folder counts only once its marker, written last, is there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

MARKER = "COMPLETE"


def mark_complete(checkpoint: Path) -> None:
    """Write the marker; everything else in the folder is on disk by now."""
    (checkpoint / MARKER).touch()


def newest_checkpoint(stage_dir: Path) -> tuple[Path, int] | None:
    """The newest complete checkpoint and its step, or None."""
    complete = [(path, step) for path, step in _checkpoints(stage_dir) if (path / MARKER).exists()]
    return max(complete, key=lambda found: found[1], default=None)


def remove_incomplete(stage_dir: Path) -> None:
    """Delete checkpoints that a killed run left half-written."""
    for path, _ in _checkpoints(stage_dir):
        if not (path / MARKER).exists():
            shutil.rmtree(path)


def _checkpoints(stage_dir: Path) -> list[tuple[Path, int]]:
    found = [(path, re.fullmatch(r"checkpoint-(\d+)", path.name)) for path in stage_dir.glob("checkpoint-*")]
    return [(path, int(match.group(1))) for path, match in found if match]
