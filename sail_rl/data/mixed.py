"""Mixes the rows of several datasets by weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .dataset import Rows


class MixedRows(Sequence[dict[str, Any]]):
    """As many rows as all sources have together, chosen so that each source has its share of the *tokens*.

    The choice is even and deterministic: each position takes the next row of the source that lags most behind its
    share; a source starts over after its last row. A row's id starts with the name of its source. Its
    `source`, which rewards may read, is that name too unless the row has its own.

    Args:
        sources: the datasets by name.
        weights: their shares of the tokens, which sum to 1.
        tokens: the mean number of tokens per row of each source.
    """

    def __init__(self, sources: Mapping[str, Rows], weights: Mapping[str, float], tokens: Mapping[str, float]) -> None:
        self._sources = sources
        relative = {name: weights[name] / tokens[name] for name in sources}
        shares = {name: value / sum(relative.values()) for name, value in relative.items()}
        drawn = dict.fromkeys(sources, 0)
        self._rows: list[tuple[str, int]] = []
        for position in range(sum(map(len, sources.values()))):
            name = max(shares, key=lambda source: shares[source] * (position + 1) - drawn[source])
            self._rows.append((name, drawn[name] % len(sources[name])))
            drawn[name] += 1

    def __len__(self) -> int:
        return len(self._rows)

    def metadata(self, index: int) -> dict[str, Any]:
        """The row with the sizes of its images in their place, see `Rows.metadata`."""
        name, number = self._rows[index]
        return self._named(name, self._sources[name].metadata(number))

    def describe(self, index: int) -> str:
        """File and row number of the row at `index`, for errors."""
        name, number = self._rows[index]
        return self._sources[name].describe(number)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        name, number = self._rows[index]
        return self._named(name, self._sources[name][number])

    @staticmethod
    def _named(name: str, row: dict[str, Any]) -> dict[str, Any]:
        return row | {"id": f"{name}/{row['id']}", "source": row.get("source") or name}
