"""Data mixtures in YAML or JSON files: `{source: weight}`, where a weight is the source's share of the tokens."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from pathlib import Path

import yaml

from sail_rl.files import atomic_write
from sail_rl.yaml_reading import read_yaml_file

SUM_TOLERANCE = 1e-6


def write_mixture(path: Path, weights: Mapping[str, float]) -> None:
    """Write weights, which sum to 1, as YAML that `read_mixture` reads back unchanged."""
    check_mixture(weights, where=str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, yaml.safe_dump({name: float(weight) for name, weight in weights.items()}, sort_keys=False))


def read_mixture(path: Path, *, sources: Collection[str] | None = None) -> dict[str, float]:
    """The weights of the mixture at `path`, which sum to 1, one for each of `sources` (by default those in the file).

    Raises:
        ValueError: for a missing file, a file without a mapping, unknown or missing sources, or invalid weights.
    """
    if not path.is_file():
        raise ValueError(f"no mixture at {path}; `sail-rl moe calibrate` writes one")
    weights = read_yaml_file(path)
    if not isinstance(weights, dict):
        raise ValueError(f"{path}: a mixture is a mapping of source: weight, not {type(weights).__name__}")
    sources = list(weights) if sources is None else sources
    for name in weights:
        if name not in sources:
            raise ValueError(f"{path}: unknown source {name!r}; the sources are {', '.join(sources)}")
    missing = [name for name in sources if name not in weights]
    if missing:
        raise ValueError(f"{path}: no weight for {', '.join(missing)}; write 0 to leave a source out")
    check_mixture(weights, where=str(path))
    return {name: float(weights[name]) for name in sources}


def sources_of(mixtures: Mapping[str, Path | dict[str, float]], data: str) -> dict[str, float]:
    """The datasets that `data` names, with their shares: one dataset, or a mixture in a file or in the recipe."""
    mixture = mixtures.get(data, {data: 1.0})
    if isinstance(mixture, Path):
        return read_mixture(mixture)
    check_mixture(mixture, where=f"data.mixtures.{data}")
    return mixture


def check_mixture(weights: Mapping[str, object], *, where: str) -> None:
    """Raise ValueError unless the weights are numbers of at least 0 that sum to 1."""
    total = 0.0
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise ValueError(f"{where}: the weight of {name} is {weight!r}; give a number of at least 0")
        total += weight
    if abs(total - 1) > SUM_TOLERANCE:
        raise ValueError(f"{where}: the weights sum to {total:.6g}; make them sum to 1")
