"""Writing chosen rows of a dataset as a Parquet file of its own, with the images inside."""

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
    """Write the rows at these indices (an index may stand there more than once) to `path`.

    Args:
        path: a .parquet file; it appears when it is whole.
        rows: where they are from. Images are embedded as they were stored; a video's path is made absolute.
        indices: which rows, in which order.
        columns: further columns, or others in the place of the rows' own; one value for each index.
        without: the rows' columns that are left out.
    """
    if path.suffix != ".parquet":
        raise ValueError(f"{path}: rows are written as Parquet; end the name in .parquet")
    if not indices:
        raise ValueError(f"{path}: there is no row to write")
    made = []
    for place, index in enumerate(indices):
        stored = {name: value for name, value in rows.stored(index).items() if name not in without}
        row = stored | {name: values[place] for name, values in (columns or {}).items()}
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
    """As datasets stores an image: its bytes, and the name of its file."""
    content, path = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (None, image)
    if content is None:
        content = (folder / str(path)).read_bytes()
    return {"bytes": content, "path": Path(path).name if path else None}
