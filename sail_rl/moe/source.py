"""The expert activation of one source, and reading the file of a probe."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy


@dataclass(frozen=True, slots=True)
class Activation:
    """A source's activation: `counts` [layers, experts] of routed slots over `tokens` tokens of `rows` rows."""

    rows: int
    rows_with_images: int
    tokens: int
    counts: numpy.ndarray

    @property
    def shares(self) -> numpy.ndarray:
        """Each expert's share of its layer's routed slots [layers, experts]; each layer sums to 1."""
        return self.counts / self.counts.sum(-1, keepdims=True)

    @property
    def multimodal(self) -> bool:
        """True if any row has an image."""
        return self.rows_with_images > 0

    def as_dict(self) -> dict[str, Any]:
        """The fields as a JSON value."""
        return {
            "rows": self.rows,
            "rows_with_images": self.rows_with_images,
            "tokens": self.tokens,
            "counts": self.counts.tolist(),
        }


def read_probe(path: Path) -> dict[str, Activation]:
    """Read the activations by source from a file of `sail-rl moe probe`.

    Raises:
        ValueError: for a missing file, a file of another kind, or a source without tokens.
    """
    if not path.is_file():
        raise ValueError(f"no probe at {path}; `sail-rl moe probe` writes one")
    try:
        written = json.loads(path.read_text())
        shape = (written["layers"], written["experts"])
        found = {
            name: Activation(
                source["rows"], source["rows_with_images"], source["tokens"], numpy.array(source["counts"])
            )
            for name, source in written["sources"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} isn't a file of `sail-rl moe probe`: {error!r}") from None
    for name, activation in found.items():
        if activation.counts.shape != shape:
            raise ValueError(
                f"{path}, source {name}: counts are {activation.counts.shape}, not layers x experts {shape}"
            )
        if activation.tokens < 1 or not (activation.counts.sum(-1) > 0).all():
            raise ValueError(f"{path}, source {name}: no tokens were routed; probe again with rows that have text")
    return found
