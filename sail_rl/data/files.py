"""Reads datasets from disk: JSON, CSV, Parquet and Arrow files, folders of Parquet files, and folders of pictures."""

from __future__ import annotations

import bz2
import gzip
import json
import mmap
import stat
import zlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
from datasets import Audio, Dataset, Features, Image, LargeList, List, Video, load_from_disk
from datasets.exceptions import DatasetGenerationError
from pyarrow import ipc, parquet

from .text_rows import Content, TextRows, csv_rows, in_utf8, json_rows

TEXTS: dict[str, Callable[[Content], TextRows]] = {
    ".jsonl": json_rows,
    ".json": json_rows,
    ".csv": lambda content: csv_rows(content, ","),
    ".tsv": lambda content: csv_rows(content, "\t"),
}
COMPRESSED: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\x28\xb5\x2f\xfd": lambda path: pyarrow.input_stream(str(path), compression="zstd"),
}
"""How compressed files begin, and what opens them: gzip, bzip2 and Zstandard."""
ENDINGS = (".gz", ".bz2", ".zst")
KNOWN = (*TEXTS, ".parquet", ".arrow")
IN_MEMORY = 2 * 2**30  # bytes; larger files are memory-mapped, Parquet from a copy in the cache of `datasets`
METADATA = "metadata.jsonl"


def load_file(path: Path) -> tuple[Dataset | TextRows, Path]:
    """The rows of a file or folder with undecoded images, and the folder to which its paths are relative.

    A JSON file holds one object a line, or one list of objects. The first line of a CSV or TSV file names its columns.
    These files may be compressed (.gz, .bz2, .zst). A folder is the output of `Dataset.save_to_disk`, a set of Parquet
    files, or pictures with a `metadata.jsonl` that names each row's picture in `file_name` (the "imagefolder" of
    `datasets`).

    Raises:
        ValueError: names the file and the problem.
    """
    is_folder = stat.S_ISDIR(_mode(path))
    dataset = _folder(path) if is_folder else _file(path)
    if len(dataset) == 0:
        raise ValueError(f"{path}: the dataset has no rows")
    return _undecoded(dataset), path if is_folder else path.parent


def _mode(path: Path) -> int:
    """The mode of a file or folder; ValueError for anything else, and if there is nothing."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        hint = "; a pattern isn't expanded: give a folder of Parquet files" if "*" in path.name else ""
        raise ValueError(f"{path}: no such dataset file{hint}") from None
    except (OSError, ValueError) as error:  # a loop of links, a name that is too long or has a NUL
        raise ValueError(f"{str(path)!r:.200}: {getattr(error, 'strerror', error)}") from None
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise ValueError(f"{path}: neither a file nor a folder, but a pipe, socket or device")
    return mode


def _file(path: Path) -> Dataset | TextRows:
    suffix = _suffix(path)
    if suffix not in KNOWN:
        raise ValueError(
            f"{path}: unknown file extension {suffix!r}; give one of {', '.join(KNOWN)} (texts may be compressed: "
            f"{', '.join(ENDINGS)}), or a folder"
        )
    with _naming(path):
        if path.stat().st_size == 0:  # libraries fail on an empty file with internal errors
            return TextRows(b"", array("Q"), {})
        if read := TEXTS.get(suffix):
            return read(in_utf8(_content(path)))
        return _arrow(path) if suffix == ".arrow" else _parquet([path])


def _suffix(path: Path) -> str:
    """The extension in small letters, without that of a compression."""
    name = path.name.lower()
    inner = name.rpartition(".")[0] if name.endswith(ENDINGS) else name
    return Path(inner).suffix


def _content(path: Path) -> Content:
    """The bytes of a file, decompressed if it is compressed, whatever its name."""
    with path.open("rb") as file:
        start = file.read(4)
        for magic, opened in COMPRESSED.items():
            if start.startswith(magic):
                return _decompressed(path, opened)
        file.seek(0)
        if path.stat().st_size < IN_MEMORY:
            return file.read()
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _decompressed(path: Path, opened: Callable[[Path], Any]) -> bytes:
    with opened(path) as file:
        content = file.read(IN_MEMORY)
        if len(content) == IN_MEMORY:
            raise ValueError(f"the file has more than {IN_MEMORY >> 30} GiB of text; decompress it")
    return content


def _arrow(path: Path) -> Dataset:
    with path.open("rb") as file:
        if file.read(6) != b"ARROW1":
            return Dataset.from_file(str(path))  # a stream, as `datasets` writes
    return Dataset(ipc.open_file(pyarrow.memory_map(str(path))).read_all())


def _parquet(shards: list[Path]) -> Dataset | TextRows:
    rows = 0
    for shard in shards:
        with _naming(shard):
            rows += parquet.read_metadata(shard).num_rows
            names = parquet.read_schema(shard).names
            if repeated := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"the column {repeated[0]!r} is there twice; keep one")
    if not rows:
        return TextRows(b"", array("Q"), {})
    size = sum(shard.stat().st_size for shard in shards)
    dataset = Dataset.from_parquet([str(shard) for shard in shards], keep_in_memory=size < IN_MEMORY)
    assert isinstance(dataset, Dataset)
    return dataset


def _folder(path: Path) -> Dataset | TextRows:
    with _naming(path):
        if (path / "state.json").is_file():
            return load_from_disk(str(path))
        if shards := sorted(path.glob("*.parquet")):
            return _parquet(shards)
        if (splits := path / "dataset_dict.json").is_file():
            names = ", ".join(map(str, json.loads(splits.read_text())["splits"]))
            raise ValueError(f"the folder has the splits {names}; give the folder of one, such as {path}/train")
    if (path / METADATA).is_file():
        dataset = _file(path / METADATA)
        return dataset.rename_column("file_name", "image") if "file_name" in dataset.column_names else dataset
    raise ValueError(f"{path}: neither a folder of `save_to_disk`, nor one with Parquet files or {METADATA}")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file in the errors of all libraries that read it."""
    try:
        yield
    except (ValueError, TypeError, KeyError, OSError, EOFError, zlib.error, DatasetGenerationError) as error:
        cause: Any = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
        reason = getattr(cause, "strerror", None) or str(cause)
        if reason.startswith(str(path)):  # named by an inner call
            raise
        separator = ", " if reason.startswith(("row ", "after row ")) else ": "
        raise ValueError(f"{path}{separator}{' '.join(reason.split()):.300}") from error


def _undecoded(dataset: Dataset | TextRows) -> Dataset | TextRows:
    """The dataset with undecoded media; we decode images ourselves, so that errors can name the row."""
    if isinstance(dataset, TextRows):
        return dataset
    features = Features({name: _raw(feature) for name, feature in dataset.features.items()})
    return dataset if features == dataset.features else dataset.cast(features)


def _raw(feature: Any) -> Any:
    """The feature with undecoded media, at any depth."""
    if isinstance(feature, dict):
        return {name: _raw(inner) for name, inner in feature.items()}
    if isinstance(feature, List | LargeList):
        return replace(feature, feature=_raw(feature.feature))
    return replace(feature, decode=False) if isinstance(feature, Image | Video | Audio) else feature
