"""Chat messages in the OpenAI/TRL format: prompts as messages, content as parts, their texts, and `data:` URLs."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sail_rl.contracts import Message

Content = str | Sequence[dict[str, Any]]
"""A message's content: a text, or a list of parts."""


def as_messages(prompt: str | list[Message]) -> list[Message]:
    """A prompt as messages; a string becomes one user message."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def as_parts(content: Content) -> list[dict[str, Any]]:
    """A message's content as a list of parts; a string becomes one text part."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def in_parts(prompt: str | list[Message]) -> list[Message]:
    """A prompt as messages whose contents are lists of parts."""
    return [message | {"content": as_parts(message["content"])} for message in as_messages(prompt)]


def text_of(content: Content) -> str:
    """The texts of a message's content, joined."""
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)


def texts_of(messages: Sequence[Message]) -> Iterator[str]:
    """Every text of the messages, without their images and other parts."""
    for message in messages:
        yield from (part["text"] for part in as_parts(message["content"]) if part["type"] == "text")


def image_count(messages: Sequence[Mapping[str, Any]]) -> int:
    """The number of image parts in the messages."""
    return sum(part["type"] == "image" for message in messages for part in as_parts(message["content"]))


def data_url(content: bytes, media_type: str = "image/png") -> str:
    """An image file's content as a `data:` URL."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
