"""Says what is wrong with a value of a row: names its field, shows the value briefly, and says what fits."""

from __future__ import annotations

import reprlib
from typing import Any

LONGEST = 120
"""Longest value in characters that an error shows."""


class _Brief(reprlib.Repr):
    """A `repr` of bounded length and cost, which spells constants as JSON does and counts bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = LONGEST // 2
        self.maxlevel = 3

    def repr_bytes(self, value: bytes, _: int) -> str:
        return f"<{len(value)} bytes>"

    def repr_bool(self, value: bool, _: int) -> str:
        return "true" if value else "false"

    def repr_NoneType(self, _: None, __: int) -> str:  # noqa: N802
        return "null"


_BRIEF = _Brief()


def brief(value: Any) -> str:
    """The value in at most `LONGEST` characters on one line."""
    text = _BRIEF.repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def wrong(field: str, value: Any, wanted: str) -> ValueError:
    """The error for a value that can't be used.

    Args:
        field: where the value is in its row, such as `messages[0].content`.
        value: the value.
        wanted: what fits there, to complete the sentence "give …".
    """
    return ValueError(f"{field} is {brief(value)}; give {wanted}")
