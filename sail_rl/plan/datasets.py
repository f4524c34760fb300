"""A recipe's datasets: building, fetching, curating, reading, mixing, and fitting them to the context."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoProcessor

from sail_rl.config import Recipe
from sail_rl.config.curation import CurationRecipe
from sail_rl.config.result_settings import code_hashes
from sail_rl.config.sections import NAME
from sail_rl.curation.curate import curate
from sail_rl.data.broken import checked_pictures
from sail_rl.data.dataset import RowIndex, Rows
from sail_rl.data.encoding import EmptyThought, Encoder
from sail_rl.data.hub import fetched, fetched_path
from sail_rl.data.mixture import sources_of
from sail_rl.files import StrPath, atomic_write, content_hash, sampled_hash, short_hash
from sail_rl.imports import resolve
from sail_rl.paths import without_places

logger = logging.getLogger(__name__)
COLUMNS = {"completions": ("prompt", "completion"), "prompts": ("prompt",)}
"""Columns of rows with completions, and of rows with prompts alone."""


def build_data(
    recipe: Recipe, *, names: Collection[str] | None = None, without: Collection[str] = ()
) -> dict[str, Path]:
    """Return the paths of the datasets by name; fetch or make those that are missing.

    A builder runs unless its files for these arguments exist.

    Args:
        recipe: the resolved recipe.
        names: datasets to return; None: those that the recipe uses.
        without: datasets to leave out.
    """
    if recipe.data.builder:
        return _built(recipe)
    wanted = set(recipe.used_data if names is None else names) - set(without)
    paths = {name: _local(recipe, name) for name in recipe.data.files if name in wanted}
    return paths | {name: _curated(recipe, name) for name in recipe.data.curated if name in wanted}


def _built(recipe: Recipe) -> dict[str, Path]:
    """Return the paths of the builder's datasets. The builder runs unless its files for these arguments exist."""
    assert recipe.data.builder
    run, made_from = recipe.run_dir, builder_inputs(recipe)
    folder = run.data
    manifest = json.loads(run.data_manifest.read_text()) if run.data_manifest.exists() else {}
    if manifest.get("made_from") == made_from:
        return {name: folder / path for name, path in manifest["paths"].items()}
    with run.held():
        logger.info("building the datasets in %s", folder)
        before = _states(folder)
        paths = resolve(recipe.data.builder)(folder, seed=recipe.seed, **recipe.data.kwargs)
        if not isinstance(paths, dict) or not all(Path(path).is_file() for path in paths.values()):
            raise ValueError(
                f"data.builder {recipe.data.builder} must return a dict from names to paths of files that it has "
                "written"
            )
        if wrong := [name for name in paths if not (isinstance(name, str) and re.fullmatch(NAME, name))]:
            raise ValueError(
                f"data.builder {recipe.data.builder} made a dataset called {wrong[0]!r}; use letters, digits, - and _"
            )
        written = {name for name, state in _states(folder).items() if state != before.get(name)}
        manifest = {
            "made_from": made_from,
            "paths": {name: _relative(Path(path), folder) for name, path in paths.items()},
            "written": sorted(written.union(manifest.get("written", ()))),
        }
        folder.mkdir(exist_ok=True)
        atomic_write(run.data_manifest, json.dumps(manifest))
    return {name: Path(path) for name, path in paths.items()}


