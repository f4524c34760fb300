"""Rows of several datasets mixed by weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .dataset import Rows


class MixedRows(Sequence[dict[str, Any]]):
    """As many rows as all sources have together, drawn so that each source has its share of the *tokens*.

    The draw is even and without chance: at each place the source that lags most behind its share gives its next row,
    and starts over when it has no more. A row's id names where it is from, and so does its `source`, unless it has one
    of its own, which rewards may read.

    Args:
        sources: datasets by name.
        weights: their shares of the tokens; they sum to 1.
        tokens: mean tokens of a row of each source.
    """

    def __init__(
        self,
        sources: Mapping[str, Rows],
        weights: Mapping[str, float],
        tokens: Mapping[str, float],
    ) -> None:
        self._sources = sources
        relative = {name: weights[name] / tokens[name] for name in sources}
        shares = {name: value / sum(relative.values()) for name, value in relative.items()}
        drawn = dict.fromkeys(sources, 0)
        self._places: list[tuple[str, int]] = []
        for place in range(sum(map(len, sources.values()))):
            name = max(shares, key=lambda source: shares[source] * (place + 1) - drawn[source])
            self._places.append((name, drawn[name] % len(sources[name])))
            drawn[name] += 1

    def __len__(self) -> int:
        return len(self._places)

    def outline(self, index: int) -> dict[str, Any]:
        """The row with the sizes of its images in their places, see `Rows.outline`."""
        name, number = self._places[index]
        return self._named(name, self._sources[name].outline(number))

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        name, number = self._places[index]
        return self._named(name, self._sources[name][number])

    @staticmethod
    def _named(name: str, row: dict[str, Any]) -> dict[str, Any]:
        return row | {"id": f"{name}/{row['id']}", "source": row.get("source") or name}
