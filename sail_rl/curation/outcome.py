"""The result of a curation step: the kept rows, and a reason for each dropped row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]
"""A row without its pictures: `id`, `index` (its position in the dataset), `prompt`, `answer` and others."""


@dataclass(slots=True)
class Outcome:
    """The result of one step; `changed` counts the kept rows that the step changed."""

    rows: list[Row] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    """(id, reason) of each dropped row."""
    changed: int = 0

    def keep(self, before: Row, after: Row) -> None:
        """Keep the row `before` as `after`."""
        self.rows.append(after)
        self.changed += after != before

    def drop(self, row: Row, reason: str) -> None:
        """Drop the row."""
        self.dropped.append((row["id"], reason))

    @property
    def reasons(self) -> dict[str, int]:
        """The number of dropped rows by reason."""
        return dict(Counter(reason for _, reason in self.dropped))


def each(rows: Iterable[Row], change: Callable[[Row], Row | str]) -> Outcome:
    """Apply `change` to each row; it returns the new row, or the reason to drop it as a string."""
    outcome = Outcome()
    for row in rows:
        after = change(row)
        if isinstance(after, str):
            outcome.drop(row, after)
        else:
            outcome.keep(row, after)
    return outcome
