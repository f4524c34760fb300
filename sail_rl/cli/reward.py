"""`sail-rl reward test`: scores completions with one reward or several."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import user_path

if TYPE_CHECKING:
    from sail_rl.config import RewardConfig
    from sail_rl.evaluation.reward_trial import RewardTrial

POLL = 0.5  # seconds


def add_parsers(commands: Any) -> None:
    """Add the command to the command line."""
    reward = commands.add_parser("reward", help="try rewards on completions").add_subparsers(required=True)
    test = reward.add_parser(
        "test",
        help="score completions with a reward, and report on it; exits with status 1 if it failed for a completion",
    )
    test.add_argument(
        "reward", help="module:name, file.py:name, or a recipe (its first RL stage; another by RECIPE#STAGE)"
    )
    test.add_argument(
        "data", type=user_path, help="JSONL or Parquet file with prompt and completion, or the folder of a run"
    )
    test.add_argument(
        "--with", action="append", default=[], dest="others", metavar="NAME=PATH", help="a further reward; repeatable"
    )
    test.add_argument("--expression", help="total over the rewards' names, such as 0.9 * answer + 0.1 * format")
    test.add_argument("--kwargs", type=json.loads, default={}, help="JSON object with keyword arguments of the reward")
    test.add_argument("--isolate", action="store_true", help="call the reward in processes that can be killed")
    test.add_argument("--against", type=user_path, help="file of expected scores, in the data's order")
    test.add_argument("--show", type=int, default=10, help="number of samples to print (default: %(default)s)")
    test.add_argument("--json", type=user_path, help="JSON file to write the outcome to")
    test.add_argument("--watch", action="store_true", help="run again whenever the reward or the data is saved")
    test.add_argument("--stage", help="stage of the run (default: all stages)")
    test.add_argument("--step", type=int, help="step of the stage (default: all steps)")
    test.set_defaults(command=_test)


def _test(options: argparse.Namespace) -> int:
    if not options.watch:
        return int(run_test(options).failures > 0)
    from rich.console import Console

    console = Console()
    with contextlib.suppress(KeyboardInterrupt):
        for _ in _changes(options):
            console.clear()
            _forget_user_code(options)
            try:
                run_test(options)
            except (ValueError, RuntimeError) as error:  # the file is being edited
                console.print(f"[red]{error}[/red]")
            console.print("[dim]watching; Ctrl-C ends[/dim]")
    return 0


def run_test(options: argparse.Namespace) -> RewardTrial:
    """Run the test once, print it, and write its JSON if asked to."""
    from sail_rl.config import DEFAULT_SCORER
    from sail_rl.evaluation.reward_examples import read_examples, read_expected
    from sail_rl.evaluation.reward_trial import as_json, try_rewards
    from sail_rl.imports import resolve
    from sail_rl.plan.rewards import make_terms

    from .reward_report import print_test

    rewards, expression = chosen_rewards(options)
    examples = read_examples(options.data, stage=options.stage, step=options.step)
    if options.against:
        examples = replace(examples, expected=read_expected(options.against, len(examples)))
    # A failure is counted and shown here, even where it would stop a run.
    terms = [replace(term, on_error="none") for term in make_terms(rewards)]
    scorer = resolve(DEFAULT_SCORER)(terms, expression=expression, lenient=True)
    try:
        trial: RewardTrial = try_rewards(terms, scorer, examples)
    finally:
        scorer.close()
    if options.json:
        options.json.write_text(json.dumps(as_json(trial, examples), allow_nan=False) + "\n")
    print_test(trial, examples, show=options.show)
    return trial


def chosen_rewards(options: argparse.Namespace) -> tuple[dict[str, RewardConfig], str | None]:
    """The rewards by name and the expression over them, from the arguments or a recipe's stage."""
    from sail_rl.config import RewardConfig

    path, _, stage_name = options.reward.partition("#")
    if ":" not in path:
        from sail_rl.config.loading import load_recipe

        if options.others or options.kwargs or options.isolate:
            raise ValueError("--with, --kwargs and --isolate are for rewards named one by one; a recipe has its own")
        stages = load_recipe(Path(path)).rl_stages
        chosen = next((stage for stage in stages if stage_name in ("", stage.name)), None)
        if chosen is None:
            raise ValueError(f"{path} has no RL stage {stage_name!r}; it has {', '.join(s.name for s in stages)}")
        return chosen.rewards, options.expression or chosen.total
    if not isinstance(options.kwargs, dict):
        raise ValueError(f"--kwargs is {options.kwargs!r}; give a JSON object")
    rewards = {_name(options.reward): RewardConfig(path=options.reward, kwargs=options.kwargs, isolate=options.isolate)}
    for given in options.others:
        name, _, other = given.partition("=")
        if not other:
            raise ValueError(f"--with {given}: write NAME=PATH")
        rewards[name] = RewardConfig(path=other)
    return rewards, options.expression


def _name(path: str) -> str:
    return path.rpartition(":")[2] or path


def _changes(options: argparse.Namespace) -> Iterator[None]:
    """Once at first, and then whenever one of the files has been written."""
    before: Any = None
    while True:
        now = {file: file.stat().st_mtime_ns for file in _files(options) if file.is_file()}
        if now != before:
            before = now
            yield
        time.sleep(POLL)


def _files(options: argparse.Namespace) -> list[Path]:
    files = [options.data, *([options.against] if options.against else [])]
    for path in (options.reward, *(given.partition("=")[2] for given in options.others)):
        module = path.rpartition(":")[0] or path.partition("#")[0]
        if module.endswith((".py", ".yaml", ".yml")):
            files.append(Path(module))
        elif found := getattr(sys.modules.get(module), "__file__", None):
            files.append(Path(found))
    return files


def _forget_user_code(options: argparse.Namespace) -> None:
    """Let the rewards' modules be imported anew."""
    for name in [name for name in sys.modules if name.startswith("sail_rl_user_")]:
        del sys.modules[name]
    for path in (options.reward, *(given.partition("=")[2] for given in options.others)):
        sys.modules.pop(path.rpartition(":")[0], None)
    importlib.invalidate_caches()
