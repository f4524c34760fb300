"""Rows that are there twice, or in an evaluation set: the same question about pictures that look the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from .outcome import Outcome, Row
from .prompts import normalised, question_of

Hashes = tuple[int, ...]
"""Perceptual hashes of a row's pictures, in order, 64 bits each."""
Look = Callable[[Row], Hashes]


def dedupe(rows: Iterable[Row], *, look: Look, distance: int = 4) -> Outcome:
    """Keep the first of rows with one question and alike pictures.

    Args:
        rows: any.
        look: hashes of a row's pictures.
        distance: bits by which two pictures' hashes may differ and count as alike.
    """
    outcome = Outcome()
    seen = _Seen(distance)
    for row in rows:
        question, hashes = normalised(question_of(row["prompt"])), look(row)
        if seen.find(question, hashes) is None:
            seen.add(question, hashes, row["id"])
            outcome.keep(row, row)
        else:
            outcome.drop(row, "duplicate")
    return outcome


def decontaminate(
    rows: Iterable[Row],
    against: Iterable[tuple[str, Hashes]],
    *,
    look: Look,
    distance: int = 4,
    pictures_alone: bool = False,
) -> Outcome:
    """Drop rows that an evaluation set has, too.

    Args:
        rows: any.
        against: question and hashes of the evaluation's rows.
        look: hashes of a row's pictures.
        distance: see `dedupe`.
        pictures_alone: also drop rows that ask something else about one of the evaluation's pictures.
    """
    outcome, seen = Outcome(), _Seen(distance)
    pictures: set[int] = set()
    for question, hashes in against:
        seen.add(normalised(question), hashes, "")
        pictures |= set(hashes)
    for row in rows:
        hashes = look(row)
        if seen.find(normalised(question_of(row["prompt"])), hashes) is not None:
            outcome.drop(row, "in an evaluation set")
        elif pictures_alone and any(alike((one,), (other,), distance) for one in hashes for other in pictures):
            outcome.drop(row, "picture of an evaluation set")
        else:
            outcome.keep(row, row)
    return outcome


def alike(one: Sequence[int], other: Sequence[int], distance: int) -> bool:
    """Whether as many pictures look the same, pair by pair."""
    pairs = zip(one, other, strict=False)
    return len(one) == len(other) and all((a ^ b).bit_count() <= distance for a, b in pairs)


class _Seen:
    """Rows by question; pictures are compared only where the question is the same."""

    def __init__(self, distance: int) -> None:
        self._distance = distance
        self._rows: dict[str, list[tuple[Hashes, str]]] = defaultdict(list)

    def add(self, question: str, hashes: Hashes, name: str) -> None:
        self._rows[question].append((hashes, name))

    def find(self, question: str, hashes: Hashes) -> str | None:
        """The name of a row that is the same, if there is one."""
        return next((name for own, name in self._rows.get(question, ()) if alike(own, hashes, self._distance)), None)
