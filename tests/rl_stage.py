"""Runs the RL stage of a recipe in this process, on rows and with an engine and an evaluation of the test's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sail_rl.config import Recipe
from sail_rl.contracts import RolloutEngine
from sail_rl.plan.plan import Plan
from sail_rl.stages.train import Stage
from sail_rl.trainer.distributed import join_process_group


def recipe_of(folder: Path, parent: Path, stage: dict[str, Any], *, seed: int = 0, every: int = 1000) -> Recipe:
    """A recipe with one RL stage, which is evaluated every `every` steps."""
    return Recipe.model_validate(
        {
            "name": "tested",
            "seed": seed,
            "output_dir": folder,
            "model": {"path": parent, "max_length": 128},
            "data": {"files": {"rows": "unused.jsonl"}},
            "evaluation": {
                "data": "rows",
                "every": every,
                "max_tokens": 8,
                "rewards": {"accuracy": {"path": "rewards.answer:math_answer"}},
            },
            "stages": [{"name": "rl", "kind": "rl", "data": "rows", "save_every": 1000, "guards": None} | stage],
        }
    )


def run_stage(
    recipe: Recipe, *, parent: Path, engine: RolloutEngine, rows: Sequence[dict[str, Any]], evaluator: Any
) -> list[dict[str, float]]:
    """Run the stage as `sail-rl run` does; returns the metrics of step 0, of every step, …"""
    join_process_group()
    plan: Any = Plan(recipe, {"rows": rows}, {}, {})  # type: ignore[dict-item]
    found: list[dict[str, float]] = []
    Stage(
        plan,
        recipe.rl_stages[0],
        parent,
        engine,
        evaluator,
        log=lambda metrics, step: found.append(metrics),
        observer=lambda *_: None,
    ).run()
    return found
