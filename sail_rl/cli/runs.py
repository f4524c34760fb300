"""`sail-rl run`, `check`, `report`, `doctor` and `export`: a recipe before, during and after its run."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from sail_rl.lock import locked_output

from .arguments import user_path
from .rollouts import add_model
from .saved import saved_by_run


def add_parsers(commands: Any) -> None:
    """Add the commands to the command line."""
    run = commands.add_parser("run", help="run a recipe, or resume its run")
    run.add_argument("recipe", type=user_path, help="file of a recipe, or name of a shipped one such as quickstart")
    run.add_argument("overrides", nargs="*", metavar="section.key=value", help="values that replace the recipe's")
    how = run.add_mutually_exclusive_group()
    how.add_argument("--fresh", action="store_true", help="delete what runs wrote into the folder first")
    how.add_argument(
        "--redo", action="store_true", help="repeat the stages whose results would change, and keep the others"
    )
    run.set_defaults(command=_run, saved=saved_by_run)

    check = commands.add_parser("check", help="check a recipe, its data and its memory without loading a model")
    check.add_argument("recipe", type=user_path, help="file of a recipe, or name of a shipped one such as quickstart")
    check.add_argument("overrides", nargs="*", metavar="section.key=value", help="values that replace the recipe's")
    check.add_argument("--ranks", type=int, help="number of processes (GPUs) to plan for (default: those of this job)")
    check.add_argument(
        "--gpu-gib", type=float, help="memory of each GPU in GiB; the command fails if a stage needs more"
    )
    check.set_defaults(command=_check)

    report = commands.add_parser("report", help="write the report of a run again, or compare several runs on one page")
    report.add_argument("runs", type=user_path, nargs="+", metavar="RUN", help="folder of a run")
    report.add_argument("--out", type=user_path, help="folder for the comparison of several runs (default: comparison)")
    report.set_defaults(command=_report)

    doctor = commands.add_parser("doctor", help="say what looks wrong in a run, and how to fix it")
    doctor.add_argument("run", type=user_path, help="folder of a run")
    doctor.set_defaults(command=_doctor)

    export = commands.add_parser(
        "export", help="write a folder for publication: model, processor, model card and lineage"
    )
    add_model(export)
    export.add_argument("out", type=user_path, help="a new folder")
    export.add_argument(
        "--published", action="store_true", help="write the published layout, which needs remote code to load"
    )
    export.add_argument(
        "--push", metavar="OWNER/NAME", help="upload the folder to this repository of the hub (created as private)"
    )
    export.set_defaults(command=_export)


def _run(options: argparse.Namespace) -> None:
    from sail_rl.config.loading import load_recipe

    recipe = load_recipe(options.recipe, options.overrides)
    options.run_dir = recipe.run_dir
    from rich.console import Console

    from sail_rl.reporting.report import summary_table
    from sail_rl.run.run import run
    from sail_rl.trainer.distributed import leave_process_group, rank

    summary = run(recipe, fresh=options.fresh, redo=options.redo)
    leave_process_group()
    if rank() == 0:
        console = Console()
        console.print(summary_table(summary))
        console.print(f"curves and traces: {recipe.run_dir.report}")


def _check(options: argparse.Namespace) -> None:
    from sail_rl.config.loading import load_recipe

    recipe = load_recipe(options.recipe, options.overrides)
    from rich.console import Console

    from sail_rl.plan.check import check, memory, memory_table
    from sail_rl.trainer.distributed import world_size

    for name, value in (("--ranks", options.ranks), ("--gpu-gib", options.gpu_gib)):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} is {value:g}; give a number above 0")
    ranks = options.ranks or world_size()
    for line in check(recipe, ranks=ranks):
        sys.stdout.write(f"{line}\n")
    estimates = memory(recipe, ranks=ranks)
    if estimates:
        Console(width=140).print(memory_table(estimates, ranks=ranks))
    limit = options.gpu_gib or float("inf")
    if large := {name: found.total / 2**30 for name, found in estimates.items() if found.total > limit * 2**30}:
        needs = ", ".join(f"{name} about {gib:.0f} GiB" for name, gib in large.items())
        raise ValueError(
            f"{needs}, more than the {limit:g} GiB of a GPU: spread more (deepspeed.zero_stage, --ranks), offload, "
            "checkpoint gradients, lower pack_length, train with lora, or put the engine on other GPUs"
        )


def _report(options: argparse.Namespace) -> None:
    from sail_rl.reporting.compare import write_comparison
    from sail_rl.reporting.report import write_report

    one = len(options.runs) == 1
    if one and options.out:
        raise ValueError("--out is for a comparison of several runs; one run's report is written into its folder")
    path = write_report(options.runs[0]) if one else write_comparison(options.runs, options.out or Path("comparison"))
    sys.stdout.write(f"{path}\n")


def _doctor(options: argparse.Namespace) -> None:
    from sail_rl.reporting.doctor import examine
    from sail_rl.reporting.series import RunCurves
    from sail_rl.run_dir import RunDir

    run = RunCurves.read(RunDir(options.run).metrics)
    if not run.records:
        raise ValueError(f"{options.run}: metrics.jsonl is missing or has no metrics; give the folder of a run")
    for finding in examine(run):
        sys.stdout.write(f"{finding.stage}: {finding.problem}\n    {finding.remedy}\n")


def _export(options: argparse.Namespace) -> None:
    from sail_rl.stages.export import export_model, push

    with locked_output(options.out):
        export_model(options.model, options.out, base=options.base, published=options.published, name=options.push)
    sys.stdout.write(f"{push(options.out, options.push) if options.push else options.out}\n")
