"""Writes chosen rows of a dataset, with their images, to a new Parquet file."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from datasets import Dataset, Image, Json, List

from sail_rl.files import atomic_path

from .dataset import Rows
from .formats import alike

OURS = ("prompt", "images", "video", "completion")


def save_rows(
    path: Path,
    rows: Rows,
    indices: Sequence[int],
    columns: Mapping[str, Sequence[Any]] | None = None,
    *,
    without: Collection[str] = (),
) -> None:
    """Write the rows at these indices to `path` atomically.

    Args:
        path: a .parquet file.
        rows: the source rows. Their images are embedded unchanged, and paths of videos become absolute. Further columns
            keep their values exactly; those that Arrow would convert are stored as JSON.
        indices: the rows to write, in order; an index may be repeated.
        columns: columns to add or replace, with one value for each index.
        without: columns of the rows to leave out.
    """
    if path.suffix != ".parquet":
        raise ValueError(f"{path}: rows are written as Parquet; end the name in .parquet")
    if not indices:
        raise ValueError(f"{path}: no rows to write")
    made = []
    for position, index in enumerate(indices):
        kept = {name: value for name, value in rows.raw(index).items() if name not in without}
        row = kept | {name: values[position] for name, values in (columns or {}).items()}
        if "images" in row:
            row["images"] = [_embedded(image, rows.root) for image in row["images"] or []]
        if "video" in row:
            row["video"] = _absolute(row["video"], rows.root)
        made.append(alike(row))
    names = dict.fromkeys(name for row in made for name in row)
    values = {name: [row.get(name) for row in made] for name in names}
    texts = {name: held for name in names if name not in OURS and (held := _as_json(name, values[name]))}
    dataset = Dataset.from_dict(values | texts)
    for name in texts:
        dataset = dataset.cast_column(name, Json())
    if any(row.get("images") for row in made):
        dataset = dataset.cast_column("images", List(Image(decode=False)))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial:
        dataset.to_parquet(partial)


def _as_json(name: str, values: Sequence[Any]) -> list[str | None] | None:
    """The values as JSON texts if Arrow can't keep them exactly, such as values of several types; else None."""
    try:
        texts = [None if value is None else json.dumps(value) for value in values]
    except TypeError:  # bytes and dates, which come from Arrow
        return None
    try:
        array = pyarrow.array(values)
        kept = json.dumps(array.to_pylist(), sort_keys=True) == json.dumps(list(values), sort_keys=True)
    except OverflowError:
        raise ValueError(f"column {name!r}: an integer has more than 64 bits; write it as a text") from None
    except pyarrow.ArrowException:
        return texts
    return None if kept and "struct<>" not in str(array.type) else texts


def _absolute(video: Any, folder: Path) -> Any:
    """A video with absolute paths of its file or its frames."""
    if isinstance(video, list):
        return [_absolute(frame, folder) for frame in video]
    return str((folder / video).resolve()) if isinstance(video, str) else video


def _embedded(image: Any, folder: Path) -> dict[str, Any]:
    """An image as `datasets` stores it: its bytes, and the name of its file."""
    content, path = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (None, image)
    if content is None:
        content = (folder / str(path)).read_bytes()
    return {"bytes": content, "path": Path(path).name if path else None}
