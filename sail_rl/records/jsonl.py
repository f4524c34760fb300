"""JSON-lines files that survive kills; a record is complete once its newline is written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sail_rl.files import atomic_write

Record = dict[str, Any]


def append_jsonl(path: Path, record: Mapping[str, Any]) -> None:
    """Append one record and flush it to the operating system; an incomplete last line is removed first.

    NaN and infinities become null, because JSON lacks them and other readers fail on them.
    """
    line = json.dumps(finite(record), ensure_ascii=False, allow_nan=False) + "\n"
    with path.open("ab+") as file:
        _cut_torn_line(path, file.tell())
        file.write(line.encode())


def read_jsonl(path: Path) -> list[Record]:
    """All records of a file, without an incomplete last line; empty if the file is missing.

    Raises:
        ValueError: if a complete line isn't a JSON object; names file and line.
    """
    if not path.exists():
        return []
    records = []
    *lines, _torn = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError as error:  # includes bytes that aren't UTF-8
            raise ValueError(f"{path}, line {number}: not JSON ({error}); repair or delete that line") from error
        if not isinstance(record, dict):
            raise ValueError(f"{path}, line {number}: not a JSON object but {line[:40]!r}; repair or delete that line")
        records.append(record)
    return records


def read_json(path: Path) -> Record:
    """The JSON object in a file; {} if the file is missing."""
    found: Record = json.loads(path.read_text()) if path.exists() else {}
    return found


def keep_records(path: Path, wanted: Callable[[Record], bool]) -> int:
    """Atomically rewrite `path` with the `wanted` records; returns the number of dropped ones."""
    if not path.exists():
        return 0
    records = read_jsonl(path)
    kept = [record for record in records if wanted(record)]
    atomic_write(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept))
    return len(records) - len(kept)


def finite(value: Any) -> Any:
    """`value` with every NaN and infinity, at any depth, replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def _cut_torn_line(path: Path, size: int) -> None:
    """Shorten a file of `size` bytes to its last newline."""
    if size == 0:
        return
    with path.open("rb+") as file:
        file.seek(size - 1)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