def _states(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and modification time of everything in a folder, by name: they tell what a builder writes."""
    found = {path.name: path.lstat() for path in folder.iterdir()} if folder.is_dir() else {}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found.items()}


def _relative(path: Path, folder: Path) -> str:
    """The path from `folder` if it lies there, so that the folder can be moved; otherwise the absolute path."""
    path, folder = path.absolute(), folder.absolute()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def builder_inputs(recipe: Recipe) -> dict[str, Any]:
    """The inputs of a builder's datasets: its name, the content of its file, the seed and its arguments."""
    assert recipe.data.builder
    code = [list(found) for found in code_hashes(recipe.data.builder)]
    name = Path(recipe.data.builder).name
    return {"builder": name, "code": code, "seed": recipe.seed, "kwargs": recipe.data.kwargs}


def _local(recipe: Recipe, name: str) -> Path:
    """Return the path of a dataset. A hub dataset is fetched once."""
    source = recipe.data.source(name)
    assert source is not None
    if source.hub is None:
        assert source.path is not None
        return source.path
    if (path := fetched_path(recipe.run_dir.data, name, **source.on_hub)).is_file():
        return path
    with recipe.run_dir.held():
        return fetched(recipe.run_dir.data, name, **source.on_hub)


def _curated(recipe: Recipe, name: str) -> Path:
    """Return the path of a curated dataset. Curation makes it once."""
    curation = recipe.data.curated[name]
    path = _curated_path(recipe, name)
    if not path.is_file():
        logger.info("curating %s: %s", name, ", ".join(step.kind for step in curation.steps))
        with recipe.run_dir.held():
            curate(CurationRecipe(out=path, **dict(curation)))
    return path


def _curated_path(recipe: Recipe, name: str) -> Path:
    curation = recipe.data.curated[name]
    found = [_state(path) for path in curation.inputs]
    roots = [data.root and os.path.relpath(data.root, data.path and data.path.parent) for data in curation.sources]
    made_from = [without_places(curation.model_dump()), found, roots]
    return recipe.run_dir.data / f"{name}-{short_hash(made_from)}.parquet"


def _state(path: Path) -> str | None:
    """The sampled hash of a model's folder, or the content hash of a dataset; None if the path is missing."""
    if (path / "config.json").is_file():
        return sampled_hash(path)
    return content_hash(path) if path.exists() else None


def missing_datasets(recipe: Recipe) -> dict[str, str]:
    """The datasets that a run will fetch or make, each with a sentence on how."""
    missing = {}
    for name in recipe.data.files.keys() & set(recipe.used_data):
        source = recipe.data.source(name)
        if source and source.hub and not fetched_path(recipe.run_dir.data, name, **source.on_hub).is_file():
            missing[name] = f"fetched from the hub's {source.hub} ({source.split}) when a run starts"
    for name in recipe.data.curated.keys() & set(recipe.used_data):
        curation = recipe.data.curated[name]
        if not _curated_path(recipe, name).is_file():
            origin = curation.source.path or f"the hub's {curation.source.hub} ({curation.source.split})"
            steps = ", ".join(step.kind for step in curation.steps)
            missing[name] = f"made of {origin} when a run starts: {steps}"
    return dict(sorted(missing.items()))


def open_rows(
    recipe: Recipe,
    paths: Mapping[str, Path],
    name: str,
    needs: Sequence[str] = ("prompt",),
    row_index: RowIndex | None = None,
    *,
    keep_broken: bool = False,
) -> Rows:
    """Read the dataset called `name` as the recipe says, and check it unless an earlier check gave `row_index`.

    Pictures are opened, but not decoded.
    """
    source = recipe.data.source(name)
    # A curated dataset names videos by absolute paths, which were checked in the original dataset.
    own_root = Path("/") if name in recipe.data.curated else None
    return Rows(
        paths[name],
        needs=needs,
        video_frames=recipe.data.video_frames,
        columns=source.columns if source else None,
        root=source.root if source else own_root,
        row_index=row_index,
        keep_broken=keep_broken,
    )


def load_data(recipe: Recipe, paths: Mapping[str, Path], *, missing: Collection[str] = ()) -> dict[str, Rows]:
    """Read and check every dataset that a stage or the evaluation uses, except the `missing` ones.

    All pictures are decoded. Rows with broken ones are errors, or dropped and listed in the run's folder
    (`data.broken`).
    """
    needs: dict[str, set[str]] = {name: {"prompt"} for name in recipe.evaluation.sets}
    made = {stage.name for stage in recipe.dataset_stages}
    for stage in recipe.training:
        for source in sources_of(recipe.data.mixtures, stage.data).keys() - made:
            needs.setdefault(source, {"prompt"}).update(COLUMNS[stage.learns_from])
    if clash := sorted(made & {*paths, *missing}):
        raise ValueError(f"{clash[0]!r} is both a dataset and a stage that makes one; rename one of them")
    unknown = sorted(set(needs) - {*paths, *missing})
    if unknown:
        raise ValueError(f"no dataset named {', '.join(unknown)}; data gives {', '.join(sorted(paths))}")
    datasets = {}
    for name, columns in needs.items():
        if name in paths:
            rows = open_rows(recipe, paths, name, sorted(columns), keep_broken=True)
            dropped = recipe.run_dir.broken_rows(name) if recipe.data.broken == "drop" else None
            datasets[name] = checked_pictures(rows, dropped=dropped)
    return datasets


def fit_to_context(recipe: Recipe, datasets: Mapping[str, Rows], model_dir: StrPath) -> dict[str, Rows]:
    """Drop or refuse (`data.overlong`) the rows that exceed `model.max_length` tokens of this model's processor.

    A prompt must leave room for one token; a stage that trains on completions needs room for them whole.
    """
    empty_thought: EmptyThought = "none"
    for stage in recipe.sft_stages:
        if stage.empty_thought != "none":
            empty_thought = stage.empty_thought  # a direct answer is then longer
    processor = AutoProcessor.from_pretrained(model_dir)
    supervised = {source for stage in recipe.sft_stages for source in sources_of(recipe.data.mixtures, stage.data)}
    fitting = {}
    for name, rows in datasets.items():
        encoder = Encoder(
            processor, max_length=recipe.model.max_length, empty_thought=empty_thought, source=str(rows.path)
        )
        limit = encoder.max_length - (name not in supervised)
        lengths = [encoder.length(rows.metadata(i), completion=name in supervised) for i in range(len(rows))]
        overlong = [index for index, length in enumerate(lengths) if length > limit]
        if overlong and (recipe.data.overlong == "error" or len(overlong) == len(rows)):
            raise ValueError(
                f"{rows.path}: {len(overlong)} of {len(rows)} rows are too long, first row {rows.number(overlong[0])} "
                f"with {lengths[overlong[0]]} tokens where {limit} fit; raise model.max_length, or drop such rows "
                "with data.overlong=drop (they are never cut)"
            )
        if overlong:
            logger.warning("%s: dropped %d of %d rows, longer than %d tokens", name, len(overlong), len(rows), limit)
        fitting[name] = rows.without(overlong)
    return fitting
