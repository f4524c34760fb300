"""The stage that makes SFT data out of an earlier RL stage's rollouts."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

from sail_rl.config import HarvestStage
from sail_rl.curation.harvest import pass_rates, rejection_sample
from sail_rl.data.saving import save_rows
from sail_rl.files import write_whole
from sail_rl.reporting.store import read_rollouts

from .prepare import Plan, harvest_file
from .stage import StageResult


def harvest(plan: Plan, config: HarvestStage) -> StageResult:
    """Write the stage's dataset, a summary of what went in and came out, and the result (rank 0 only).

    Raises:
        ValueError: no stored rollout is right.
    """
    start = time.perf_counter()
    source = next(stage for stage in plan.recipe.training if stage.name == config.rollouts)
    rows = plan.datasets[source.data]
    outlines = {row["id"]: (index, row) for index in range(len(rows)) for row in [rows.outline(index)]}
    rollouts = read_rollouts(plan.recipe.output_dir, stage=config.rollouts)
    if config.last_steps:
        newest = sorted({rollout["step"] for rollout in rollouts})[-config.last_steps :]
        rollouts = [rollout for rollout in rollouts if rollout["step"] >= newest[0]]
    chosen = [
        rollout
        for rollout in rollouts
        if all(str(outlines[rollout["prompt_id"]][1].get(column)) in values for column, values in config.where.items())
    ]
    kept = rejection_sample(chosen, config.minimum, per_prompt=config.per_prompt, seed=plan.recipe.seed)
    if not kept:
        raise ValueError(
            f"stage {config.name}: none of {len(chosen)} rollouts of {config.rollouts} is right by {config.minimum}"
        )
    path = harvest_file(plan.recipe, config.name)
    save_rows(
        path,
        rows,
        [outlines[rollout["prompt_id"]][0] for rollout in kept],
        {
            "id": [f"{rollout['prompt_id']}#{rollout['sample']}@{rollout['step']}" for rollout in kept],
            "completion": [[{"role": "assistant", "content": rollout["completion"]}] for rollout in kept],
        },
    )
    rates = pass_rates(chosen, config.minimum)
    counts = {
        "rollouts": len(rollouts),
        "chosen": len(chosen),
        "prompts": len(rates),
        "kept": len(kept),
        "mean_pass_rate": sum(rates.values()) / len(rates),
    }
    write_whole(path.with_name("counts.json"), json.dumps(counts, indent=2))
    result = StageResult(config.name, (time.perf_counter() - start) / 60, None, None)
    write_whole(path.with_name("result.json"), json.dumps(asdict(result), indent=2))
    return result
