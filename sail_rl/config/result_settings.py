"""The settings of a recipe that its results depend on, and the hashes of the code that it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sail_rl.files import content_hash
from sail_rl.imports import code_file

RESULT_NEUTRAL = (
    ("output_dir",),
    ("logging",),
    ("engine", "mismatch"),
    ("engine", "probe_rollouts"),
    ("evaluation", "every"),
    ("deepspeed", "timeout_minutes"),
)
RESULT_NEUTRAL_IN_STAGES = {"algorithm", "save_every", "pack_length", "gradient_checkpointing", "max_skipped_steps"}


def result_settings(tree: dict[str, Any], *, timing: bool = True) -> dict[str, Any]:
    """The settings of a resolved recipe that its results depend on; all others may change when a run resumes.

    Code files are named without their folders: their content decides (see `code_hashes`), not where they lie.

    Args:
        tree: the resolved recipe as plain values; it is not changed.
        timing: keep the intervals of evaluations and checkpoints if a stage's result depends on them (see `is_timed`).
    """
    tree = _without_folders(tree)
    kept = {"every", "save_every"} if timing and any(map(is_timed, tree.get("stages", []))) else set()
    for *parents, last in RESULT_NEUTRAL:
        if last in kept:
            continue
        node = tree
        for name in parents:
            node = node.get(name, {})
        node.pop(last, None)
    for stage in tree.get("stages", []):
        stage.get("sampling", {}).pop("groups_per_score", None)
        in_step_size = {"pack_length"} if stage.get("packing") else set()
        for name in RESULT_NEUTRAL_IN_STAGES - kept - in_step_size:
            stage.pop(name, None)
    return tree


def _without_folders(tree: Any) -> Any:
    """A copy of `tree` in which every `folder/file.py:name` is `file.py:name`."""
    if isinstance(tree, dict):
        return {key: _without_folders(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_without_folders(value) for value in tree]
    return Path(tree).name if code_file(tree) else tree


def code_hashes(tree: Any) -> list[tuple[str, str]]:
    """Names and content hashes of the files that settings name as `file.py:name`, sorted."""
    if isinstance(tree, dict | list):
        values = tree.values() if isinstance(tree, dict) else tree
        return sorted({found for value in values for found in code_hashes(value)})
    file = code_file(tree)
    return [(file.name, content_hash(file))] if file and file.is_file() else []


def is_timed(stage: dict[str, Any]) -> bool:
    """True if a stage's result depends on the intervals of its evaluations and checkpoints.

    A best model is chosen among the evaluated ones, and no batch is sampled ahead of an evaluation or a checkpoint.
    """
    return bool(stage.get("metric_for_best_model") or stage.get("sampling", {}).get("staleness"))
