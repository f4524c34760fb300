"""Drops duplicates and rows of evaluation sets: the same question about pictures that look alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from .outcome import Outcome, Row
from .prompts import normalised, question_of

Hashes = tuple[int, ...]
"""Perceptual hashes of a row's pictures, in order, 64 bits each."""
Look = Callable[[Row], Hashes]


def dedupe(rows: Iterable[Row], *, look: Look, distance: int = 4) -> Outcome:
    """Keep the first of several rows with the same question and similar pictures.

    Args:
        rows: the rows.
        look: returns the hashes of a row's pictures.
        distance: the number of bits in which the hashes of similar pictures may differ.
    """
    outcome = Outcome()
    seen = _Seen(distance)
    for row in rows:
        question, hashes = normalised(question_of(row["prompt"])), look(row)
        if seen.has(question, hashes):
            outcome.drop(row, "duplicate")
        else:
            seen.add(question, hashes)
            outcome.keep(row, row)
    return outcome


def decontaminate(
    rows: Iterable[Row],
    against: Iterable[tuple[str, Hashes]],
    *,
    look: Look,
    distance: int = 4,
    pictures_alone: bool = False,
) -> Outcome:
    """Drop rows that also occur in an evaluation set.

    Args:
        rows: the rows.
        against: the question and the picture hashes of each evaluation row.
        look: returns the hashes of a row's pictures.
        distance: see `dedupe`.
        pictures_alone: whether to drop rows that share only a picture with the evaluation set, too.
    """
    outcome, seen = Outcome(), _Seen(distance)
    pictures: set[int] = set()
    for question, hashes in against:
        seen.add(normalised(question), hashes)
        pictures |= set(hashes)
    for row in rows:
        hashes = look(row)
        if seen.has(normalised(question_of(row["prompt"])), hashes):
            outcome.drop(row, "in an evaluation set")
        elif pictures_alone and any(alike((one,), (other,), distance) for one in hashes for other in pictures):
            outcome.drop(row, "picture of an evaluation set")
        else:
            outcome.keep(row, row)
    return outcome


def alike(one: Sequence[int], other: Sequence[int], distance: int) -> bool:
    """True if two rows have the same number of pictures, and these are similar pair by pair."""
    pairs = zip(one, other, strict=False)
    return len(one) == len(other) and all((a ^ b).bit_count() <= distance for a, b in pairs)


class _Seen:
    """The picture hashes of rows by question; pictures are compared only between rows with the same question."""

    def __init__(self, distance: int) -> None:
        self._distance = distance
        self._rows: dict[str, list[Hashes]] = defaultdict(list)

    def add(self, question: str, hashes: Hashes) -> None:
        self._rows[question].append(hashes)

    def has(self, question: str, hashes: Hashes) -> bool:
        """True if a row with this question and similar pictures was added."""
        return any(alike(own, hashes, self._distance) for own in self._rows.get(question, ()))
