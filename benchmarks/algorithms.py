"""Compares all RL algorithms from the same SFT model with equal rollouts, by held-out accuracy before and after.

    python benchmarks/algorithms.py --seeds 17 1 2 --out runs/algorithms [--only ppo …]

Each seed's SFT stage runs once; each variant then runs the quickstart's RL stage (40 batches of 32 prompts x 8 samples)
from its model. A run that sampled more, because its dynamic sampling replaced groups, is repeated with fewer steps: as
many as its first 40 rounds of sampling paid for. The table says how many rollouts the runs really sampled. Finished
runs are reused, so that a stopped script can continue.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

RECIPES = Path(__file__).parent.parent / "recipes"
ROUND = 32 * 8  # rollouts of one round of sampling
BUDGET = 40 * ROUND  # rollouts of one RL stage
HALVES = {"mini_batches": 2, "steps": 80}  # two optimiser steps per batch of rollouts, so that clipping matters
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    # name: the recipe that it extends, and changes to its RL stage
    "grpo, 1 step per batch": ("quickstart", {}),
    "grpo": (
        "quickstart",
        HALVES | {"sampling": {"dynamic_sampling": None}, "loss": {"aggregation": "sequence_mean", "clip_high": 0.2}},
    ),
    "dapo": ("quickstart_dapo", {}),
    "dr_grpo": ("quickstart", HALVES | {"advantages": "dr_grpo", "loss": {"aggregation": "fixed_length"}}),
    "gspo": (
        "quickstart",
        HALVES | {"loss": {"surrogate": "gspo", "aggregation": "sequence_mean", "clip_low": 3e-3, "clip_high": 4e-3}},
    ),
    "cispo": ("quickstart", HALVES | {"loss": {"surrogate": "cispo", "clip_low": 1.0}}),
    "rloo": ("quickstart_rloo", {}),
    "reinforce++": ("quickstart", HALVES | {"advantages": "reinforce_pp_baseline"}),
    "ppo": ("quickstart_ppo", {}),
    "gspo_moe": ("quickstart_gspo_moe", {}),
}


def run(recipe: Path) -> dict[str, Any]:
    """Run a recipe unless it has finished; returns the summary of its last stage."""
    summary = Path(yaml.safe_load(recipe.read_text())["output_dir"]) / "summary.json"
    if not summary.exists():
        with (recipe.with_suffix(".log")).open("w") as log:
            subprocess.run([sys.executable, "-m", "sail_rl", "run", str(recipe)], check=True, stdout=log, stderr=log)
    return json.loads(summary.read_text())["stages"][-1]


def sampled(run_dir: Path) -> dict[int, int]:
    """The rollouts that the RL stage had sampled by each of its optimiser steps, from the run's metrics."""
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    rounds = {r["step"]: int(r.get("sampling/rounds", 0)) for r in records if r["stage"] == "rlvr" and r["step"]}
    return dict(zip(rounds, accumulate(ROUND * number for number in rounds.values()), strict=True))


def run_within_budget(folder: Path, base: str, name: str, tree: dict[str, Any]) -> dict[str, Any]:
    """Run a variant with at most BUDGET rollouts; returns its RL stage's row of the summary, with `rollouts`."""
    result = run(write(folder, base, name, tree))
    rollouts = sampled(folder / name)
    if beyond := [step for step, total in rollouts.items() if total > BUDGET]:  # the first steps of their batches
        steps = min(beyond) - 1
        shorter = tree["stages"] | {"rlvr": tree["stages"]["rlvr"] | {"steps": steps}}
        return run_within_budget(folder, base, f"{name}-{steps}_steps", tree | {"stages": shorter})
    return result | {"rollouts": max(rollouts.values())}


def write(folder: Path, base: str, name: str, changes: dict[str, Any]) -> Path:
    """Write the recipe `name` that extends `base` to `folder`."""
    tree = {"extends": str((RECIPES / f"{base}.yaml").resolve()), "name": name, "output_dir": str(folder / name)}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree | changes, sort_keys=False))
    return folder / f"{name}.yaml"


def sft_model(folder: Path, seed: int, llm: str) -> Path:
    """The folder of the seed's SFT model."""
    changes = {"seed": seed, "model": {"llm": llm}, "stages": {"rlvr": None}}
    recipe = write(folder, "quickstart", f"sft-{llm}-{seed}", changes)
    run(recipe)
    return folder / recipe.stem / "stages/longcot_sft/model"


def main() -> None:
    """Run all variants and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[17, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/algorithms"))
    parser.add_argument("--only", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    print(
        "| algorithm | " + " | ".join(f"seed {seed}" for seed in options.seeds) + " | mean after | rollouts | minutes |"
    )
    print("|---|" + "---|" * (len(options.seeds) + 3))
    for variant in options.only:
        base, changes = VARIANTS[variant]
        results = []
        for seed in options.seeds:
            parent = sft_model(options.out, seed, "qwen3_moe" if base.endswith("moe") else "qwen3")
            name = "".join(c if c.isalnum() else "_" for c in f"{variant}-{seed}")
            tree = {"seed": seed, "model": {"path": str(parent)}, "stages": {"longcot_sft": None, "rlvr": changes}}
            results.append(run_within_budget(options.out, base, name, tree))
        cells = [f"{100 * r['heldout_accuracy_before']:.1f} → {100 * r['heldout_accuracy_after']:.1f}" for r in results]
        after = fmean(100 * result["heldout_accuracy_after"] for result in results)
        rollouts = ", ".join(f"{result['rollouts']:,}" for result in results)
        minutes = fmean(result["minutes"] for result in results)
        print(f"| {variant} | {' | '.join(cells)} | {after:.1f} | {rollouts} | {minutes:.1f} |", flush=True)


if __name__ == "__main__":
    main()
