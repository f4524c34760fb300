"""The stages that make data out of an earlier RL stage's rollouts: right completions, or rows by pass rate."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from sail_rl.config import FilterStage, HarvestStage, RolloutsStage
from sail_rl.curation.harvest import (
    histogram,
    kept_by_rate,
    newest_steps,
    pass_rates,
    rejection_sample,
    save_filtered,
    save_harvest,
)
from sail_rl.data.dataset import Rows
from sail_rl.files import atomic_write
from sail_rl.plan.plan import Plan
from sail_rl.records.store import StoredRollout, read_rollouts

from .train import StageResult


def harvest_stage(plan: Plan, config: HarvestStage, models: Sequence[Path]) -> StageResult:
    """Write right rollouts as the stage's dataset, and a summary with counts; runs on rank 0 only.

    Raises:
        ValueError: if no stored rollout is right.
    """
    start = time.perf_counter()
    rows, rollouts = _chosen(plan, config)
    kept = rejection_sample(rollouts, config.minimum, per_prompt=config.per_prompt, seed=plan.recipe.seed)
    if not kept:
        raise ValueError(
            f"stage {config.name}: none of {len(rollouts)} rollouts of {config.rollouts} is right by {config.minimum}"
        )
    save_harvest(plan.recipe.run_dir.stage(config.name).dataset, rows, kept)
    _write_counts(plan, config, rollouts, pass_rates(rollouts, config.minimum), kept=len(kept))
    return StageResult(config.name, (time.perf_counter() - start) / 60, None, None)


def filter_stage(plan: Plan, config: FilterStage, models: Sequence[Path]) -> StageResult:
    """Write the rows that `keep` selects by pass rate as the stage's dataset, and a summary; runs on rank 0 only.

    Raises:
        ValueError: if no row is selected.
    """
    start = time.perf_counter()
    rows, rollouts = _chosen(plan, config)
    rates = pass_rates(rollouts, config.minimum)
    kept = kept_by_rate(rates, config.keep, hard_below=config.hard_below)
    if not kept:
        found = histogram(rates.values(), samples=max(1, len(rollouts) // max(1, len(rates))))
        raise ValueError(
            f"stage {config.name}: no row has a pass rate that `keep: {config.keep}` selects; pass rates are {found}"
        )
    save_filtered(plan.recipe.run_dir.stage(config.name).dataset, rows, kept, rates)
    _write_counts(plan, config, rollouts, rates, kept=len(kept))
    return StageResult(config.name, (time.perf_counter() - start) / 60, None, None)


def _chosen(plan: Plan, config: RolloutsStage) -> tuple[Rows, list[StoredRollout]]:
    """The rows that were sampled, and the rollouts of the last steps whose rows match `where`."""
    rows = plan.datasets[plan.recipe.origin(config.name)]
    stored = newest_steps(read_rollouts(plan.recipe.output_dir, stage=config.rollouts), config.last_steps)
    metadata = [rows.metadata(index) for index in range(len(rows))]
    wanted = {
        row["id"] for row in metadata if all(str(row.get(column)) in values for column, values in config.where.items())
    }
    return rows, [each for each in stored if each.rollout.prompt_id in wanted]


def _write_counts(
    plan: Plan, config: RolloutsStage, rollouts: Sequence[StoredRollout], rates: Mapping[str, float], *, kept: int
) -> None:
    counts = {
        "rollouts": len(rollouts),
        "prompts": len(rates),
        "kept": kept,
        "mean_pass_rate": sum(rates.values()) / max(1, len(rates)),
    }
    atomic_write(plan.recipe.run_dir.stage(config.name).counts, json.dumps(counts, indent=2))
