"""Lists and sets of short answers, compared in order or in any order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .equality import quick_equal
from .latex import normalise, split_at
from .structure import same_parts
from .words import plain


def items(answer: Any) -> list[str]:
    """The items of a list, or of a text with commas, semicolons or "and" between them."""
    if isinstance(answer, list | tuple):
        return [str(item) for item in answer]
    text = normalise(str(answer)).removeprefix("\\{").removesuffix("\\}").strip("[](){} ")
    return [item for item in split_at(text.replace(" and ", ",").replace(",,", ",").replace("和", ","), ",;\n") if item]


def check(gold: Any, row: Mapping[str, Any]) -> None:
    """Raise ValueError for a gold answer without items."""
    if not items(gold):
        raise ValueError(f"the gold answer {gold!r} has no items")


def score_ordered(gold: Any, given: str, row: Mapping[str, Any]) -> float:
    """1 if both have the same items in the same order, else 0."""
    return float(bool(same_parts(("()", items(gold)), ("()", items(given)), _same)))


def score_set(gold: Any, given: str, row: Mapping[str, Any]) -> float:
    """1 if both have the same items in any order, else 0."""
    return float(bool(same_parts(("set", items(gold)), ("set", items(given)), _same)))


def _same(left: str, right: str) -> bool:
    return bool(quick_equal(left, right)) or plain(left) == plain(right) != ""
