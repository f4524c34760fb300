"""Writes chosen rows of a dataset, with their images, to a new Parquet file."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, Image, List

from sail_rl.files import atomic_path

from .dataset import Rows
from .formats import alike


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
        rows: the source rows. Their images are embedded unchanged, and paths of videos become absolute.
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
        if row.get("image") is not None:
            row["image"] = _embedded(row["image"], rows.root)
        if isinstance(row.get("video"), str):
            row["video"] = str((rows.root / row["video"]).resolve())
        made.append(alike(row))
    names = dict.fromkeys(name for row in made for name in row)
    dataset = Dataset.from_dict({name: [row.get(name) for row in made] for name in names})
    for name, feature in (("images", List(Image(decode=False))), ("image", Image(decode=False))):
        if name in dataset.column_names and any(row.get(name) for row in made):
            dataset = dataset.cast_column(name, feature)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial:
        dataset.to_parquet(partial)


def _embedded(image: Any, folder: Path) -> dict[str, Any]:
    """An image as `datasets` stores it: its bytes, and the name of its file."""
    content, path = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (None, image)
    if content is None:
        content = (folder / str(path)).read_bytes()
    return {"bytes": content, "path": Path(path).name if path else None}
