"""The stage that makes SFT data out of an earlier RL stage's rollouts."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from sail_rl.config import HarvestStage
from sail_rl.curation.harvest import StoredRollout, pass_rates, rejection_sample
from sail_rl.data.dataset import Rows
from sail_rl.data.saving import save_rows
from sail_rl.files import write_whole
from sail_rl.reporting.store import read_rollouts

from .datasets import harvest_file
from .prepare import Plan
from .stage import StageResult


def harvest(plan: Plan, config: HarvestStage) -> StageResult:
    """Write the stage's dataset and a summary of what went in and came out (rank 0 only).

    Raises:
        ValueError: no stored rollout is right.
    """
    start = time.perf_counter()
    source = next(stage for stage in plan.recipe.training if stage.name == config.rollouts)
    rows = plan.datasets[source.data]
    stored = newest_steps(read_rollouts(plan.recipe.output_dir, stage=config.rollouts), config.last_steps)
    outlines = [rows.outline(index) for index in range(len(rows))]
    wanted = {
        row["id"] for row in outlines if all(str(row.get(column)) in values for column, values in config.where.items())
    }
    chosen = [rollout for rollout in stored if rollout["prompt_id"] in wanted]
    kept = rejection_sample(chosen, config.minimum, per_prompt=config.per_prompt, seed=plan.recipe.seed)
    if not kept:
        raise ValueError(
            f"stage {config.name}: none of {len(chosen)} rollouts of {config.rollouts} is right by {config.minimum}"
        )
    path = harvest_file(plan.recipe, config.name)
    save_harvest(path, rows, kept)
    rates = pass_rates(chosen, config.minimum)
    counts = {
        "rollouts": len(stored),
        "chosen": len(chosen),
        "prompts": len(rates),
        "kept": len(kept),
        "mean_pass_rate": sum(rates.values()) / len(rates),
    }
    write_whole(path.with_name("counts.json"), json.dumps(counts, indent=2))
    return StageResult(config.name, (time.perf_counter() - start) / 60, None, None)


def newest_steps(rollouts: list[dict[str, Any]], last: int | None) -> list[dict[str, Any]]:
    """Those of the last so many steps that have rollouts (None: all)."""
    steps = sorted({rollout["step"] for rollout in rollouts})
    first = steps[-last:][0] if last else steps[0]
    return [rollout for rollout in rollouts if rollout["step"] >= first]


def save_harvest(path: Path, rows: Rows, kept: Sequence[StoredRollout]) -> None:
    """Write kept rollouts as SFT rows: those they were sampled for, with the sampled text as completion.

    Raises:
        ValueError: a rollout's prompt isn't among the rows.
    """
    places = places_of(rows, {rollout["prompt_id"] for rollout in kept})
    save_rows(
        path,
        rows,
        [places[rollout["prompt_id"]] for rollout in kept],
        {
            "id": [f"{rollout['prompt_id']}#{rollout['sample']}@{rollout['step']}" for rollout in kept],
            "completion": [rollout["completion"] for rollout in kept],
        },
    )


def places_of(rows: Rows, wanted: Collection[str]) -> dict[str, int]:
    """Where each row is, by id; every wanted one must be there."""
    places = {rows.outline(index)["id"]: index for index in range(len(rows))}
    if missing := sorted(set(wanted) - places.keys()):
        raise ValueError(f"{rows.path} has no row with id {missing[0]!r} ({len(missing)} are missing)")
    return places
