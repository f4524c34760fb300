"""`sail-rl check`: finds mistakes in a recipe without weights, GPUs or downloads."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from rich.table import Table

from sail_rl.config import Recipe

from .datasets import build_data, load_data, missing_datasets
from .memory import GIB, Estimate, estimate
from .overlap import overlaps
from .plan import check_code, make_plan
from .policy import check_base, model_config
from .rewards import check_gold_answers
from .settings import check_best_metrics


def check(recipe: Recipe, *, ranks: int) -> Iterator[str]:
    """Check a recipe and yield one line for each finding: versions, data, batch algebra.

    Raises:
        ValueError: for the first mistake found.
    """
    check_versions()
    recipe.run_dir.refuse_strangers()
    yield "versions: as required"
    algebra = check_code(recipe, world_size=ranks)
    missing = missing_datasets(recipe)
    model_is_missing = bool(recipe.model.path and not recipe.model.path.exists())
    if recipe.model.path and not model_is_missing:
        check_base(recipe.model.path)
    if missing or model_is_missing:
        datasets = load_data(recipe, build_data(recipe, without=missing), missing=missing)
        check_gold_answers(recipe, datasets, missing=missing)
        check_best_metrics(recipe, datasets)
        if model_is_missing:
            yield f"model {recipe.model.path}: not here; what it takes is known of its size, {recipe.model.size}"
    else:
        datasets = make_plan(recipe, algebra).datasets
    for name, rows in datasets.items():
        yield f"data {name}: {len(rows)} rows with {', '.join(rows.columns)}"
    for name, how in missing.items():
        yield f"data {name}: not here; {how}"
    yield from map(str, overlaps(recipe, datasets))
    for name, line in algebra.items():
        yield f"stage {name}: {line}"


def check_versions() -> None:
    """Compare the installed versions with those that the package requires.

    Raises:
        ValueError: naming every package that is missing or of another version.
    """
    wrong = []
    for line in requires("sail-rl") or ():
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate():
            continue
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            found = "not installed"
        if found == "not installed" or not wanted.specifier.contains(found, prereleases=True):
            wrong.append(f"{wanted.name}{wanted.specifier} (found: {found})")
    if wrong:
        raise ValueError(f"versions that this package can't work with: {', '.join(wrong)}")


def memory(recipe: Recipe, *, ranks: int) -> dict[str, Estimate]:
    """Memory estimates by stage; {} for the tiny model."""
    config = model_config(recipe)
    return {stage.name: estimate(recipe, stage, config, ranks=ranks) for stage in recipe.training} if config else {}


def memory_table(estimates: dict[str, Estimate], *, ranks: int) -> Table:
    """The estimates for a terminal, in GiB."""
    uses = list(dict.fromkeys(use for found in estimates.values() for use in found.gpu))
    table = Table("stage", *uses, "one GPU", "CPU of a rank", title=f"GiB, {ranks} GPU(s)")
    for name, found in estimates.items():
        numbers = [found.gpu.get(use, 0.0) for use in uses] + [found.total, found.cpu]
        table.add_row(name, *(f"{number / GIB:.1f}" for number in numbers))
    return table
