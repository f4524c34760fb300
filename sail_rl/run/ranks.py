"""Refuses to resume a stage with another number of ranks where its checkpoint can't be rewritten for them."""

from __future__ import annotations

from sail_rl.config import Recipe
from sail_rl.trainer.checkpoints import newest_checkpoint
from sail_rl.trainer.repartition import has_sub_groups, ranks_of

FIXED_LAYOUTS = {
    "round_robin_gradients": "orders the parameters by the number of ranks",
    "elastic_checkpoint": "writes optimiser states in another form",
    "parameter_alignment": "pads each parameter",
}
"""DeepSpeed's `zero_options` under which checkpoints of ZeRO-1 and 2 keep their number of ranks, with the reason."""


def check_ranks(recipe: Recipe, *, ranks: int) -> None:
    """Check the newest checkpoints of the unfinished stages (rank 0, before a model loads).

    Raises:
        ValueError: naming the stage, both numbers of ranks, the reason and the remedy.
    """
    for stage in recipe.training:
        folder = recipe.run_dir.stage(stage.name)
        found = None if folder.result.exists() else newest_checkpoint(folder.root)
        if found is None or (before := ranks_of(found[0])) in (None, ranks):
            continue
        reasons = [f"{key} {why}" for key, why in FIXED_LAYOUTS.items() if recipe.deepspeed.zero_options.get(key)]
        if stage.adalrs and folder.line_search.is_dir():
            reasons.append("adalrs keeps a state to return to")
        if has_sub_groups(found[0], ranks=ranks):
            reasons.append("ZeRO-3 divides the parameters into several sub-groups (sub_group_size)")
        if reasons:
            raise ValueError(
                f"stage {stage.name}: {found[0]} was written by {before} rank(s), and this job has {ranks}, but "
                f"{reasons[0]}; resume with {before} rank(s), or start the stage again with --redo after changing it"
            )
