"""Prints the best and worst stored rollouts of a run, and scores stored rollouts again with other rewards."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import correlation, fmean, pstdev
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.text import Text

from sail_rl.completion import THINK_END
from sail_rl.config import Recipe, RewardConfig
from sail_rl.config.loading import load_recipe
from sail_rl.contracts import Prompt
from sail_rl.plan.datasets import build_data, open_rows
from sail_rl.plan.rewards import plain_scorer
from sail_rl.records.store import StoredRollout, read_rollouts
from sail_rl.run_dir import RunDir


def show(run_dir: Path, console: Console, *, stage: str | None, step: int | None, worst: int, best: int) -> None:
    """Print the `worst` and `best` rollouts by total reward."""
    rollouts = sorted(read_rollouts(run_dir, stage=stage, step=step), key=lambda stored: stored.total)
    chosen = rollouts[:worst] + (rollouts[-best:] if best else [])
    for rollout in chosen:
        console.print(_panel(rollout))
    console.print(f"{len(chosen)} of {len(rollouts)} rollouts")


def replay(run_dir: Path, rewards: dict[str, RewardConfig], *, stage: str | None, step: int | None) -> dict[str, Any]:
    """Score stored rollouts with `rewards` (weighted sum) and compare with the totals they were trained on.

    The dataset's columns reach the rewards as in training. Returns `scores` in stored order, with `before`, `mean`,
    `std`, `changed` (share of totals that differ) and `correlation` (None if one of them is constant).
    """
    stored, prompts = stored_samples(run_dir, stage=stage, step=step)
    scorer = plain_scorer(rewards)
    try:
        scores = scorer(prompts, [each.rollout for each in stored]).total
    finally:
        scorer.close()
    before = [each.total for each in stored]
    varied = pstdev(before) > 0 and pstdev(scores) > 0
    return {
        "before": before,
        "scores": scores,
        "mean": fmean(scores),
        "std": pstdev(scores),
        "changed": fmean(abs(old - new) > 1e-9 for old, new in zip(before, scores, strict=True)),
        "correlation": correlation(before, scores) if varied else None,
    }


def stored_samples(run_dir: Path, *, stage: str | None, step: int | None) -> tuple[list[StoredRollout], list[Prompt]]:
    """The stored rollouts, and the prompt of each as in training, with the dataset's columns."""
    stored = read_rollouts(run_dir, stage=stage, step=step)
    recipe = load_recipe(RunDir(run_dir).recipe)
    rows = {name: _by_id(recipe, name) for name in {each.stage for each in stored}}
    return stored, [_prompt(rows[each.stage], each) for each in stored]


def _by_id(recipe: Recipe, stage: str) -> dict[str, dict[str, Any]]:
    data = next(config.data for config in recipe.training if config.name == stage)
    rows = open_rows(recipe, build_data(recipe), data)
    return {row["id"]: row for row in (rows[index] for index in range(len(rows)))}


def _prompt(rows: dict[str, dict[str, Any]], stored: StoredRollout) -> Prompt:
    row = rows[stored.rollout.prompt_id]
    columns = {name: value for name, value in row.items() if name not in ("prompt", "images", "video", "completion")}
    return Prompt(row["id"], row["prompt"], stored.prompt, row["images"], columns)


def _panel(stored: StoredRollout) -> Panel:
    """One rollout: prompt, thought (dim), answer, rewards."""
    rollout = stored.rollout
    thought, mark, answer = rollout.text.partition(THINK_END)
    completion = Text(thought + mark, style="dim") + Text(answer) if mark else Text(thought)
    parts = ", ".join(f"{name} {value:.3g}" for name, value in stored.rewards.items() if not math.isnan(value))
    title = f"{stored.stage} step {stored.step} · prompt {rollout.prompt_id} #{rollout.sample}"
    facts = f"total {stored.total:.3g} ({parts}) · gold {stored.answer} · {len(rollout.token_ids)} tokens, "
    body = Group(Text(stored.prompt, style="cyan"), completion, Text(facts + rollout.stop_reason, style="bold"))
    return Panel(body, title=title)
