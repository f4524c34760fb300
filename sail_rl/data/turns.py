"""Reads messages of the common chat formats: roles, texts, thoughts, and parts with images or a video."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from sail_rl.completion import THINK_END, THINK_START
from sail_rl.contracts import Message

from .sources import INNER, given, picture, video
from .values import brief, wrong

PLACEHOLDERS = {"<image>": "image", "<video>": "video"}
ROLES = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
}
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
READ = {"role", "from", "content", "value", *THOUGHTS}
"""The keys of a message that are read."""
KINDS = {
    "text": ("text", "input_text", "output_text"),
    "image": ("image", "image_url", "input_image"),
    "video": ("video", "video_url"),
}
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}


def turns(value: Any, field: str) -> list[Message]:
    """Messages in our format: one of our roles, and a text, or parts if the message has images or a video.

    Args:
        value: a list of messages with `role` and `content` or with `from` and `value`, or the JSON text of one.
        field: its place in the row, for errors.

    Raises:
        ValueError: names the field and what it expects.
    """
    listed = listing(value)
    if not isinstance(listed, list):
        raise wrong(field, value, "a list of messages")
    if not listed:
        raise ValueError(f"{field}: the list of messages is empty")
    return [_message(message, f"{field}[{number}]") for number, message in enumerate(listed)]


def answer(value: Any, field: str) -> str:
    """The text of a completion: a text, or a list with one assistant message."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise wrong(field, value, "a text, or a list with one assistant message")
    if len(value) != 1:
        raise ValueError(f"{field} has {len(value)} messages; give exactly one assistant message")
    role, content = _role_and_content(value[0], f"{field}[0]")
    if role != "assistant":
        raise ValueError(f"{field}[0] has the role {role!r}; give one assistant message")
    return _answered(content, f"{field}[0]")


def conversation(value: Any, field: str) -> tuple[list[Message], str | None]:
    """The prompt, and the text of the last message if it is the assistant's."""
    listed = listing(value)
    if not isinstance(listed, list) or not listed:
        return turns(value, field), None
    last = f"{field}[{len(listed) - 1}]"
    role, content = _role_and_content(listed[-1], last)
    if role != "assistant":
        return turns(listed, field), None
    if len(listed) == 1:
        raise ValueError(f"{last}: the only message is the assistant's; add a prompt before it")
    return turns(listed[:-1], field), _answered(content, last)


def listing(value: Any) -> Any:
    """The list that a text holds as JSON; any other value as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def parts_of(text: str) -> list[dict[str, Any]]:
    """A text with `<image>` and `<video>` placeholders as parts; a placeholder includes the line break after it."""
    pieces = re.split(r"(<image>|<video>)\n?", text)
    return [
        {"type": PLACEHOLDERS[piece]} if piece in PLACEHOLDERS else {"type": "text", "text": piece}
        for piece in pieces
        if piece
    ]


def has_placeholder(text: str) -> bool:
    """True if a text has a placeholder of an image or a video."""
    return any(placeholder in text for placeholder in PLACEHOLDERS)


def unread_keys(value: Any) -> set[str]:
    """The keys with values, such as `tool_calls` or `weight`, that `turns` doesn't read."""
    listed = listing(value)
    messages = [message for message in listed if isinstance(message, Mapping)] if isinstance(listed, list) else []
    return {
        key
        for message in messages
        for key, value in message.items()
        if key not in READ and value not in (None, "", [], {})
    }


def _message(message: Any, field: str) -> Message:
    role, content = _role_and_content(message, field)
    if isinstance(content, str):
        return {"role": role, "content": parts_of(content) if has_placeholder(content) else content}
    found = [part for number, one in enumerate(content) for part in _part(one, f"{field}.content[{number}]")]
    return {"role": role, "content": found}


def _role_and_content(message: Any, field: str) -> tuple[str, str | list[Any]]:
    """One of our roles, and the content with the thought, if it is given separately."""
    if not isinstance(message, Mapping):
        raise wrong(field, message, "an object with `role` and `content`")
    named = "role" if message.get("role") is not None else "from"
    name = message.get(named)
    role = ROLES.get(name.lower()) if isinstance(name, str) else None
    if role is None:
        raise wrong(f"{field}.{named if name is not None else 'role'}", name, f"one of {', '.join(ROLES)}")
    key = "value" if message.get("content") is None and message.get("value") is not None else "content"
    content, place = message.get(key), f"{field}.{key}"
    thought = next((message[name] for name in THOUGHTS if message.get(name)), None)
    if thought is not None:
        content = _with_thought(thought, "" if content is None else content, place)
    if content is None:
        raise ValueError(f"{place} is null: the {role}'s message has no content; give a text, or a list of parts")
    if not isinstance(content, str | list):
        raise wrong(place, content, "a text, or a list of parts")
    return role, content


def _with_thought(thought: Any, content: Any, field: str) -> str:
    """The content as a text that starts with its thought."""
    if not isinstance(thought, str):
        raise wrong(f"the thought beside {field}", thought, "a text")
    text = _answered(content, field)
    if THINK_START in text or THINK_END in text:
        raise ValueError(f"{field} has a thought in {THINK_START} tags beside a separate one; give the thought once")
    return f"{THINK_START}\n{thought.strip()}\n{THINK_END}\n\n{text}"


def _answered(content: Any, field: str) -> str:
    """The text of the assistant's answer, in which `<image>` is a word like any other."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise wrong(field, content, "a text, or a list of parts")
    kinds = [_kind(part, f"{field}.content[{number}]") for number, part in enumerate(content)]
    if any(kind != "text" for kind in kinds):
        raise ValueError(f"{field}: the assistant's answer has an image, but the model answers with text only")
    return "".join(_text(part, f"{field}.content[{number}]") for number, part in enumerate(content))


def _part(part: Any, field: str) -> list[dict[str, Any]]:
    """Our parts for a given part: texts, an image or a video, with its source if the part names one."""
    kind = _kind(part, field)
    if kind == "text":
        return parts_of(_text(part, field))
    if given(part.get("bytes")):
        return [{"type": kind, kind: picture(part, field)}]
    name = next((name for name in (*INNER, "path") if given(part.get(name))), None)
    if name is None:
        return [{"type": kind}]
    read = picture if kind == "image" else video
    return [{"type": kind, kind: read(part[name], f"{field}.{name}")}]


def _kind(part: Any, field: str) -> str:
    """Whether a part is a text, an image or a video; a part without a type says it by its only key."""
    if not isinstance(part, Mapping):
        raise wrong(field, part, "an object with a `type`")
    name = part.get("type")
    if name is None:
        named = {kind for name, kind in KIND_OF.items() if given(part.get(name))}
        name = named.pop() if len(named) == 1 else None
    kind = KIND_OF.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"{field}: a part of type {brief(name)}; give text, image, image_url or video")
    return kind


def _text(part: Mapping[str, Any], field: str) -> str:
    text = next((part[name] for name in KINDS["text"] if part.get(name) is not None), None)
    if not isinstance(text, str):
        raise wrong(f"{field}.text", text, "a text")
    return text
