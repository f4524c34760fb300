"""Reads tensors of a saved model one at a time from its safetensors files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open


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


def _names(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return list(file.keys())
