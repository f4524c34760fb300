"""Packing: samples share rows of bounded length, each with its own attention and positions; nothing is cut.

A row is one micro-batch. All arithmetic of the loss is over labelled tokens, so how samples fall into rows changes
nothing but speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from sail_rl.maths.token_fields import TokenFields

from .encoding import Sample

IGNORE = -100


@dataclass(slots=True)
class PackedRow:
    """One micro-batch: S segments in a row of T tokens, L of them labelled.

    `input_ids`, `position_ids` and `targets` are [1, T]; `targets` are shifted within each segment (`targets[0, t]`
    follows `input_ids[0, t]`, IGNORE where nothing is scored); `cu_seq_lens` [S + 1] are the segments' boundaries;
    `pixel_values` [P, 3 x patch²], `image_grid_thw` [images, 3] as in `models.vision`; each of `token_fields` is [L],
    in the order of the labelled tokens; `segments` [L] says which of the row's samples a labelled token belongs to;
    `routes` [T, layers, k] are experts to replay (-1: none), or None.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    targets: torch.Tensor
    cu_seq_lens: torch.Tensor
    pixel_values: torch.Tensor
    image_grid_thw: torch.Tensor
    token_fields: TokenFields
    segments: torch.Tensor
    routes: torch.Tensor | None = None

    @property
    def labelled(self) -> int:
        """L, the number of scored tokens."""
        return len(self.segments)

    @property
    def scored(self) -> torch.Tensor:
        """[T], true at the positions of samples that have labelled tokens: whatever else is there only fills up."""
        lengths = self.cu_seq_lens.diff()
        return torch.isin(torch.repeat_interleave(torch.arange(len(lengths)), lengths), self.segments)

    def model_inputs(self, device: torch.device) -> dict[str, torch.Tensor | int | None]:
        """Keyword arguments of the model's forward (FlashAttention's varlen names for the boundaries)."""
        boundaries = self.cu_seq_lens.to(device)
        longest = int(self.cu_seq_lens.diff().max())
        return {
            "input_ids": self.input_ids.to(device),
            "position_ids": self.position_ids.to(device),
            "targets": self.targets.to(device),
            "pixel_values": self.pixel_values.to(device),
            "image_grid_thw": self.image_grid_thw,  # read on the CPU
            "cu_seq_lens_q": boundaries,
            "cu_seq_lens_k": boundaries,
            "max_length_q": longest,
            "max_length_k": longest,
            "routes": None if self.routes is None else self.routes.to(device),
        }

    def fully_masked(self) -> PackedRow:
        """The same row with nothing to score."""
        return replace(
            self,
            targets=torch.full_like(self.targets, IGNORE),
            token_fields=self.token_fields.map(lambda values: values[:0]),
            segments=self.segments[:0],
        )


def assign_rows(lengths: Sequence[int], *, pack_length: int) -> list[list[int]]:
    """Distribute samples over rows of at most `pack_length` tokens: first-fit decreasing, ties in order.

    Returns the sample indices of each row. A sample longer than `pack_length` gets a row to itself.
    """
    rows: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = next((row for row, space in enumerate(free) if space >= lengths[index]), None)
        if fitting is None:
            rows.append([])
            free.append(pack_length)
            fitting = len(rows) - 1
        rows[fitting].append(index)
        free[fitting] -= lengths[index]
    return [sorted(row) for row in rows]


def collate(samples: Sequence[Sample], *, filler: Sample) -> PackedRow:
    """Join samples into one row.

    Args:
        samples: at least one.
        filler: one unlabelled image, appended when no sample has one, because ZeRO's collectives need the vision
            tower in every rank's forward.
    """
    parts = list(samples)
    if all(sample.pixel_values is None for sample in parts):
        parts.append(filler)
    targets, segments = [], []
    for number, sample in enumerate(parts):
        shifted = torch.full_like(sample.input_ids, IGNORE)
        shifted[sample.prompt_length - 1 : -1] = sample.input_ids[sample.prompt_length :]
        targets.append(shifted)
        segments.append(torch.full((sample.completion_length,), number))
    lengths = torch.tensor([0] + [len(sample) for sample in parts])
    return PackedRow(
        input_ids=torch.cat([sample.input_ids for sample in parts])[None],
        position_ids=torch.cat([torch.arange(len(sample)) for sample in parts])[None],
        targets=torch.cat(targets)[None],
        cu_seq_lens=lengths.cumsum(0).to(torch.int32),
        pixel_values=torch.cat([sample.pixel_values for sample in parts if sample.pixel_values is not None]),
        image_grid_thw=torch.cat([sample.image_grid_thw for sample in parts if sample.image_grid_thw is not None]),
        token_fields=TokenFields.joined([sample.token_fields for sample in parts if sample.completion_length]),
        segments=torch.cat(segments),
        routes=_routes(parts),
    )


def _routes(parts: Sequence[Sample]) -> torch.Tensor | None:
    """The row's experts to replay; -1 for the parts that have none."""
    shapes = {sample.routes.shape[1:] for sample in parts if sample.routes is not None}
    if not shapes:
        return None
    (shape,) = shapes
    return torch.cat(
        [s.routes if s.routes is not None else torch.full((len(s), *shape), -1, dtype=torch.int16) for s in parts]
    )


def pack(samples: Sequence[Sample], *, pack_length: int, filler: Sample) -> list[PackedRow]:
    """Pack samples into as few rows of `pack_length` tokens as first-fit decreasing needs."""
    rows = assign_rows([len(sample) for sample in samples], pack_length=pack_length)
    return [collate([samples[index] for index in row], filler=filler) for row in rows]
