"""Reading text in images: average normalised Levenshtein similarity (ANLS) and edit distance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .words import accepted

THRESHOLD = 0.5  # similarities below it count as 0


def edit_distance(left: str, right: str) -> int:
    """Levenshtein distance by bit vectors (Myers 1999, as simplified by Hyyrö 2003), in one step per character."""
    if not left or not right:
        return max(len(left), len(right))
    full = (1 << len(left)) - 1
    top = 1 << (len(left) - 1)
    where: dict[str, int] = {}
    for position, character in enumerate(left):
        where[character] = where.get(character, 0) | 1 << position
    plus, minus, distance = full, 0, len(left)
    for character in right:
        match = where.get(character, 0)
        diagonal = ((((match & plus) + plus) ^ plus) | match | minus) & full
        up, down = (minus | ~(diagonal | plus)) & full, plus & diagonal
        distance += bool(up & top) - bool(down & top)
        up, down = (up << 1 | 1) & full, (down << 1) & full
        plus, minus = (down | ~(diagonal | up)) & full, up & diagonal
    return distance


def similarity(gold: str, given: str) -> float:
    """1 - edit distance / length of the longer text, ignoring case and repeated spaces; 1 for equal texts."""
    left, right = _folded(gold), _folded(given)
    longest = max(len(left), len(right))
    return 1.0 - edit_distance(left, right) / longest if longest else 1.0


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def check(gold: Any, row: Mapping[str, Any]) -> None:
    """Accept any text."""


def score(gold: Any, given: str, row: Mapping[str, Any]) -> float:
    """ANLS (arXiv 1907.00490): the best similarity to a gold answer, or 0 if it is below THRESHOLD."""
    return max(_above_threshold(text, given) for text in accepted(gold))


def _above_threshold(gold: str, given: str) -> float:
    left, right = _folded(gold), _folded(given)
    if min(len(left), len(right)) < THRESHOLD * max(len(left), len(right)):
        return 0.0  # the lengths alone differ by more
    best = similarity(left, right)
    return best if best >= THRESHOLD else 0.0


def score_edit(gold: Any, given: str, row: Mapping[str, Any]) -> float:
    """The best similarity to a gold answer, without a threshold; suits long texts."""
    return max(similarity(text, given) for text in accepted(gold))
