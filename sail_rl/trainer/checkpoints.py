"""Complete checkpoints: those with a marker, written last, that lists the sizes of all files."""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path

from sail_rl.files import atomic_write

logger = logging.getLogger(__name__)
MARKER = "COMPLETE"


def mark_complete(checkpoint: Path) -> None:
    """Write the marker with the size of every file; all other files of the checkpoint must be on disk."""
    atomic_write(checkpoint / MARKER, json.dumps(_sizes(checkpoint), indent=1))


def newest_checkpoint(stage_dir: Path) -> tuple[Path, int] | None:
    """The newest complete checkpoint and its step, or None."""
    return max(complete_checkpoints(stage_dir), key=lambda found: found[1], default=None)


def complete_checkpoints(stage_dir: Path) -> list[tuple[Path, int]]:
    """All complete checkpoints with their steps."""
    return [(path, step) for path, step in _checkpoints(stage_dir) if not _damage(path)]


def remove_unusable(stage_dir: Path) -> None:
    """Delete incomplete and damaged checkpoints, with a warning for each."""
    for path, _ in _checkpoints(stage_dir):
        if problem := _damage(path):
            logger.warning("deleting the unusable checkpoint %s: %s", path, problem)
            shutil.rmtree(path)


def _damage(checkpoint: Path) -> str | None:
    """The reason why a checkpoint is unusable, or None."""
    try:
        expected = json.loads((checkpoint / MARKER).read_text())
    except (OSError, ValueError):
        return "it is incomplete"
    found = _sizes(checkpoint)
    for name, size in expected.items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != size:
            return f"{name} has {found[name]} bytes instead of {size}"
    return None


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file but the marker, by its path within the folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MARKER)
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def _checkpoints(stage_dir: Path) -> list[tuple[Path, int]]:
    found = [(path, re.fullmatch(r"checkpoint-(\d+)", path.name)) for path in stage_dir.glob("checkpoint-*")]
    return [(path, int(match.group(1))) for path, match in found if match]
