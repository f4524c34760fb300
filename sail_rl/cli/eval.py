"""`sail-rl eval MODEL DATA…`: pass@1, pass@k and majority on held-out datasets, by source."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from sail_rl.files import atomic_write

from .arguments import user_path
from .rollouts import add_model, add_sampling_options, sampling_options
from .saved import saved_samples


def add_parsers(commands: Any) -> None:
    """Add the command to the command line."""
    parser = commands.add_parser("eval", help="measure a model's accuracy on held-out datasets, by source")
    add_model(parser)
    parser.add_argument("data", type=user_path, nargs="+", help="files of held-out datasets")
    parser.add_argument("--out", type=user_path, help="folder that keeps the rollouts; the same command resumes there")
    parser.add_argument("--json", type=user_path, help="JSON file to write the metrics to")
    add_sampling_options(parser, n=1, temperature=None)
    parser.set_defaults(command=_eval, saved=saved_samples)


def _eval(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from sail_rl.evaluation.sample import SampleOptions, sample

    if options.temperature is None:
        options.temperature = 1.0 if options.n > 1 else 0.0
    if options.n > 1 and not options.temperature:
        raise ValueError("--n above 1 takes a --temperature above 0: greedy samples are all alike")
    if len({path.stem for path in options.data}) < len(options.data):
        raise ValueError("two datasets have one name; give them different file names")
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for data in options.data:
            out = (options.out or Path(scratch)) / data.stem
            settings = SampleOptions(options.model, data, out, options.base, **sampling_options(options))
            found[data.stem] = sample(settings)
    table = Table("metric", *found, title=str(options.model))
    for name in dict.fromkeys(name for metrics in found.values() for name in metrics):
        table.add_row(name, *(_cell(metrics.get(name)) for metrics in found.values()))
    Console().print(table)
    if options.json:
        atomic_write(options.json, json.dumps(found, indent=2) + "\n")


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
