"""What a curation step is: rows in, rows out, and a reason for each row that is no longer there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

Row = dict[str, Any]
"""A row without its pictures: `id`, `index` (its place in the dataset), `prompt`, `completion`, `answer`, …"""


@dataclass(slots=True)
class Outcome:
    """Result of one step; `changed` counts rows that stayed and are no longer the same."""

    rows: list[Row] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    """(id, reason)."""
    changed: int = 0

    def keep(self, before: Row, after: Row) -> None:
        """The row stays, as `after`."""
        self.rows.append(after)
        self.changed += after != before

    def drop(self, row: Row, reason: str) -> None:
        """The row goes."""
        self.dropped.append((row["id"], reason))

    @property
    def reasons(self) -> dict[str, int]:
        """How many rows went for each reason."""
        return dict(Counter(reason for _, reason in self.dropped))


def each(rows: Iterable[Row], change: Callable[[Row], Row | str]) -> Outcome:
    """Apply `change` to every row by itself; a string that it returns is the reason to drop it."""
    outcome = Outcome()
    for row in rows:
        after = change(row)
        if isinstance(after, str):
            outcome.drop(row, after)
        else:
            outcome.keep(row, after)
    return outcome
