"""A soup: the average of checkpoints of like runs (report, section 4.1; arXiv 2203.05482).

Averaging like runs gained 1.7 points in the report, averaging unlike ones destroyed the model (75 → 13), so unlike ones
are refused unless forced.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor

from sail_rl.models.build import refuse_to_overwrite
from sail_rl.models.loading import load_model
from sail_rl.recipe import essence, load_recipe

RATE_FACTOR = 2.0  # learning rates of like runs differ by at most this
FREE = ("name", "seed")  # what may differ between like runs


def make_soup(sources: Sequence[Path], out: Path, *, force: bool = False) -> None:
    """Write the average of the models in these folders, with the first one's processor.

    Raises:
        ValueError: fewer than two models, models of another form, or unlike runs (unless `force`).
    """
    if len(sources) < 2:
        raise ValueError("a soup takes two models or more")
    refuse_to_overwrite(out)
    if not force and (why := unlike(sources)):
        raise ValueError(f"these models are not of like runs: {'; '.join(why)}. --force averages them all the same")
    model = load_model(sources[0], dtype="auto")
    own = {name: parameter.double() for name, parameter in model.named_parameters()}
    for source in sources[1:]:
        other = dict(load_model(source, dtype="auto").named_parameters())
        if {n: p.shape for n, p in other.items()} != {n: p.shape for n, p in own.items()}:
            raise ValueError(f"{source} has other tensors than {sources[0]}: only models of one form can be averaged")
        for name, tensor in own.items():
            tensor += other[name].double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(own[name] / len(sources))
    model.save_pretrained(out)
    AutoProcessor.from_pretrained(sources[0]).save_pretrained(out)
    lineage = {"soup_of": [str(source) for source in sources], "forced": force}
    (out / "lineage.json").write_text(json.dumps(lineage, indent=2) + "\n")


def unlike(sources: Sequence[Path]) -> list[str]:
    """In what the runs differ that led to these models (`RUN/stages/NAME/model`), besides seeds and small changes."""
    runs = []
    for source in sources:
        if source.name != "model" or not (found := source.parents[2] / "recipe.yaml").is_file():
            return [f"{source} is not RUN/stages/NAME/model, so nothing is known of how it was trained"]
        runs.append(_settings(found, source.parent.name))
    first, differences = runs[0], set()
    for other in runs[1:]:
        for key in sorted(first.keys() | other.keys()):
            left, right = first.get(key), other.get(key)
            if key.endswith("learning_rate") and left and right and max(left, right) <= RATE_FACTOR * min(left, right):
                continue
            if left != right:
                differences.add(f"{key} is {left} and {right}")
    return sorted(differences)


def _settings(recipe_file: Path, stage: str) -> dict[str, Any]:
    """The recipe up to this stage as flat `section.key: value`."""
    tree = essence(load_recipe(recipe_file).model_dump(mode="json"))
    names = [one["name"] for one in tree["stages"]]
    tree["stages"] = {one["name"]: one for one in tree["stages"][: names.index(stage) + 1]}
    for name in (*FREE, "output_dir"):
        tree.pop(name, None)
    return _flat(tree)


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat
