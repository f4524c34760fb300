"""The completions that `sail-rl reward test` scores: from a file, or from the stored rollouts of a run."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sail_rl.contracts import Message, Prompt, Rollout

WORD = re.compile(r"\w+|[^\w\s]")
NOT_COLUMNS = ("prompt", "completion", "images", "completion_ids")


@dataclass(frozen=True, slots=True)
class RewardExamples:
    """Completions for a reward to score; `prompts`, `rollouts`, `locations` and `expected` have one entry each [N].

    `locations` tells where each completion comes from, for messages. `expected` is the score that it should get, or
    None.
    """

    prompts: list[Prompt]
    rollouts: list[Rollout]
    locations: list[str]
    expected: list[float | None]
    words_for_tokens: bool
    """True if the data has no token ids, so that words stand in for tokens."""

    def __len__(self) -> int:
        return len(self.rollouts)


def read_examples(path: Path, *, stage: str | None = None, step: int | None = None) -> RewardExamples:
    """The completions in a file, or those stored in a run's folder.

    A file's rows have `prompt` (text, or a list of messages), `completion` (likewise), perhaps `images`,
    `completion_ids`, `expected` (the score that it should get), and any columns that rewards read, such as `answer`.

    Raises:
        ValueError: there is nothing to read, or a row is unusable; the message names file and row.
    """
    if path.is_dir():
        return _stored(path, stage=stage, step=step)
    rows = _read_rows(path)
    if not rows:
        raise ValueError(f"{path} is empty")
    for needed in ("prompt", "completion"):
        if not any(needed in row for row in rows):
            raise ValueError(f"{path} has no column {needed!r} among {', '.join(rows[0])}")
    locations = [f"{path.name}, row {number}" for number in range(1, len(rows) + 1)]
    prompts, rollouts = [], []
    for row, location in zip(rows, locations, strict=True):
        prompts.append(_prompt(row, location, path.parent))
        rollouts.append(_rollout(row, location))
    expected = [_label(row.get("expected"), location) for row, location in zip(rows, locations, strict=True)]
    return RewardExamples(prompts, rollouts, locations, expected, not all("completion_ids" in row for row in rows))


def read_expected(path: Path, count: int) -> list[float | None]:
    """The expected scores in a file, in the order of the completions.

    JSON files hold a list, or `{"scores": [...]}` as `--json` writes it; JSONL and Parquet files hold rows with
    `expected` or `score`, or plain numbers; other files hold one number on each line. null or an empty line expects
    nothing.

    Raises:
        ValueError: if there are not as many as completions, or one isn't a number.
    """
    if not path.is_file():
        raise ValueError(f"no file {path} of expected scores")
    if path.suffix in (".json", ".jsonl", ".parquet"):
        rows: Sequence[Any] = _read_rows(path)
    else:
        rows = [line.strip() or None for line in path.read_text().splitlines()]
    values = [row.get("expected", row.get("score")) if isinstance(row, dict) else row for row in rows]
    if len(values) != count:
        raise ValueError(f"{path} has {len(values)} expected scores for {count} completions")
    return [_label(value, f"{path.name}, row {number}") for number, value in enumerate(values, start=1)]


def _read_rows(path: Path) -> list[Any]:
    if not path.is_file():
        raise ValueError(f"no file or run folder {path}")
    if path.suffix == ".parquet":
        from pyarrow import parquet

        return list(parquet.read_table(path).to_pylist())
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        content = content.get("scores") if isinstance(content, dict) else content
        if not isinstance(content, list):
            raise ValueError(f"{path} holds no list")
        return content
    if path.suffix != ".jsonl":
        raise ValueError(f"{path}: give a .jsonl, .json or .parquet file, or the folder of a run")
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: not JSON: {error}") from None
    return rows


def _prompt(row: Any, location: str, folder: Path) -> Prompt:
    if not isinstance(row, dict):
        raise ValueError(f"{location}: a row is an object with `prompt` and `completion`, not {row!r:.60}")
    text = _text(row, "prompt", location)
    given = row["prompt"]
    messages: list[Message] = [{"role": "user", "content": given}] if isinstance(given, str) else given
    images = []
    if row.get("images"):
        from sail_rl.data.images import open_picture

        try:
            images = [open_picture(source, folder) for source in row["images"]]
        except ValueError as error:
            raise ValueError(f"{location}: {error}") from None
    columns = {name: value for name, value in row.items() if name not in NOT_COLUMNS}
    return Prompt(str(row.get("id", location)), messages, text, images, columns)


def _rollout(row: dict[str, Any], location: str) -> Rollout:
    text = _text(row, "completion", location)
    ids = row.get("completion_ids")
    if ids is None:
        ids = [zlib.crc32(word.encode()) % 50_000 for word in WORD.findall(text)]
    return Rollout(str(row.get("id", location)), 0, list(ids), [0.0] * len(ids), text, "stop", 0)


def _text(row: dict[str, Any], column: str, location: str) -> str:
    """The text of a string, or of messages whose contents are strings or lists of parts."""
    given = row.get(column)
    if isinstance(given, str):
        return given
    try:
        contents = [message["content"] for message in given]  # type: ignore[union-attr]
        return "".join(c if isinstance(c, str) else "".join(part.get("text") or "" for part in c) for c in contents)
    except (TypeError, KeyError, AttributeError):
        raise ValueError(f"{location}: {column} is {given!r:.60}; give text, or a list of messages") from None


def _label(value: Any, location: str) -> float | None:
    if value is None:
        return None
    try:
        label = float(value)
    except (TypeError, ValueError):
        label = math.nan
    if not math.isfinite(label):
        raise ValueError(f"{location}: the expected score is {value!r}; give a number, or null")
    return label


def _stored(run_dir: Path, *, stage: str | None, step: int | None) -> RewardExamples:
    from .replay import stored_samples

    stored, prompts = stored_samples(run_dir, stage=stage, step=step)
    rollouts = [each.rollout for each in stored]
    locations = [
        f"stage {s.stage}, step {s.step}, prompt {s.rollout.prompt_id}, sample {s.rollout.sample}" for s in stored
    ]
    return RewardExamples(prompts, rollouts, locations, [None] * len(rollouts), words_for_tokens=False)
