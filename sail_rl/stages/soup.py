"""A soup: the average of the models of similar runs (report, section 4.1; arXiv 2203.05482).

In the report, averaging similar runs gained 1.7 points; averaging dissimilar ones destroyed the model (75 → 13). They
are refused unless forced.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor

from sail_rl.config import Recipe, SoupStage
from sail_rl.config.loading import load_recipe
from sail_rl.config.result_settings import result_settings
from sail_rl.data.mixture import sources_of
from sail_rl.files import atomic_path
from sail_rl.models.build import refuse_to_overwrite
from sail_rl.models.folder import model_folder
from sail_rl.models.merging import load_merged
from sail_rl.plan.plan import Plan
from sail_rl.run_dir import BASE, LINEAGE, RunDir

from .train import StageResult

RATE_FACTOR = 2.0  # the largest ratio of learning rates between similar runs
FREE = ("name", "seed", "parent")  # settings that may differ between similar runs


def make_soup(sources: Sequence[Path], out: Path, *, force: bool = False) -> None:
    """Write the average of the models (or merged LoRA adapters) in these folders, with the first one's processor.

    Raises:
        ValueError: for fewer than two models, different architectures, or dissimilar runs (unless `force`).
    """
    if len(sources) < 2:
        raise ValueError("a soup takes two models or more")
    refuse_to_overwrite(out)
    first, *others = map(model_folder, sources)
    if not force and (why := dissimilarities(sources)):
        raise ValueError(f"these models come from dissimilar runs: {'; '.join(why)}. --force averages them anyway")
    model = load_merged(first, dtype="auto")
    own = {name: parameter.double() for name, parameter in model.named_parameters()}
    for source in others:
        other = dict(load_merged(source, dtype="auto").named_parameters())
        if {n: p.shape for n, p in other.items()} != {n: p.shape for n, p in own.items()}:
            raise ValueError(f"{source.given} has other tensors than {sources[0]}; average models of one architecture")
        for name, tensor in own.items():
            tensor += other[name].double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(own[name] / len(sources))
    model.save_pretrained(out)
    AutoProcessor.from_pretrained(first.model).save_pretrained(out)
    lineage = {"soup_of": [str(source) for source in sources], "forced": force}
    (out / LINEAGE).write_text(json.dumps(lineage, indent=2) + "\n")


def dissimilarities(sources: Sequence[Path]) -> list[str]:
    """List the differences between the runs of these models (`RUN/stages/NAME/model`) that forbid averaging."""
    runs = []
    for source in map(Path.resolve, sources):
        if (run := RunDir.of_model(source)) is None:
            return [f"{source} is not RUN/stages/NAME/model, so its training settings are unknown"]
        runs.append(_settings(load_recipe(run.recipe), source.parent.name))
    (shared, stages), differences = runs[0], set()
    for other_shared, other_stages in runs[1:]:
        if len(stages) != len(other_stages):
            differences.add(f"they come from {len(stages)} and {len(other_stages)} stages")
            continue
        pairs = [(shared, other_shared, "")]
        pairs += [(own, other, f"stages.{own['name']}.") for own, other in zip(stages, other_stages, strict=True)]
        for own, other, prefix in pairs:
            differences |= set(_differences(_flat(own, prefix), _flat(other, prefix)))
    return sorted(differences)


def soup_stage(plan: Plan, config: SoupStage, models: Sequence[Path]) -> StageResult:
    """Average the models of stages of this run into the soup stage's model (rank 0 only).

    Raises:
        ValueError: see `make_soup`.
    """
    start = time.perf_counter()
    with atomic_path(plan.recipe.run_dir.stage(config.name).model) as partial:
        make_soup(models, partial, force=config.force)
    return StageResult(config.name, (time.perf_counter() - start) / 60, None, None)


def _differences(left: dict[str, Any], right: dict[str, Any]) -> Iterator[str]:
    """Yield the differences that matter. Names, seeds and similar learning rates don't."""
    for key in sorted(left.keys() | right.keys()):
        one, other = left.get(key), right.get(key)
        if key.endswith("learning_rate") and one and other and max(one, other) <= RATE_FACTOR * min(one, other):
            continue
        if one != other and key.rpartition(".")[2] not in FREE:
            yield f"{key} is {one} and {other}"


def _settings(recipe: Recipe, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the recipe without its stages, and the settings of the stages that led to the model, in order."""
    tree = result_settings(recipe.model_dump(mode="json"))
    by_name = {stage["name"]: stage for stage in tree.pop("stages")}
    wanted, found = [name], set()
    while wanted:
        if (stage := wanted.pop()) in found or stage == BASE:
            continue
        found.add(stage)
        config = recipe.stage(stage)
        wanted += recipe.parents(config)
        if config.trains:
            names = sources_of(recipe.data.mixtures, config.data)
            wanted += [maker.name for maker in recipe.dataset_stages if maker.name in names]
        if config.reads_rollouts_of:
            wanted.append(config.reads_rollouts_of)
    return tree, [by_name[stage.name] for stage in recipe.stages if stage.name in found]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat
