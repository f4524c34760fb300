"""Writing files so that a kill leaves the old one or the new one, never half of one; and fingerprints."""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any


def write_whole(path: Path, text: str) -> None:
    """Write `text` to `path` under a temporary name, then rename it into place."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def short_hash(value: Any) -> str:
    """Twelve hexadecimal digits that depend on a JSON value, and on nothing else."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def signature(folder: Path) -> str:
    """Of a model's folder: names, sizes and times of its files, which is quick however large they are."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return short_hash([[str(f.relative_to(folder)), f.stat().st_size, f.stat().st_mtime_ns] for f in files])


def fingerprint(path: Path) -> str:
    """SHA-256 (hexadecimal) of a file, or of all files of a folder with their names."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return short_hash([[str(file.relative_to(path)), fingerprint(file)] for file in files])
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns)


@functools.cache
def _digest(path: Path, size: int, modified: int) -> str:
    """Of a file of this size and time of change, read once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
