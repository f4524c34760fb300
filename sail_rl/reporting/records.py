"""JSON-lines files that survive a kill: appended line by line, read without a torn last line, rolled back on resume."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Append one line and hand it to the operating system, so that killing this process loses nothing.

    Numbers that JSON can't hold (NaN, infinity) become null.
    """
    with path.open("a") as file:
        file.write(json.dumps({name: _finite(value) for name, value in record.items()}, ensure_ascii=False) + "\n")


def read_records(path: Path) -> list[dict[str, Any]]:
    """All records; a torn last line (a killed writer's) is left out.

    Raises:
        ValueError: for a broken line anywhere else, naming file and line.
    """
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    records = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is empty or torn
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not a JSON record ({error})") from error
    return records


def keep_records(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrite the file with only the records that are `wanted`, all or nothing."""
    if path.exists():
        kept = [record for record in read_records(path) if wanted(record)]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept))
        partial.replace(path)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    return value
