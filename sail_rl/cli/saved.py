"""What an interrupted command has saved, and how to go on: the two lines that it ends with."""

from __future__ import annotations

import argparse
from pathlib import Path

from sail_rl.run_dir import BASE, RunDir
from sail_rl.trainer.checkpoints import newest_checkpoint

from .interrupts import NOTHING

Lines = tuple[str, str]
GO_ON = "the same command goes on from there"


def saved_by_run(options: argparse.Namespace) -> Lines:
    """The finished stages and the newest checkpoint of the run whose folder is `options.run_dir`, if it is known."""
    run: RunDir | None = getattr(options, "run_dir", None)
    if run is None or not run.has_run:
        return NOTHING
    stages = [run.stage(path.name) for path in sorted(run.stages.glob("*"))]
    kept = [stage.root.name for stage in stages if stage.result.is_file()]
    kept += [
        f"{stage.root.name} up to step {found[1]}"
        for stage in stages
        if not stage.result.is_file() and (found := newest_checkpoint(stage.root))
    ]
    how = "the same command without --fresh goes on from there" if options.fresh else GO_ON
    begun = "the base model and the datasets" if run.model(BASE).is_dir() else "the datasets that were made"
    return f"{run.root} keeps {', '.join(kept) or begun}", how


def saved_samples(options: argparse.Namespace) -> Lines:
    """The batches of rollouts in `options.out`."""
    out: Path | None = options.out
    return (f"{out} keeps the batches sampled so far", GO_ON) if out and out.is_dir() else NOTHING


def saved_by_curation(options: argparse.Namespace) -> Lines:
    """The answers of the judge, and the thoughts of a model, beside the output of the recipe `options.made`."""
    out: Path | None = getattr(options, "made", None)
    files = [out.with_suffix(end) for end in (".judge.sqlite", ".thoughts.jsonl")] if out else []
    kept = [str(path) for path in files if path.is_file()]
    return (f"{' and '.join(kept)} keeps what models have answered", GO_ON) if kept else NOTHING
