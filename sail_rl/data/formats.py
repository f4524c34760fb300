"""Converts rows of common formats into one: `prompt`, `images` or `video`, `completion`, and all other columns.

Three formats are recognised by their columns: `messages` (OpenAI, TRL), `conversations` (LLaVA, ShareGPT), and
`question` beside plain columns. A recipe's `columns` maps columns with other names.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from sail_rl.completion import THINK_END, THINK_START
from sail_rl.contracts import Message
from sail_rl.messages import as_parts, in_parts

Row = dict[str, Any]

PLACEHOLDERS = {"<image>": "image", "<video>": "video"}
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
THOUGHTS = ("reasoning_content", "reasoning", "thinking")


def unified(row: Mapping[str, Any], columns: Mapping[str, str] | None = None) -> Row:
    """The row in our format.

    A final assistant turn becomes the `completion`, with a separate thought put into `<think>` tags; without one, the
    row has only a prompt. Images named in messages are collected in their order.

    Args:
        row: a row of the file.
        columns: the dataset's names of our columns; these columns lose their own names.

    Raises:
        ValueError: names the part that can't be read.
    """
    row = _renamed(row, columns or {})
    if isinstance(row.get("image"), list):
        row["images"] = row.pop("image")
    if row.get("prompt") is not None:
        row["prompt"] = row["prompt"] if isinstance(row["prompt"], str) else [_message(m) for m in row["prompt"]]
        if isinstance(row["prompt"], str) and _has_placeholder(row["prompt"]):
            row["prompt"] = [_message({"role": "user", "content": row["prompt"]})]
    elif row.get("messages") is not None:
        row |= _split([_message(message) for message in row.pop("messages")])
    elif row.get("conversations") is not None:
        row |= _split([_message(_from_sharegpt(turn)) for turn in row.pop("conversations")])
    elif row.get("question") is not None:
        row["prompt"] = [_message({"role": "user", "content": row.pop("question")})]
    if isinstance(row.get("completion"), list):
        row["completion"] = _answer([_message(message) for message in row["completion"]])
    return _with_named_images(row)


def alike(row: Row) -> Row:
    """A unified row with its prompt as messages with parts, because Arrow needs the same type in every row."""
    return row | {"prompt": in_parts(row["prompt"])}


def _renamed(row: Mapping[str, Any], columns: Mapping[str, str]) -> Row:
    for ours, theirs in columns.items():
        if theirs not in row:
            raise ValueError(f"`columns` maps {ours} to {theirs!r}, which isn't among the columns {', '.join(row)}")
    kept = {name: value for name, value in row.items() if name not in columns.values()}
    return kept | {ours: row[theirs] for ours, theirs in columns.items()}


def _split(messages: list[Message]) -> Row:
    """The prompt, and the last turn as the completion if it is the assistant's."""
    if not messages:
        raise ValueError("the list of messages is empty")
    if messages[-1]["role"] != "assistant":
        return {"prompt": messages}
    if len(messages) == 1:
        raise ValueError("the only message is the assistant's; add a prompt before it")
    *prompt, last = messages
    return {"prompt": prompt, "completion": _answer([last])}


def _answer(messages: list[Message]) -> str:
    """The text of a completion's only message."""
    if len(messages) != 1:
        raise ValueError(f"completion has {len(messages)} messages; give exactly one assistant message")
    parts = as_parts(messages[0]["content"])
    if any(part["type"] != "text" for part in parts):
        raise ValueError("the assistant's answer has an image, but the model answers with text only")
    return "".join(part["text"] for part in parts)


def _from_sharegpt(turn: Mapping[str, Any]) -> Message:
    role = turn.get("from", turn.get("role"))
    return {"role": role, "content": turn.get("value", turn.get("content"))}


def _message(message: Mapping[str, Any]) -> Message:
    """A message with one of our roles, and with parts if it has images or a video."""
    role = ROLES.get(str(message.get("role")))
    if role is None:
        raise ValueError(f"a message has the role {message.get('role')!r}; give one of {', '.join(ROLES)}")
    content = message.get("content")
    thought = next((message[name] for name in THOUGHTS if message.get(name)), None)
    if thought is not None:
        content = f"{THINK_START}\n{str(thought).strip()}\n{THINK_END}\n\n{content or ''}"
    if content is None:
        raise ValueError(f"the {role}'s message has no content")
    if isinstance(content, str):
        return {"role": role, "content": _parts(content) if _has_placeholder(content) else content}
    return {"role": role, "content": [part for given in content for part in _from_part(given)]}


def _from_part(part: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Our parts for a given part: texts, an image (with its source if it names one) or a video."""
    kind = part.get("type")
    if kind == "text":
        return _parts(part.get("text") or "")
    if kind in ("image", "image_url"):
        source = part.get("image_url") or part.get("image") or part.get("url") or part.get("path")
        if kind == "image_url" and isinstance(source, Mapping):
            source = source.get("url")
        return [{"type": "image"} | ({"image": _local(source)} if source is not None else {})]
    if kind == "video":
        return [{"type": "video"}]
    raise ValueError(f"a message has a part of type {kind!r}; give text, image, image_url or video")


def _parts(text: str) -> list[dict[str, Any]]:
    """A text with `<image>` and `<video>` placeholders as parts; a placeholder includes the line break after it."""
    pieces = re.split(r"(<image>|<video>)\n?", text)
    return [
        {"type": PLACEHOLDERS[piece]} if piece in PLACEHOLDERS else {"type": "text", "text": piece}
        for piece in pieces
        if piece
    ]


def _has_placeholder(text: str) -> bool:
    return any(placeholder in text for placeholder in PLACEHOLDERS)


def _local(source: Any) -> Any:
    """The source of an image part: a path, or the bytes of a `data:` URL."""
    if not isinstance(source, str):
        return source
    if source.startswith("data:"):
        head, _, body = source.partition(",")
        try:
            return {"bytes": base64.b64decode(body, validate=True), "path": None}
        except binascii.Error as error:
            raise ValueError(f"an image's data: URL ({head}) isn't base64: {error}") from error
    if "://" in source:
        raise ValueError(
            f"image {source!r} is a network address, which is never fetched; download it and give its path"
        )
    return source


def _with_named_images(row: Row) -> Row:
    """Move the images that messages name into the column `images`, and leave plain image parts behind."""
    if isinstance(row.get("prompt"), str) or not row.get("prompt"):
        return row
    parts = [part for message in row["prompt"] for part in as_parts(message["content"])]
    shown = [part for part in parts if part["type"] == "image"]
    named = [part.pop("image") for part in shown if "image" in part]
    if not named:
        return row
    if len(named) != len(shown):
        raise ValueError(f"{len(named)} of {len(shown)} image parts name their image; name all or none")
    if row.get("images") or row.get("image") is not None:
        raise ValueError("images are given in the messages and in a column; give them in one place only")
    return {name: value for name, value in row.items() if name != "image"} | {"images": named}
