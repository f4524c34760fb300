"""Converts rows of common formats into one: `prompt`, `images` or `video`, `completion`, `answer`, and other columns.

A format is recognised by its columns: `messages` (OpenAI, TRL, ms-swift), `conversations` (LLaVA, ShareGPT,
LLaMA-Factory), `instruction` (Alpaca), `query` (ms-swift), `question` or `problem` (VQA, MMMU, EasyR1), `prompt` (TRL,
verl). A recipe's `columns` maps columns with other names. This is the only reader of rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sail_rl.contracts import Message
from sail_rl.messages import as_messages, as_parts, in_parts, text_of

from .numbered import with_numbered
from .pictures_in import Row, with_pictures
from .turns import answer, conversation, has_placeholder, listing, parts_of, turns
from .values import wrong

CONVERSATIONS = ("messages", "conversations", "conversation")
QUESTIONS = ("question", "problem", "instruction", "query", "input")
RESPONSES = ("response", "output")
SYSTEMS = ("system", "system_prompt")
PAIRED = ("instruction", "query", "input")
"""Questions of formats whose `output` or `response` is the completion, and whose `history` holds earlier turns."""
TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def unified(row: Mapping[str, Any], columns: Mapping[str, str] | None = None) -> Row:
    """The row in our format.

    A final assistant turn becomes the `completion`, with a separate thought put into `<think>` tags; without one, the
    row has only a prompt. Images named in messages are collected in their order. Columns that are read lose their own
    names, except for those of gold answers.

    Args:
        row: a row of the file.
        columns: the dataset's names of our columns; these columns lose their own names.

    Raises:
        ValueError: names the field that can't be read, and what fits there.
    """
    row = with_pictures(_renamed(row, columns or {}))
    if isinstance(row.get("id"), bool) or not isinstance(row.get("id"), str | int | float | None):
        raise wrong("id", row["id"], "a text or a number")
    source = next((name for name in ("prompt", *CONVERSATIONS, *QUESTIONS) if row.get(name) is not None), None)
    if source is not None:
        row = _of_conversation(row, source) if source in CONVERSATIONS else _of_question(row, source)
        row = _with_response(with_numbered(row), strict=source in PAIRED)
    if row.get("completion") is not None:
        row["completion"] = answer(row["completion"], "completion")
    if source is not None:
        row = _with_system(row)
    return _with_named_sources(_with_gold(row))


def alike(row: Row) -> Row:
    """A unified row with its prompt as messages with parts, because Arrow needs the same type in every row."""
    return row | {"prompt": in_parts(row["prompt"])}


def _renamed(row: Mapping[str, Any], columns: Mapping[str, str]) -> Row:
    for ours, theirs in columns.items():
        if theirs not in row:
            raise ValueError(
                f"`columns` maps {ours} to {theirs!r}, which isn't among the columns {', '.join(row):.300}"
            )
    kept = {name: value for name, value in row.items() if name not in columns.values()}
    return kept | {ours: row[theirs] for ours, theirs in columns.items()}


def _of_conversation(row: Row, name: str) -> Row:
    """The prompt, and the last turn as the completion if it is the assistant's."""
    prompt, completion = conversation(row.pop(name), name)
    if completion is None:
        return row | {"prompt": prompt}
    if row.get("completion") not in (None, completion):
        raise ValueError(f"{name} ends with the assistant's turn beside a `completion`; give the answer once")
    return row | {"prompt": prompt, "completion": completion}


def _of_question(row: Row, name: str) -> Row:
    """The prompt out of a text or a list of messages, with Alpaca's `input` and `history` if the row has them."""
    value = row[name] if name == "prompt" else row.pop(name)  # a prompt keeps its place among the columns
    if isinstance(value, list):
        return row | {"prompt": turns(value, name)}
    if not isinstance(value, str):
        raise wrong(name, value, "a text, or a list of messages")
    if name == "instruction" and (more := row.pop("input", None)):
        if not isinstance(more, str):
            raise wrong("input", more, "a text")
        value = f"{value}\n{more}" if value else more
    content = parts_of(value) if has_placeholder(value) else value
    if name == "prompt" and isinstance(content, str):
        return row | {"prompt": content}
    earlier = _earlier(row.pop("history", None)) if name in PAIRED else []
    return row | {"prompt": [*earlier, {"role": "user", "content": content}]}


def _earlier(history: Any) -> list[Message]:
    """The turns of a list of pairs of a question and its answer."""
    pairs = listing(history) or []
    if not isinstance(pairs, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
        raise wrong("history", history, "a list of pairs of a question and its answer")
    listed = [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    return turns(listed, "history") if listed else []


def _with_response(row: Row, *, strict: bool) -> Row:
    """The row with a `response` or `output` as its completion; only in a strict format may it have a wrong type."""
    name = next((name for name in RESPONSES if row.get(name) is not None), None)
    if name is None or row.get("completion") is not None or not (strict or isinstance(row[name], str)):
        return row
    return row | {"completion": answer(row.pop(name), name)}


def _with_system(row: Row) -> Row:
    """The row with a column `system` as its first turn."""
    name = next((name for name in SYSTEMS if row.get(name)), None)
    row = {column: value for column, value in row.items() if column not in SYSTEMS or value}
    if name is None:
        return row
    text, messages = row.pop(name), as_messages(row["prompt"])
    if not isinstance(text, str):
        raise wrong(name, text, "the text of the system's turn, or rename the column with `columns`")
    if messages[0]["role"] != "system":
        messages = [{"role": "system", "content": text}, *messages]
    elif text_of(messages[0]["content"]) != text:
        raise ValueError(f"`{name}` differs from the system's turn in the messages; give it once")
    return row | {"prompt": messages}


def _with_gold(row: Row) -> Row:
    """The row with its gold answer as `answer`, if it has another common name: verl's, TRL's, or R1-V's with tags."""
    if row.get("answer") is not None:
        return row
    model = row.get("reward_model")
    found = model.get("ground_truth") if isinstance(model, Mapping) else None
    found = next((value for value in (found, row.get("ground_truth"), row.get("solution")) if value is not None), None)
    if isinstance(found, str) and len(tagged := TAGGED.findall(found)) == 1:
        found = tagged[0].strip()
    return row if found is None else row | {"answer": found}


def _with_named_sources(row: Row) -> Row:
    """Move the images and the video that messages name into columns, and leave plain parts behind."""
    if isinstance(row.get("prompt"), str) or not row.get("prompt"):
        return row
    parts = [part for message in row["prompt"] for part in as_parts(message["content"])]
    shown = [part for part in parts if part["type"] == "image"]
    named = [part.pop("image") for part in shown if "image" in part]
    films = [part.pop("video") for part in parts if part["type"] == "video" and "video" in part]
    for name, found in (("images", named), ("video", films)):
        if found and row.get(name):
            raise ValueError(f"{name} are given in the messages and in a column; give them in one place only")
    if named and len(named) != len(shown):
        raise ValueError(f"{len(named)} of {len(shown)} image parts name their image; name all or none")
    if len(films) > 1:
        raise ValueError(f"the messages have {len(films)} videos; a row may have one")
    return row | ({"images": named} if named else {}) | ({"video": films[0]} if films else {})
