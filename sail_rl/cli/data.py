"""`sail-rl data show|curate|harvest|filter`: looking at data, curating it, and making it out of stored rollouts."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sail_rl.files import atomic_write
from sail_rl.lock import locked_output

from .arguments import user_path
from .saved import saved_by_curation

if TYPE_CHECKING:
    from sail_rl.records.store import StoredRollout


def add_parsers(commands: Any) -> None:
    """Add the commands to the command line."""
    data = commands.add_parser("data", help="look at data, curate data, or make data from rollouts").add_subparsers(
        required=True
    )
    show = data.add_parser("show", help="print rows as the model sees them: template, trained tokens, image tokens")
    show.add_argument("data", type=user_path, help="file or folder of a dataset, or a recipe together with --name")
    show.add_argument("--name", help="which of the recipe's datasets to show")
    show.add_argument("--model", type=user_path, help="checkpoint whose processor is used (default: the recipe's)")
    show.add_argument("--row", type=int, default=0, help="number of the first row to show (default: %(default)s)")
    show.add_argument("--rows", type=int, default=3, help="number of rows to show (default: %(default)s)")
    show.add_argument("--max-length", type=int, default=1_000_000, help="greatest length of a row in tokens")
    show.add_argument(
        "--empty-thought",
        choices=["none", "trained", "masked"],
        default="none",
        help="show rows without a thought as a stage with this `empty_thought` trains them (default: %(default)s)",
    )
    show.add_argument("--columns", nargs="*", default=[], metavar="OURS=THEIRS", help="columns that have other names")
    show.add_argument("--root", type=user_path, help="folder that image paths are relative to (default: the dataset's)")
    show.set_defaults(command=_show)
    curated = data.add_parser(
        "curate", help="run the steps of a curation recipe, and count the rows that each step drops"
    )
    curated.add_argument("recipe", type=user_path, help="file of a curation recipe, or the name of a shipped one")
    curated.add_argument("overrides", nargs="*", metavar="section.key=value", help="values that replace the recipe's")
    curated.set_defaults(command=_curate, saved=saved_by_curation)
    harvest = data.add_parser("harvest", help="make SFT data of right completions (rejection sampling)")
    harvest.add_argument(
        "--per-prompt", type=int, default=1, help="most completions of one prompt, all different (default: %(default)s)"
    )
    harvest.add_argument("--seed", type=int, default=0, help="seed of the choice (default: %(default)s)")
    harvest.set_defaults(command=_harvest)
    chosen = data.add_parser("filter", help="keep the rows whose pass rate makes them useful for RL")
    chosen.add_argument(
        "--kind",
        choices=["perception", "reasoning", "hard"],
        default="reasoning",
        help="keep pass rates below 1, strictly between 0 and 1, or above 0 up to --hard-below (default: %(default)s)",
    )
    chosen.add_argument(
        "--hard-below", type=float, default=0.5, help="highest pass rate that --kind hard keeps (default: %(default)s)"
    )
    chosen.set_defaults(command=_filter)
    for parser in (harvest, chosen):
        parser.add_argument("rollouts", type=user_path, help="folder of a run, or of `sail-rl sample`")
        parser.add_argument("data", type=user_path, help="dataset that the rollouts were sampled from")
        parser.add_argument("out", type=user_path, help="Parquet file to write")
        parser.add_argument(
            "--minimum", action="append", default=[], metavar="REWARD=SCORE", help="least score of a right one"
        )
        parser.add_argument("--stage", help="stage of the run (default: all stages)")
        parser.add_argument("--last-steps", type=int, help="read only this number of last steps")


def _show(options: argparse.Namespace) -> None:
    from rich.console import Console
    from transformers import AutoProcessor

    from sail_rl.data.encoding import Encoder

    from .data_show import shown

    rows, model = _rows_and_model(options)
    processor = AutoProcessor.from_pretrained(model)
    encoder = Encoder(
        processor, max_length=options.max_length, empty_thought=options.empty_thought, source=str(rows.path)
    )
    console = Console()
    if not 0 <= options.row < len(rows):
        raise ValueError(f"--row {options.row}: {rows.path} has rows 0 to {len(rows) - 1}")
    for index in range(options.row, min(options.row + options.rows, len(rows))):
        console.print(shown(rows, index, encoder))


def _rows_and_model(options: argparse.Namespace) -> tuple[Any, Path]:
    """The dataset that the options name, and the model whose processor renders it."""
    from sail_rl.data.dataset import Rows
    from sail_rl.models.folder import check_model_folder

    if options.name is None and options.data.suffix not in (".yaml", ".yml"):
        if options.model is None:
            raise ValueError("give --model: the checkpoint whose template and image tokens are shown")
        columns = {}
        for given in options.columns:
            ours, equals, theirs = given.partition("=")
            if not equals or not theirs:
                raise ValueError(f"--columns {given}: write OURS=THEIRS, such as prompt=problem")
            columns[ours] = theirs
        check_model_folder(options.model)
        return Rows(options.data, columns=columns, root=options.root), options.model
    from sail_rl.config.loading import load_recipe
    from sail_rl.plan.datasets import build_data, open_rows

    recipe = load_recipe(options.data)
    paths = build_data(recipe, names=[options.name])
    if options.name not in paths:
        known = {*recipe.data.files, *recipe.data.curated, *(paths if recipe.data.builder else ())}
        raise ValueError(f"--name {options.name}: {options.data} has the datasets {', '.join(sorted(known))}")
    model = options.model or recipe.model.path or recipe.run_dir.base
    if not options.model and not model.exists():
        raise ValueError(f"no model at {model}: give --model, or run the recipe first, which builds its model there")
    check_model_folder(model)
    return open_rows(recipe, paths, options.name), model


def _curate(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from sail_rl.config.curation import CurationRecipe
    from sail_rl.config.loading import read_tree, validated
    from sail_rl.curation.curate import curate

    recipe = validated(CurationRecipe, read_tree(options.recipe, options.overrides), options.recipe)
    options.made = recipe.out
    table = Table("step", "in", "out", "changed", "dropped", title=str(recipe.out))
    for counts in curate(recipe):
        reasons = ", ".join(f"{number} {reason}" for reason, number in counts.dropped.items())
        numbers = (counts.rows_in, counts.rows_out, counts.changed)
        table.add_row(counts.step, *map(str, numbers), reasons or "–")
    Console().print(table)


def _harvest(options: argparse.Namespace) -> None:
    from sail_rl.curation.harvest import rejection_sample, save_harvest
    from sail_rl.data.dataset import Rows

    rollouts, minimum = _read(options)
    kept = rejection_sample(rollouts, minimum, per_prompt=options.per_prompt, seed=options.seed)
    if not kept:
        raise ValueError(f"{options.rollouts}: none of {len(rollouts)} rollouts is right by {minimum}")
    with locked_output(options.out):
        save_harvest(options.out, Rows(options.data), kept)
    prompts = len({stored.rollout.prompt_id for stored in rollouts})
    sys.stdout.write(
        f"{len(rollouts)} rollouts of {prompts} prompts -> {len(kept)} completions of "
        f"{len({stored.rollout.prompt_id for stored in kept})} prompts in {options.out}\n"
    )


def _filter(options: argparse.Namespace) -> None:
    from sail_rl.curation.harvest import histogram, kept_by_rate, pass_rates, save_filtered
    from sail_rl.data.dataset import Rows

    rollouts, minimum = _read(options)
    rates = pass_rates(rollouts, minimum)
    rows = Rows(options.data)
    kept = kept_by_rate(rates, options.kind, hard_below=options.hard_below)
    dropped = {row_id: rates.get(row_id) for row_id in _ids(rows) if row_id not in set(kept)}
    side = options.out.with_suffix(".dropped.jsonl")
    lines = "".join(json.dumps({"id": name, "pass_rate": rate}) + "\n" for name, rate in dropped.items())
    with locked_output(options.out):
        save_filtered(options.out, rows, kept, rates)
        atomic_write(side, lines)
    samples = max(1, len(rollouts) // len(rates))
    for rate, count in histogram(rates.values(), samples=samples).items():
        sys.stdout.write(f"pass rate {rate:>5}: {count} prompts\n")
    sys.stdout.write(f"{len(rows)} rows -> {len(kept)} in {options.out}; the others and their rates: {side}\n")


def _read(options: argparse.Namespace) -> tuple[list[StoredRollout], dict[str, float]]:
    from sail_rl.curation.harvest import newest_steps
    from sail_rl.records.store import read_rollouts

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
    return [rows.metadata(index)["id"] for index in range(len(rows))]
