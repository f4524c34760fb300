"""The completions that `sail-rl reward test` scores: from a file, or from the stored rollouts of a run."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sail_rl.contracts import Prompt, Rollout
from sail_rl.data.formats import unified
from sail_rl.data.values import brief, wrong
from sail_rl.messages import as_messages, texts_of
from sail_rl.run_dir import RunDir

WORD = re.compile(r"\w+|[^\w\s]")
NOT_COLUMNS = ("prompt", "completion", "images", "video", "completion_ids")


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

    A file's rows are those of any dataset (see `data.formats`) with completions. Optional columns are `completion_ids`,
    `expected` (the score that it should get), and any columns that rewards read, such as `answer`.

    Raises:
        ValueError: there is nothing to read, or a row is unusable; the message names file and row.
    """
    if RunDir(path).recipe.is_file() or RunDir(path).rollouts.is_dir():
        return _stored(path, stage=stage, step=step)
    from sail_rl.data.files import load_file

    dataset, folder = load_file(path)
    examples, with_tokens = RewardExamples([], [], [], [], words_for_tokens=False), []
    for number in range(len(dataset)):
        location = f"{path.name}, row {number}"
        try:
            row = unified(dataset[number])
            for needed in ("prompt", "completion"):
                if row.get(needed) is None:
                    raise ValueError(f"no column {needed!r} among {', '.join(dataset.column_names):.300}")
            name = location if row.get("id") is None else str(row["id"])
            examples.prompts.append(_prompt(row, name, folder))
            examples.rollouts.append(_rollout(row, name))
            examples.expected.append(_label(row.get("expected")))
        except ValueError as error:
            raise ValueError(f"{location}: {error}") from error
        examples.locations.append(location)
        with_tokens.append(row.get("completion_ids") is not None)
    return replace(examples, words_for_tokens=not all(with_tokens))


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
    found = []
    for number, value in enumerate(values):
        try:
            found.append(_label(value))
        except ValueError as error:
            raise ValueError(f"{path.name}, row {number}: {error}") from None
    return found


def _read_rows(path: Path) -> list[Any]:
    if not path.is_file():
        raise ValueError(f"no file or run folder {path}")
    if path.suffix == ".parquet":
        from sail_rl.data.files import load_file

        return list(load_file(path)[0])
    try:
        text = path.read_text("utf-8-sig")
        content = json.loads(text) if path.suffix == ".json" else None
    except (ValueError, RecursionError) as error:  # also bytes that aren't UTF-8
        raise ValueError(f"{path}: not JSON: {error}") from None
    if path.suffix == ".json":
        content = content.get("scores") if isinstance(content, dict) else content
        if not isinstance(content, list):
            raise ValueError(f"{path} holds no list")
        return content
    if path.suffix != ".jsonl":
        raise ValueError(f"{path}: give a .jsonl, .json or .parquet file, or the folder of a run")
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: not JSON: {error}") from None
    return rows


def _prompt(row: Mapping[str, Any], name: str, folder: Path) -> Prompt:
    messages = as_messages(row["prompt"])
    images = []
    if row.get("images"):
        from sail_rl.data.images import open_picture

        images = [open_picture(source, folder) for source in row["images"]]
    columns = {name: value for name, value in row.items() if name not in NOT_COLUMNS}
    return Prompt(name, messages, "".join(texts_of(messages)), images, columns)


def _rollout(row: Mapping[str, Any], name: str) -> Rollout:
    text, ids = row["completion"], row.get("completion_ids")
    if ids is None:
        ids = [zlib.crc32(word.encode()) % 50_000 for word in WORD.findall(text)]
    if not isinstance(ids, list) or not all(isinstance(token, int) for token in ids):
        raise wrong("completion_ids", ids, "a list of token ids")
    return Rollout(name, 0, ids, [0.0] * len(ids), text, "stop", 0)


def _label(value: Any) -> float | None:
    if value is None:
        return None
    try:
        label = float(value)
    except (TypeError, ValueError):
        label = math.nan
    if not math.isfinite(label):
        raise ValueError(f"the expected score is {brief(value)}; give a number, or null")
    return label


def _stored(run_dir: Path, *, stage: str | None, step: int | None) -> RewardExamples:
    from .replay import stored_samples

    stored, prompts = stored_samples(run_dir, stage=stage, step=step)
    rollouts = [each.rollout for each in stored]
    locations = [
        f"stage {s.stage}, step {s.step}, prompt {s.rollout.prompt_id}, sample {s.rollout.sample}" for s in stored
    ]
    return RewardExamples(prompts, rollouts, locations, [None] * len(rollouts), words_for_tokens=False)
