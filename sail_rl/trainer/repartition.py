"""Rewrites a DeepSpeed checkpoint for another number of ranks, so that a stage resumes on another cluster.

ZeRO divides flat vectors of numbers (float32 weights and Adam's moments) between the ranks, and a checkpoint has one
file for each rank. The numbers themselves are copied unchanged. The layouts are those of DeepSpeed 0.19.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
from torch import distributed
from transformers import Trainer, TrainerCallback

from .checkpoints import MARKER
from .distributed import rank, world_size

logger = logging.getLogger(__name__)
STATES = re.compile(r"(?:bf16_)?zero_pp_rank_(\d+)_mp_rank_00_optim_states\.pt")
MOMENTS = ("exp_avg", "exp_avg_sq")
ALIGNMENT = 2
"""ZeRO-1 and 2 pad a flat vector to a multiple of this number of elements for each rank."""
Shapes = dict[str, torch.Size]
"""Shapes of parameters by name, in the order in which a flat vector holds them."""


def ranks_of(checkpoint: Path) -> int | None:
    """The number of ranks between which a checkpoint's states are divided; None if they aren't divided (ZeRO-0)."""
    return sum(STATES.fullmatch(path.name) is not None for path in _tag(checkpoint).iterdir()) or None


def has_sub_groups(checkpoint: Path, *, ranks: int) -> bool:
    """True if ZeRO-3 divides a parameter group of this checkpoint into several sub-groups, before or on `ranks` ranks.

    DeepSpeed 0.19.8 then resumes with other numbers of the optimiser than it has read (losses differ by 0.1 %).
    """
    paths = [path for path in _tag(checkpoint).iterdir() if STATES.fullmatch(path.name)]
    state = _load(paths[0])
    outer = state["optimizer_state_dict"]
    if outer["zero_stage"] != 3:
        return False
    limit = DeepSpeedZeroConfig(**state["ds_config"]["zero_optimization"]).sub_group_size
    groups = [group["params"] for group in outer["optimizer_state_dict"]["param_groups"]]
    sizes = [sum(outer["fp32_flat_groups"][index].numel() for index in group) for group in groups]
    return any(len(group) > 1 for group in groups) or max(sizes) * len(paths) / ranks > limit


def fitted(checkpoint: Path, trainer: Trainer, copy_to: Path) -> str:
    """The checkpoint, or a copy of it for this job's number of ranks, which goes once it is loaded (collective)."""
    ranks = ranks_of(checkpoint)
    if ranks in (None, world_size()):
        return str(checkpoint)
    if rank() == 0:
        logger.info("%s is of %d ranks; it is read for %d", checkpoint, ranks, world_size())
        shutil.rmtree(copy_to, ignore_errors=True)
    distributed.barrier()
    repartition(checkpoint, copy_to, number=rank(), ranks=world_size())
    distributed.barrier()
    trainer.add_callback(RemoveCopy(copy_to))
    return str(copy_to)


class RemoveCopy(TrainerCallback):
    """Deletes the copy that `fitted` made as soon as every rank has loaded it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        distributed.barrier()
        if rank() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)


def repartition(checkpoint: Path, to: Path, *, number: int, ranks: int) -> None:
    """Write this rank's part of a copy of a checkpoint for `ranks` ranks; every rank calls it.

    The random states of the old ranks are left out. They matter only to dropout, whose draws differ anyway.

    Args:
        checkpoint: a complete checkpoint of ZeRO-1, 2 or 3.
        to: the copy's folder, which must be new; rank 0 also links the checkpoint's other files into it.
        number: this process's number.
        ranks: the new number of ranks.
    """
    source, target = _tag(checkpoint), to / _tag(checkpoint).name
    target.mkdir(parents=True, exist_ok=True)
    paths = sorted(
        (path for path in source.iterdir() if STATES.fullmatch(path.name)), key=lambda path: _number(path.name)
    )
    states = [_load(path) for path in paths]
    stage3 = states[0]["optimizer_state_dict"]["zero_stage"] == 3
    models = [_load(path) for path in _model_files(source, paths, stage3)]
    state, model = states[0] | {}, models[0] | {"dp_world_size": ranks}
    if stage3:
        state["optimizer_state_dict"] = _stage3_states(states, models[0]["param_shapes"], number, ranks)
        if models[0].get("frozen_param_fragments"):
            model["frozen_param_fragments"] = _frozen(models, number, ranks)
    else:
        state["optimizer_state_dict"] = _flat_states(states, number, ranks)
    torch.save(state, target / re.sub(r"pp_rank_\d+_", f"pp_rank_{number}_", paths[0].name))
    if stage3 or number == 0:
        name = f"zero_pp_rank_{number}_mp_rank_00_model_states.pt" if stage3 else "mp_rank_00_model_states.pt"
        torch.save(model, target / name)
    if number == 0:
        for path in checkpoint.iterdir():
            if path.is_file() and path.name != MARKER and not path.name.startswith("rng_state"):
                _link(path, to / path.name)


def _flat_states(states: Sequence[dict[str, Any]], rank: int, ranks: int) -> dict[str, Any]:
    """ZeRO-1 and 2: each parameter group is one flat vector, padded at its end and cut into equal partitions."""
    olds = [state["optimizer_state_dict"] for state in states]
    new = copy.copy(olds[0])
    base = new["base_optimizer_state"] = copy.copy(olds[0]["base_optimizer_state"])
    base["state"], weights, paddings = {}, [], []
    for group in range(len(olds[0]["single_partition_of_fp32_groups"])):
        parts = [old["single_partition_of_fp32_groups"][group].detach() for old in olds]  # without padding
        size = math.ceil(sum(part.numel() for part in parts) / (ALIGNMENT * ranks)) * ALIGNMENT
        own = _stretch(parts, rank * size, (rank + 1) * size)
        weights.append(own)
        paddings.append(size - own.numel())
        total = sum(part.numel() for part in parts)
        start, end = (min(edge * size, total) for edge in (rank, rank + 1))
        base["state"][group] = {
            key: _padded(_stretch([old["base_optimizer_state"]["state"][group][key] for old in olds], start, end), size)
            if key in MOMENTS
            else value
            for key, value in olds[0]["base_optimizer_state"]["state"].get(group, {}).items()
        }
        if not base["state"][group]:  # no step has made an update yet
            del base["state"][group]
    count = [ranks] * len(weights)
    return new | {"single_partition_of_fp32_groups": weights, "group_paddings": paddings, "partition_count": count}


def _stage3_states(states: Sequence[dict[str, Any]], shapes: Sequence[Shapes], rank: int, ranks: int) -> dict[str, Any]:
    """ZeRO-3: each parameter is cut into equal partitions; a rank's partitions are joined into sub-groups."""
    olds = [state["optimizer_state_dict"] for state in states]
    inner = olds[0]["optimizer_state_dict"]
    limit = DeepSpeedZeroConfig(**states[0]["ds_config"]["zero_optimization"]).sub_group_size
    new_inner: dict[str, Any] = {"state": {}, "param_groups": []}
    weights: list[torch.Tensor] = []
    for group in inner["param_groups"]:
        members = []
        for old_index in group["params"]:
            offset = 0
            for shape in shapes[old_index].values():
                members.append((old_index, offset, shape.numel()))
                offset += math.ceil(shape.numel() / len(olds))
        indices = []
        for sub_group in _sub_groups(members, ranks, limit):
            index = len(weights)
            indices.append(index)
            weights.append(_joined([old["fp32_flat_groups"] for old in olds], sub_group, rank, ranks))
            new_inner["state"][index] = {
                key: _joined(
                    [_by_group(old["optimizer_state_dict"]["state"], key) for old in olds], sub_group, rank, ranks
                )
                if key in MOMENTS
                else value
                for key, value in inner["state"].get(sub_group[0][0], {}).items()
            }
            if not new_inner["state"][index]:
                del new_inner["state"][index]
        new_inner["param_groups"].append(group | {"params": indices})
    return olds[0] | {"optimizer_state_dict": new_inner, "fp32_flat_groups": weights, "partition_count": ranks}


