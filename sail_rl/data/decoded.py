"""Remembers by their content which pictures could be decoded, so that a second check of the same ones is quick.

The file is `$XDG_CACHE_HOME/sail-rl/decoded-….txt` (by default in `~/.cache`), with a SHA-256 a line, for this version
of the package and of Pillow. It may be deleted at any time. A picture that changes has another hash, wherever it lies.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import PIL

import sail_rl

from .decoder import Medium
from .images import content_of

logger = logging.getLogger(__name__)


def cache_file() -> Path:
    """The file with the hashes."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return folder / "sail-rl" / f"decoded-{sail_rl.__version__}-pillow-{PIL.__version__}.txt"


class DecodedBefore:
    """The hashes of pictures and videos that could be decoded. Safe to use from several threads and processes."""

    def __init__(self) -> None:
        path = cache_file()
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self._file: IO[Any] | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)  # a line is one write, which the system appends as a whole
            self._known = set(path.read_text("ascii", "replace").split("\n"))
        except OSError as error:
            logger.info("%s: %s; decoded pictures aren't remembered", path, error.strerror)

    def key(self, medium: Medium) -> str:
        """The SHA-256 of the bytes of a picture; of a video also the number of frames, and the version of PyAV.

        Raises:
            BrokenPictureError: the file can't be read.
        """
        with content_of(medium.source, medium.folder) as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]
        return f"{digest}-{medium.frames}-{_av_version()}" if medium.frames else digest

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def add(self, key: str) -> None:
        """Remember a picture or video that could be decoded."""
        with self._lock:
            self._known.add(key)
            if self._file:
                self._file.write(f"\n{key}\n".encode())  # the first break ends a line that was cut by a kill

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()


def _av_version() -> str:
    try:
        return version("av")
    except PackageNotFoundError:
        return "none"
