"""Atomic file writes, and hashes of files and folders."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

StrPath = str | os.PathLike[str]


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path for a file or folder, which becomes `path` when the block ends without an error."""
    partial = path.with_name(path.name + ".partial")
    if partial.is_dir():  # left by a kill
        shutil.rmtree(partial)
    yield partial
    partial.replace(path)


def atomic_write(path: Path, text: str) -> None:
    """Write `text` to a temporary file, then rename it to `path`: readers see the old file or the new one."""
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def short_hash(value: Any) -> str:
    """The first twelve hexadecimal digits of the SHA-256 of a JSON value."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


SMALL_FILE = 2**20  # bytes up to which a file is read completely
BLOCKS, BLOCK = 16, 4096  # blocks read of a larger file, and their bytes


def sampled_hash(folder: Path) -> str:
    """Hash of a model's folder: all of its small files, and the size and sampled blocks of its large ones.

    It is therefore fast for checkpoints of any size, and a copy has the same hash.
    """
    return short_hash([[str(file.relative_to(folder)), _sampled(file)] for file in _files(folder)])


def content_hash(path: Path) -> str:
    """SHA-256 (hexadecimal) of a file, or of all files of a folder with their names.

    Raises:
        ValueError: the path is a pipe, socket or device, which may never end.
    """
    if path.is_dir():
        return short_hash([[str(file.relative_to(path)), content_hash(file)] for file in _files(path)])
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path}: neither a file nor a folder, but a pipe, socket or device")
    return _digest(path, status.st_size, status.st_mtime_ns)


def _files(folder: Path) -> list[Path]:
    """All files except hidden ones and the caches that `datasets` writes when it reads a folder."""
    found = sorted(file for file in folder.rglob("*") if file.is_file())
    parts = [(file, file.relative_to(folder).parts) for file in found]
    return [
        file
        for file, names in parts
        if not any(name.startswith(".") for name in names) and not re.fullmatch(r"cache-.*\.arrow|tmp.*", names[-1])
    ]


def _sampled(path: Path) -> str:
    size = path.stat().st_size
    if size <= SMALL_FILE:
        return content_hash(path)
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(BLOCKS):
            file.seek(number * (size - BLOCK) // (BLOCKS - 1))
            digest.update(file.read(BLOCK))
    return digest.hexdigest()


@functools.cache
def _digest(path: Path, size: int, modified: int) -> str:
    """SHA-256 of a file, computed once for each size and modification time."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
