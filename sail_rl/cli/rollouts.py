"""`sail-rl sample` and `sail-rl rollouts show|replay`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from sail_rl.imports import with_expanded_path

from .arguments import user_path
from .saved import saved_samples


def add_parsers(commands: Any) -> None:
    """Add both commands to the command line."""
    sample = commands.add_parser(
        "sample", help="sample and score rollouts for each row of a dataset; the same command resumes"
    )
    add_model(sample)
    sample.add_argument("data", type=user_path, help="file of a dataset")
    sample.add_argument("--out", type=user_path, required=True, help="folder for the Parquet files")
    add_sampling_options(sample, n=8, temperature=1.0)
    sample.set_defaults(command=_sample, saved=saved_samples)

    rollouts = commands.add_parser(
        "rollouts", help="print a run's stored rollouts, or score them again"
    ).add_subparsers(required=True)
    show = rollouts.add_parser("show", help="print the rollouts with the lowest and highest rewards")
    show.add_argument("--worst", type=int, default=5, help="number of lowest rewards (default: %(default)s)")
    show.add_argument("--best", type=int, default=0, help="number of highest rewards (default: %(default)s)")
    show.set_defaults(command=_show)
    replay = rollouts.add_parser("replay", help="score stored rollouts with other rewards")
    replay.add_argument(
        "--reward",
        action="append",
        dest="rewards",
        required=True,
        help="reward as module:name or file.py:name, with =WEIGHT if not 1; repeatable",
    )
    replay.add_argument("--json", type=user_path, help="JSON file to write the scores to")
    replay.set_defaults(command=_replay)
    for parser in (show, replay):
        parser.add_argument("run", type=user_path, help="folder of a run")
        parser.add_argument("--stage", help="stage of the run (default: all stages)")
        parser.add_argument("--step", type=int, help="step of the stage (default: all steps)")


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name a model, or a LoRA adapter with its base model."""
    parser.add_argument("model", type=user_path, help="folder of a model (RUN/stages/NAME/model) or LoRA adapter")
    parser.add_argument(
        "--base",
        type=user_path,
        help="folder of the model that the adapter is merged onto (default: the adapter's)",
    )


def add_sampling_options(parser: argparse.ArgumentParser, *, n: int, temperature: float | None) -> None:
    """Add the options for sampling from a model."""
    parser.add_argument("--n", type=int, default=n, help="number of samples of each row (default: %(default)s)")
    parser.add_argument(
        "--reward", action="append", dest="rewards", help="reward as module:name or file.py:name; repeatable"
    )
    for name, default, what in (
        ("max-tokens", 256, "greatest length of a completion in tokens"),
        ("max-length", 1024, "greatest length of prompt and completion in tokens"),
        ("seed", 0, "seed of the samples"),
        ("batch-size", 64, "number of prompts sampled at a time"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{what} (default: %(default)s)")
    usual = "0 for one sample, 1 for several" if temperature is None else "%(default)s"
    parser.add_argument("--temperature", type=float, default=temperature, help=f"temperature (default: {usual})")
    dtypes = ["float32", "bfloat16"]
    parser.add_argument("--dtype", choices=dtypes, default="float32", help="of the weights (default: %(default)s)")
    engine = "rollouts.vllm_engine:VLLMEngine"
    parser.add_argument("--engine", default=engine, help="engine as module:name (default: %(default)s)")


def sampling_options(options: argparse.Namespace) -> dict[str, Any]:
    """The values of these options, by the field names of `SampleOptions`."""
    names = ("n", "max_tokens", "max_length", "seed", "batch_size", "temperature", "dtype", "engine")
    values = {name: getattr(options, name) for name in names}
    return values | ({"rewards": tuple(map(with_expanded_path, options.rewards))} if options.rewards else {})


def _sample(options: argparse.Namespace) -> None:
    from rich.console import Console

    from sail_rl.evaluation.sample import SampleOptions, sample

    console = Console()
    for name, value in sample(
        SampleOptions(options.model, options.data, options.out, options.base, **sampling_options(options))
    ).items():
        console.print(f"{name:12} {value:.4g}")


def _show(options: argparse.Namespace) -> None:
    from rich.console import Console

    from sail_rl.evaluation.replay import show

    show(options.run, Console(), stage=options.stage, step=options.step, worst=options.worst, best=options.best)


def _replay(options: argparse.Namespace) -> None:
    from rich.console import Console

    from sail_rl.config import RewardConfig
    from sail_rl.evaluation.replay import replay

    rewards = {}
    for given in options.rewards:
        path, _, weight = given.partition("=")
        rewards[path.rsplit(":", 1)[-1]] = RewardConfig(path=path, weight=float(weight or 1.0))
    result = replay(options.run, rewards, stage=options.stage, step=options.step)
    if options.json:
        options.json.write_text(json.dumps(result))
    console = Console()
    console.print(f"{len(result['scores'])} rollouts: mean {result['mean']:.4g}, deviation {result['std']:.4g}")
    related = "one of the two is constant" if result["correlation"] is None else f"{result['correlation']:.3f}"
    console.print(f"{result['changed']:.1%} of the totals differ from the run's; correlation with them: {related}")
