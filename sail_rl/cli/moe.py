"""`sail-rl moe probe MODEL NAME=PATH…` and `sail-rl moe calibrate PROBE --languages a,b,…`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sail_rl.lock import locked_output
from sail_rl.paths import expanded

from .arguments import user_path


def add_parsers(commands: Any) -> None:
    """Add `moe` with its two commands to the subparsers of the command line."""
    kinds = commands.add_parser("moe", help="measure which experts data sources activate, and mix the sources")
    kinds = kinds.add_subparsers(required=True)

    probe = kinds.add_parser("probe", help="measure which experts each data source activates")
    probe.add_argument("model", type=user_path, help="folder of a saved MoE")
    probe.add_argument("sources", nargs="+", metavar="NAME=PATH", help="sources, each a JSONL or Parquet file")
    probe.add_argument("--out", type=user_path, default=Path("probe.json"), help="file to write (default: %(default)s)")
    probe.add_argument("--rows", type=int, default=2000, help="most rows of a source (default: %(default)s)")
    probe.add_argument("--tokens", type=int, default=1_000_000, help="most tokens of a source (default: %(default)s)")
    probe.add_argument("--pack-length", type=int, default=4096, help="tokens of a forward pass (default: %(default)s)")
    dtypes = ["float32", "bfloat16"]
    probe.add_argument("--dtype", choices=dtypes, default="float32", help="of the weights (default: %(default)s)")
    probe.add_argument("--seed", type=int, default=0, help="seed of the order of rows (default: %(default)s)")
    probe.set_defaults(command=_probe)

    calibrate = kinds.add_parser(
        "calibrate", help="find the mixture of language sources with the highest expert-activation entropy"
    )
    calibrate.add_argument("probe", type=user_path, help="file that `sail-rl moe probe` wrote")
    calibrate.add_argument("--languages", required=True, metavar="a,b,…", help="text-only sources to mix")
    calibrate.add_argument("--keep", nargs="+", default=[], metavar="NAME=LEAST", help="least weights of sources")
    calibrate.add_argument("--cap", nargs="+", default=[], metavar="NAME=MOST", help="greatest weights of sources")
    calibrate.add_argument(
        "--out", type=user_path, default=Path("mixture.yaml"), help="file to write (default: %(default)s)"
    )
    calibrate.set_defaults(command=_calibrate)


def _probe(options: argparse.Namespace) -> None:
    import torch
    from rich.console import Console
    from rich.table import Table

    from sail_rl.moe.probe import Limits, probe, write_probe

    sources = {name: expanded(path) for name, path in _pairs(options.sources, "a source").items()}
    limits = Limits(rows=options.rows, tokens=options.tokens, pack_length=options.pack_length, seed=options.seed)
    with locked_output(options.out):
        result = probe(options.model, sources, limits=limits, dtype=getattr(torch, options.dtype))
        write_probe(options.out, result)
    table = Table("source", "rows", "with images", "tokens", "entropy (mean of layers, nats)")
    for name, source in result["sources"].items():
        mean = sum(source["entropy"]) / len(source["entropy"])
        table.add_row(name, str(source["rows"]), str(source["rows_with_images"]), str(source["tokens"]), f"{mean:.4f}")
    Console().print(table)
    Console().print(f"probe: {options.out}")


def _calibrate(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from sail_rl.data.mixture import write_mixture
    from sail_rl.moe.calibrate import calibrate
    from sail_rl.moe.source import read_probe

    bounds = {name: _weights(getattr(options, name), f"--{name}") for name in ("keep", "cap")}
    languages = [name.strip() for name in options.languages.split(",") if name.strip()]
    found = calibrate(read_probe(options.probe), languages=languages, **bounds)
    write_mixture(options.out, found.weights)
    table = Table("mixture", "language sources", "with multimodal", title="expert-activation entropy, nats")
    for name, entropies in found.entropies.items():
        table.add_row(name, f"{entropies['text']:.4f}", f"{entropies['all']:.4f}" if "all" in entropies else "–")
    console = Console()
    console.print(table)
    for name, weight in found.weights.items():
        console.print(f"{name}: {weight:.4f}")
    console.print(f"within {found.gap:.1e} nats of the optimum; mixture: {options.out}")


def _pairs(words: Sequence[str], what: str) -> dict[str, str]:
    """`NAME=VALUE` words as a dictionary."""
    pairs: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise ValueError(f"{word!r}: write {what} as NAME=VALUE")
        if name in pairs:
            raise ValueError(f"{word!r}: {name} is given twice")
        pairs[name] = value
    return pairs


def _weights(words: Sequence[str], option: str) -> dict[str, float]:
    weights = {}
    for name, value in _pairs(words, f"{option}'s bound").items():
        try:
            weights[name] = float(value)
        except ValueError:
            raise ValueError(f"{option} {name}={value}: {value!r} is not a number") from None
    return weights
