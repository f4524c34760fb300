"""Reads datasets from disk: JSONL, Parquet and Arrow files, folders of Parquet files, and folders of pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
from datasets import Dataset, List, load_from_disk
from datasets import Image as ImageFeature
from datasets.exceptions import DatasetGenerationError

LOADERS = {
    ".parquet": Dataset.from_parquet,
    ".jsonl": Dataset.from_json,
    ".json": Dataset.from_json,
    ".arrow": Dataset.from_file,
}
IN_MEMORY = 2 * 2**30  # bytes; larger files are memory-mapped from a copy in the cache of `datasets`
METADATA = "metadata.jsonl"


def load_file(path: Path) -> tuple[Dataset, Path]:
    """The rows of a file or folder with undecoded images, and the folder to which its paths are relative.

    A folder is the output of `Dataset.save_to_disk`, a set of Parquet files, or pictures with a `metadata.jsonl` that
    names each row's picture in `file_name` (the "imagefolder" of `datasets`).

    Raises:
        ValueError: names the file and the problem.
    """
    if path.is_dir():
        dataset = _folder(path)
    elif path.suffix not in LOADERS:
        raise ValueError(
            f"{path}: unknown file extension {path.suffix!r}; give one of {', '.join(LOADERS)}, or a folder"
        )
    elif not path.is_file():
        raise ValueError(f"{path}: no such dataset file")
    else:
        dataset = _file(path)
    if len(dataset) == 0:
        raise ValueError(f"{path}: the dataset has no rows")
    return _undecoded(dataset), path if path.is_dir() else path.parent


def _file(path: Path) -> Dataset:
    size = path.stat().st_size
    if size == 0:  # `datasets` fails on an empty file with an internal error
        return Dataset.from_dict({})
    if path.suffix == ".arrow":
        return Dataset.from_file(str(path))
    try:
        return LOADERS[path.suffix](str(path), keep_in_memory=size < IN_MEMORY)
    except (DatasetGenerationError, pyarrow.ArrowInvalid, TypeError) as error:
        if path.suffix == ".jsonl":
            _check_lines(path)
        raise ValueError(f"{path}: {error}") from error


def _check_lines(path: Path) -> None:
    """Raise ValueError that names the first line that isn't a JSON object."""
    with path.open() as file:
        for number, line in enumerate(file):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, row {number}: not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, row {number}: a {type(row).__name__} instead of an object")


def _folder(path: Path) -> Dataset:
    if (path / "state.json").is_file():
        dataset = load_from_disk(str(path))
        assert isinstance(dataset, Dataset)
        return dataset
    if shards := sorted(path.glob("*.parquet")):
        size = sum(shard.stat().st_size for shard in shards)
        dataset = Dataset.from_parquet([str(shard) for shard in shards], keep_in_memory=size < IN_MEMORY)
        assert isinstance(dataset, Dataset)
        return dataset
    if (path / METADATA).is_file():
        dataset = _file(path / METADATA)
        return dataset.rename_column("file_name", "image") if "file_name" in dataset.column_names else dataset
    raise ValueError(f"{path}: neither a folder of `save_to_disk`, nor one with Parquet files or {METADATA}")


def _undecoded(dataset: Dataset) -> Dataset:
    """The dataset with undecoded images; we decode them ourselves, so that errors can name the row."""
    for name, feature in dataset.features.items():
        if isinstance(feature, ImageFeature):
            dataset = dataset.cast_column(name, ImageFeature(decode=False))
        elif isinstance(feature, List) and isinstance(feature.feature, ImageFeature):
            dataset = dataset.cast_column(name, List(ImageFeature(decode=False)))
    return dataset