Member = tuple[int, int, int]
"""A parameter's old sub-group, the start of its partition there, and its number of elements."""


def _sub_groups(members: Sequence[Member], ranks: int, limit: int) -> Iterator[list[Member]]:
    """Divide a parameter group as DeepSpeed does: a sub-group ends when its partitions reach the limit."""
    sub_group: list[Member] = []
    size = 0
    for number, member in enumerate(members):
        sub_group.append(member)
        size += math.ceil(member[2] / ranks)
        if size >= limit or number == len(members) - 1:
            yield sub_group
            sub_group, size = [], 0


def _joined(flats: Sequence[Any], members: Sequence[Member], rank: int, ranks: int) -> torch.Tensor:
    """This rank's new partitions of these parameters, out of the old ranks' flat vectors (`flats[rank][sub-group]`)."""
    pieces = []
    for index, offset, numel in members:
        old_size, size = math.ceil(numel / len(flats)), math.ceil(numel / ranks)
        parts = [flat[index].detach()[offset : offset + old_size] for flat in flats]
        start, end = (min(edge * size, numel) for edge in (rank, rank + 1))
        pieces.append(_padded(_stretch(parts, start, end), size))
    return torch.cat(pieces)


def _frozen(models: Sequence[dict[str, Any]], rank: int, ranks: int) -> dict[str, torch.Tensor]:
    """ZeRO-3: this rank's new partitions of the frozen parameters."""
    found = {}
    for name, shape in models[0]["frozen_param_shapes"].items():
        fragments = [[model["frozen_param_fragments"][name].flatten()] for model in models]
        found[name] = _joined(fragments, [(0, 0, shape.numel())], rank, ranks)
    return found


def _by_group(state: dict[int, dict[str, Any]], key: str) -> dict[int, torch.Tensor]:
    return {index: values[key] for index, values in state.items() if key in values}


def _stretch(parts: Sequence[torch.Tensor], start: int, end: int) -> torch.Tensor:
    """Elements `start` to `end` of the parts' concatenation, as a new tensor."""
    pieces, offset = [parts[0][:0]], 0
    for part in parts:
        first, last = max(start - offset, 0), min(end - offset, part.numel())
        if first < last:
            pieces.append(part[first:last])
        offset += part.numel()
    return torch.cat(pieces)


def _padded(values: torch.Tensor, size: int) -> torch.Tensor:
    return torch.nn.functional.pad(values, (0, size - values.numel()))


def _model_files(source: Path, states: Sequence[Path], stage3: bool) -> list[Path]:
    if not stage3:
        return [source / "mp_rank_00_model_states.pt"]
    return [source / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" for rank in range(len(states))]


def _tag(checkpoint: Path) -> Path:
    """The folder of DeepSpeed's files in a checkpoint."""
    return checkpoint / (checkpoint / "latest").read_text().strip()


def _number(name: str) -> int:
    found = STATES.fullmatch(name)
    assert found
    return int(found[1])


def _load(path: Path) -> dict[str, Any]:
    """The file's content; its tensors are read when they are used."""
    found: dict[str, Any] = torch.load(path, map_location="cpu", mmap=True, weights_only=False)
    return found


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # the file system has no hard links
        shutil.copyfile(source, target)
