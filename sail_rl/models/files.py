"""Reads tensors of a saved model one at a time from its safetensors files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open

EXPERT = re.compile(r"(.+\.mlp\.experts)\.\d+\.(?:gate|up|down)_proj\.weight")


def tensor_names(folder: Path) -> set[str]:
    """The names of all tensors in a folder's safetensors files; empty if it has none."""
    return {name for path in sorted(folder.glob("*.safetensors")) for name in _names(path)}


def read_tensors(folder: Path, names: set[str] | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    """The named tensors, by default all, of a folder's safetensors files."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                if names is None or name in names:
                    yield name, file.get_tensor(name)


def saved_weights(folder: Path, dtype: torch.dtype) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of a model that this library saved, under the names of its parameters and without a critic.

    They are read one at a time; the experts of an MoE's layer, which are separate tensors in the files, together.
    """
    names = {name for name in tensor_names(folder) if not name.startswith("critic.")}
    experts: dict[str, set[str]] = {}
    for name in names:
        if found := EXPERT.fullmatch(name):
            experts.setdefault(found[1], set()).add(name)
    for name, tensor in read_tensors(folder, names.difference(*experts.values())):
        yield name, tensor.to(dtype)
    for layer, own in sorted(experts.items()):
        tensors = dict(read_tensors(folder, own))
        parts = {
            part: torch.stack([tensors[f"{layer}.{number}.{part}_proj.weight"] for number in range(len(own) // 3)])
            for part in ("gate", "up", "down")
        }
        yield f"{layer}.gate_up_proj", torch.cat([parts["gate"], parts["up"]], dim=1).to(dtype)
        yield f"{layer}.down_proj", parts["down"].to(dtype)


def _names(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return list(file.keys())
