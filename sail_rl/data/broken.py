"""Decodes all pictures of a dataset before anything else is done with them, and finds the rows with broken ones."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sail_rl.files import atomic_write

from .dataset import Rows
from .decoder import Medium
from .decoding import decoded
from .video import sample_indices

logger = logging.getLogger(__name__)
NAMED = 5  # broken rows that an error or a warning names
LINE_SECONDS = 10.0


def checked_pictures(rows: Rows, *, dropped: Path | None = None) -> Rows:
    """The rows whose pictures and videos can be decoded, of a dataset that was opened with or without broken ones.

    Args:
        rows: the dataset.
        dropped: the file that lists the rows with broken pictures, `{"row": …, "reason": …}` a line; it is written only
            if there are some. None: such rows are errors.

    Raises:
        ValueError: names the first rows with broken pictures, if `dropped` is None, or if no row is left.
    """
    broken = dict(sorted((dict(rows.broken) | _undecodable(rows)).items()))
    if dropped:
        dropped.unlink(missing_ok=True)
    if not broken:
        return rows
    total = len(rows) + len(rows.broken)
    named = "; ".join(f"row {number}: {reason}" for number, reason in list(broken.items())[:NAMED])
    rest = f"; and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
    if not dropped or len(broken) == total:
        remedy = "" if dropped else "; mend them, or let the recipe drop such rows (`broken: drop`)"
        raise ValueError(f"{rows.path}: {len(broken)} of {total} rows have broken pictures: {named}{rest}{remedy}")
    dropped.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"row": number, "reason": reason}) for number, reason in broken.items())
    atomic_write(dropped, "".join(f"{line}\n" for line in lines))
    logger.warning(
        "%s: dropped %d of %d rows with broken pictures, which %s lists: %s%s",
        *(rows.path, len(broken), total, dropped, named, rest),
    )
    return rows.without([index for index in range(len(rows)) if rows.number(index) in broken])


def _undecodable(rows: Rows) -> dict[int, str]:
    """What is wrong with the pictures of each row (by its number), if anything is. Each file is decoded once."""
    users: dict[tuple[str, int], list[int]] = {}

    def media() -> Iterator[tuple[list[int], Medium]]:
        with _progress(rows) as show:
            for index in range(len(rows)):
                show(index)
                number = rows.number(index)
                for medium in _media(rows.raw(index), rows):
                    file = (str(medium.source), medium.frames)
                    if isinstance(medium.source, str) and file in users:
                        users[file].append(number)
                        continue
                    numbers = [number]
                    if isinstance(medium.source, str):
                        users[file] = numbers
                    yield numbers, medium

    found = [(numbers, wrong) for numbers, wrong in decoded(media()) if wrong]
    broken: dict[int, str] = {}
    for numbers, wrong in found:
        for number in numbers:
            broken.setdefault(number, wrong)
    return broken


def _media(row: Mapping[str, Any], rows: Rows) -> Iterator[Medium]:
    """The row's pictures, the frames that are sampled of its list of frames, or its video file."""
    pictures, video = row.get("images", ()), row.get("video")
    if isinstance(video, str):
        yield Medium(video, rows.root, frames=rows.video_frames)
        return
    if video:
        pictures = [video[index] for index in sample_indices(len(video), rows.video_frames)]
    for source in pictures:
        if not isinstance(source, Image.Image):
            yield Medium(source, rows.root)


@contextmanager
def _progress(rows: Rows) -> Iterator[Any]:
    """A function that shows how many rows were checked: as a bar on a terminal, else in a line every few seconds."""
    what, total = f"pictures of {rows.path.name}", len(rows)
    if sys.stderr.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    last = time.monotonic()

    def line(done: int) -> None:
        nonlocal last
        if time.monotonic() - last > LINE_SECONDS:
            last = time.monotonic()
            logger.info("%s: %d of %d rows decoded", what, done, total)

    yield line
