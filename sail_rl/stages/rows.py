"""The rows that a stage trains on: a dataset, the dataset of an earlier stage, or a mixture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from sail_rl.config import Recipe
from sail_rl.data.dataset import Rows
from sail_rl.data.encoding import Encoder
from sail_rl.data.mixed import MixedRows
from sail_rl.data.mixture import sources_of
from sail_rl.plan.datasets import COLUMNS


def rows_of(recipe: Recipe, datasets: Mapping[str, Rows], data: str, encoder: Encoder) -> Rows | MixedRows:
    """The rows called `data`: a dataset, a stage's dataset, or a mixture."""
    made = {stage.name: COLUMNS[stage.makes_data] for stage in recipe.dataset_stages}
    weights = sources_of(recipe.data.mixtures, data)
    sources = {
        # A stage's dataset names videos by absolute paths, which were checked in the original dataset.
        name: Rows(recipe.run_dir.stage(name).dataset, needs=made[name], root=Path("/"))
        if name in made
        else datasets[name]
        for name in weights
    }
    if data not in recipe.data.mixtures:
        return sources[data]
    if recipe.data.mix_by == "samples":
        return MixedRows(sources, weights, dict.fromkeys(sources, 1.0))
    tokens = {
        name: fmean(encoder.length(rows.metadata(index), completion=True) for index in range(len(rows)))
        for name, rows in sources.items()
    }
    return MixedRows(sources, weights, tokens)
