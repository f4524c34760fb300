"""`sail-rl data harvest|filter`: data from stored rollouts."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from sail_rl.files import write_whole


def add_data_parser(commands: Any) -> None:
    """Add the commands to the command line."""
    data = commands.add_parser("data", help="make data out of rollouts").add_subparsers(required=True)
    harvest = data.add_parser("harvest", help="right completions, by rejection sampling, as SFT data")
    harvest.add_argument("--per-prompt", type=int, default=1, help="completions of one prompt, no two alike")
    harvest.add_argument("--seed", type=int, default=0)
    harvest.set_defaults(command=_harvest)
    chosen = data.add_parser("filter", help="the rows that are neither too easy nor too hard")
    chosen.add_argument("--kind", choices=["perception", "reasoning", "hard"], default="reasoning")
    chosen.add_argument("--hard-below", type=float, default=0.5, help="with --kind hard: highest pass rate")
    chosen.set_defaults(command=_filter)
    for parser in (harvest, chosen):
        parser.add_argument("rollouts", type=Path, help="a run's folder, or the folder of `sail-rl sample`")
        parser.add_argument("data", type=Path, help="the dataset they were sampled from")
        parser.add_argument("out", type=Path, help="a .parquet file")
        parser.add_argument("--minimum", action="append", default=[], metavar="REWARD=SCORE", help="what is right")
        parser.add_argument("--stage")
        parser.add_argument("--last-steps", type=int, help="only the last so many steps with rollouts")


def _harvest(options: argparse.Namespace) -> None:
    from sail_rl.curation.harvest import rejection_sample
    from sail_rl.data.dataset import Rows

    from .harvest import save_harvest

    rollouts, minimum = _read(options)
    kept = rejection_sample(rollouts, minimum, per_prompt=options.per_prompt, seed=options.seed)
    if not kept:
        raise ValueError(f"{options.rollouts}: none of {len(rollouts)} rollouts is right by {minimum}")
    save_harvest(options.out, Rows(options.data), kept)
    prompts = len({rollout["prompt_id"] for rollout in rollouts})
    sys.stdout.write(
        f"{len(rollouts)} rollouts of {prompts} prompts -> {len(kept)} completions of "
        f"{len({rollout['prompt_id'] for rollout in kept})} prompts in {options.out}\n"
    )


def _filter(options: argparse.Namespace) -> None:
    from sail_rl.curation.harvest import hard_cases, histogram, keeps_difficulty, pass_rates
    from sail_rl.data.dataset import Rows
    from sail_rl.data.saving import save_rows

    from .harvest import places_of

    rollouts, minimum = _read(options)
    rates = pass_rates(rollouts, minimum)
    rows = Rows(options.data)
    places = places_of(rows, rates.keys())
    if options.kind == "hard":
        kept = hard_cases(rates, below=options.hard_below)
    else:
        kept = [prompt for prompt, rate in rates.items() if keeps_difficulty(rate, options.kind)]
    save_rows(options.out, rows, [places[prompt] for prompt in kept], {"pass_rate": [rates[p] for p in kept]})
    dropped = {row_id: rates.get(row_id) for row_id in _ids(rows) if row_id not in set(kept)}
    side = options.out.with_suffix(".dropped.jsonl")
    write_whole(side, "".join(json.dumps({"id": name, "pass_rate": rate}) + "\n" for name, rate in dropped.items()))
    samples = max(1, len(rollouts) // len(rates))
    for rate, count in histogram(rates.values(), samples=samples).items():
        sys.stdout.write(f"pass rate {rate:>5}: {count} prompts\n")
    sys.stdout.write(f"{len(rows)} rows -> {len(kept)} in {options.out}; the others and their rates: {side}\n")


def _read(options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, float]]:
    from sail_rl.reporting.store import read_rollouts

    from .harvest import newest_steps

    if not options.minimum:
        raise ValueError("say what is right: --minimum REWARD=SCORE, for instance --minimum answer=1")
    minimum = {}
    for given in options.minimum:
        name, equals, score = given.rpartition("=")
        try:
            minimum[name] = float(score)
        except ValueError:
            equals = ""
        if not equals or not name:
            raise ValueError(f"--minimum {given}: write REWARD=SCORE")
    return newest_steps(read_rollouts(options.rollouts, stage=options.stage), options.last_steps), minimum


def _ids(rows: Any) -> list[str]:
    return [rows.outline(index)["id"] for index in range(len(rows))]
