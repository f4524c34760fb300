"""Atomic file writes, and hashes of files and folders."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any


def atomic_write(path: Path, text: str) -> None:
    """Write `text` to a temporary file, then rename it to `path`: readers see the old file or the new one."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def short_hash(value: Any) -> str:
    """Twelve hexadecimal digits that depend on a JSON value, and on nothing else."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


WHOLE = 2**20
BLOCKS, BLOCK = 16, 4096


def signature(folder: Path) -> str:
    """Of a model's folder: its small files whole, of large ones the size, the head and some blocks in between.

    So it is quick however large they are, and a copy has the same one.
    """
    return short_hash([[str(file.relative_to(folder)), _sampled(file)] for file in _files(folder)])


def fingerprint(path: Path) -> str:
    """SHA-256 (hexadecimal) of a file, or of all files of a folder with their names."""
    if path.is_dir():
        return short_hash([[str(file.relative_to(path)), fingerprint(file)] for file in _files(path)])
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns)


def _files(folder: Path) -> list[Path]:
    """All files but hidden ones, and those that `datasets` leaves there when it reads a folder."""
    found = sorted(file for file in folder.rglob("*") if file.is_file())
    parts = [(file, file.relative_to(folder).parts) for file in found]
    return [
        file
        for file, names in parts
        if not any(name.startswith(".") for name in names) and not re.fullmatch(r"cache-.*\.arrow|tmp.*", names[-1])
    ]


def _sampled(path: Path) -> str:
    size = path.stat().st_size
    if size <= WHOLE:
        return fingerprint(path)
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(BLOCKS):
            file.seek(number * (size - BLOCK) // (BLOCKS - 1))
            digest.update(file.read(BLOCK))
    return digest.hexdigest()


@functools.cache
def _digest(path: Path, size: int, modified: int) -> str:
    """Of a file of this size and time of change, read once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
