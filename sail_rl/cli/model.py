"""`sail-rl model build --vision DIR --llm DIR --out DIR` , `model convert`, `model soup`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sail_rl.lock import locked_output

from .arguments import user_path


def add_parsers(commands: Any) -> None:
    """Add `model` and its commands to the command line."""
    kinds = commands.add_parser("model", help="build a base model, convert its layout, or average models")
    kinds = kinds.add_subparsers(required=True)

    build = kinds.add_parser("build", help="join a vision encoder and a language model with a new adapter")
    build.add_argument(
        "--vision",
        type=user_path,
        required=True,
        metavar="DIR",
        help="folder of an AIMv2 encoder (SAIL-ViT) or of a SAIL-VL2",
    )
    build.add_argument("--llm", type=user_path, required=True, metavar="DIR", help="folder of a Qwen3 or Qwen3-MoE")
    build.add_argument("--out", type=user_path, required=True, metavar="DIR", help="a new folder")
    build.add_argument(
        "--seed", type=int, default=0, help="seed of the adapter's initialisation (default: %(default)s)"
    )
    build.set_defaults(command=_build)

    convert = kinds.add_parser("convert", help="write a SAIL-VL2 in this library's layout or in the published one")
    convert.add_argument("source", type=user_path, help="folder of a SAIL-VL2 in either layout")
    convert.add_argument("out", type=user_path, help="a new folder")
    convert.add_argument(
        "--published", action="store_true", help="write the published layout, which needs remote code to load"
    )
    convert.set_defaults(command=_convert)

    soup = kinds.add_parser("soup", help="average the weights of models from similar runs")
    soup.add_argument("out", type=user_path, help="a new folder")
    soup.add_argument("models", type=user_path, nargs="+", help="folders of models, each RUN/stages/NAME/model")
    soup.add_argument("--force", action="store_true", help="average models of dissimilar runs, too")
    soup.set_defaults(command=_soup)


def _build(options: argparse.Namespace) -> None:
    from sail_rl.models.build import build_model

    with locked_output(options.out):
        model = build_model(vision_dir=options.vision, llm_dir=options.llm, output_dir=options.out, seed=options.seed)
    _summarise(model, options.out)


def _convert(options: argparse.Namespace) -> None:
    from sail_rl.models.build import convert_model

    with locked_output(options.out):
        model = convert_model(options.source, options.out, published=options.published)
    _summarise(model, options.out)


def _soup(options: argparse.Namespace) -> None:
    from sail_rl.stages.soup import make_soup

    with locked_output(options.out):
        make_soup(options.models, options.out, force=options.force)


def _summarise(model: Any, folder: Path) -> None:
    """Print parameters by part."""
    from rich.console import Console
    from rich.table import Table

    from sail_rl.models.sizes import parameters_by_part

    counts = parameters_by_part(model)
    table = Table("part", "parameters", title=f"{folder}, {str(model.dtype).removeprefix('torch.')}")
    for name, count in [*counts.items(), ("total", sum(counts.values()))]:
        table.add_row(name, f"{count:,}")
    Console().print(table)
