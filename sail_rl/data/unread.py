"""Finds columns that look like pictures, videos or turns, but aren't read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .pictures_in import PICTURES, VIDEOS, Row
from .sources import SIGNATURES, given, is_base64, is_picture_file, is_video_file
from .turns import unread_keys

READ = {"prompt", "completion", "images", "video", "id", "answer", "solution"}
MEDIA = {*PICTURES, *VIDEOS, "audio", "audios", "sound"}
TURNS = {"messages", "conversations", "conversation", "history", "dialog", "dialogue", "turns", "tools", "functions"}


def unread(row: Row, given_turns: Iterable[Any]) -> dict[str, str]:
    """What isn't read although it looks like a part of the row, each with a sentence on it.

    Args:
        row: a unified row.
        given_turns: the columns that may hold messages, as the file gives them.
    """
    found = {
        name: f"column {name!r} looks like {kind}, but isn't read; if it matters, map it with `columns`"
        for name, value in row.items()
        if name not in READ and (kind := _looks_like(name, value))
    }
    keys = {key for turns in given_turns for key in unread_keys(turns)}
    return found | {f"message.{key}": f"{key!r} of messages isn't read" for key in sorted(keys)}


def _looks_like(name: str, value: Any) -> str | None:
    if not given(value) or (isinstance(value, str | bytes | list) and not value):
        return None
    first = value[0] if isinstance(value, list) else value
    if name in TURNS or (_is_turn(first) and isinstance(value, list)):
        return "turns"
    if (name in MEDIA and not isinstance(value, bool | int | float)) or _is_media(first):
        return "pictures, a video or sound"
    return None


def _is_turn(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value.keys() >= {"role", "content"} or value.keys() >= {"from", "value"})


def _is_media(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value.startswith(SIGNATURES)
    if not isinstance(value, str):
        return False
    named = is_picture_file(value) or is_video_file(value) or value.startswith(("data:image/", "data:video/"))
    return named or is_base64(value)
