"""Packing: several samples share a micro-batch of bounded length, each with its own attention and positions.

No sample is ever cut. The loss is a sum over labelled tokens, so the layout of samples changes nothing but speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from sail_rl.maths.token_fields import TokenFields, check_alike

from .encoding import Sample

IGNORE = -100


@dataclass(slots=True)
class MicroBatch:
    """S samples packed into one sequence of T tokens, L of them labelled.

    Attributes:
        input_ids: [1, T].
        position_ids: [1, T], counted from 0 within each sample.
        targets: [1, T], shifted within each sample: `targets[0, t]` follows `input_ids[0, t]`; IGNORE if unlabelled.
        cu_seq_lens: [S + 1], the boundaries of the samples (int32).
        pixel_values: [P, 3 x patch²] and `image_grid_thw` [images, 3], as in `models.vision`.
        token_fields: one value for each labelled token, in order.
        segments: [L], the sample that a labelled token belongs to.
        routed_experts: [T, layers, k] experts to replay (-1: the router's own choice), or None.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    targets: torch.Tensor
    cu_seq_lens: torch.Tensor
    pixel_values: torch.Tensor
    image_grid_thw: torch.Tensor
    token_fields: TokenFields
    segments: torch.Tensor
    routed_experts: torch.Tensor | None = None

    @property
    def labelled(self) -> int:
        """L, the number of labelled tokens."""
        return len(self.segments)

    @property
    def trained_positions(self) -> torch.Tensor:
        """[T], true at every position of a sample with labelled tokens, false in padding."""
        lengths = self.cu_seq_lens.diff()
        return torch.isin(torch.repeat_interleave(torch.arange(len(lengths)), lengths), self.segments)

    def model_inputs(self, device: torch.device) -> dict[str, torch.Tensor | int | None]:
        """Keyword arguments of the model's forward; the boundaries have FlashAttention's varlen names."""
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
            "routed_experts": None if self.routed_experts is None else self.routed_experts.to(device),
        }

    def unlabelled(self) -> MicroBatch:
        """The same micro-batch without labels."""
        return replace(
            self,
            targets=torch.full_like(self.targets, IGNORE),
            token_fields=self.token_fields.map(lambda values: values[:0]),
            segments=self.segments[:0],
        )


def first_fit_layout(lengths: Sequence[int], *, pack_length: int) -> list[list[int]]:
    """Assign samples to micro-batches of at most `pack_length` tokens: first-fit decreasing, ties in order.

    Returns:
        The ascending sample indices of each micro-batch. A sample longer than `pack_length` gets its own micro-batch.
    """
    layout: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = next((number for number, space in enumerate(free) if space >= lengths[index]), None)
        if fitting is None:
            layout.append([])
            free.append(pack_length)
            fitting = len(layout) - 1
        layout[fitting].append(index)
        free[fitting] -= lengths[index]
    return [sorted(indices) for indices in layout]


def pack(
    samples: Sequence[Sample], *, pack_length: int, filler: Sample, layout: list[list[int]] | None = None
) -> tuple[list[list[int]], list[MicroBatch]]:
    """Pack samples into micro-batches.

    Args:
        samples: any number of them.
        pack_length: tokens of a micro-batch.
        filler: see `collate`.
        layout: sample indices of each micro-batch; None: `first_fit_layout`.

    Returns:
        The layout and its micro-batches.

    Raises:
        ValueError: if only some of the labelled samples have a token field.
    """
    check_alike([sample.token_fields for sample in samples if sample.completion_length])
    layout = layout or first_fit_layout([len(sample) for sample in samples], pack_length=pack_length)
    return layout, [collate([samples[index] for index in indices], filler=filler) for indices in layout]


def collate(samples: Sequence[Sample], *, filler: Sample) -> MicroBatch:
    """Join samples into one micro-batch.

    Args:
        samples: at least one. Those without labelled tokens (padding) need no token fields.
        filler: an unlabelled image. It is appended if no sample has an image, because ZeRO's collectives need the
            vision tower in every rank's forward.

    Raises:
        ValueError: if only some of the labelled samples have a token field.
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
    return MicroBatch(
        input_ids=torch.cat([sample.input_ids for sample in parts])[None],
        position_ids=torch.cat([torch.arange(len(sample)) for sample in parts])[None],
        targets=torch.cat(targets)[None],
        cu_seq_lens=lengths.cumsum(0).to(torch.int32),
        pixel_values=torch.cat([sample.pixel_values for sample in parts if sample.pixel_values is not None]),
        image_grid_thw=torch.cat([sample.image_grid_thw for sample in parts if sample.image_grid_thw is not None]),
        token_fields=TokenFields.joined([sample.token_fields for sample in parts if sample.completion_length]),
        segments=torch.cat(segments),
        routed_experts=_routed_experts(parts),
    )


def _routed_experts(parts: Sequence[Sample]) -> torch.Tensor | None:
    """The experts to replay [T, layers, k], -1 for samples that have none; None if no sample has any."""
    shapes = {sample.routed_experts.shape[1:] for sample in parts if sample.routed_experts is not None}
    if not shapes:
        return None
    (shape,) = shapes
    return torch.cat(
        [
            torch.full((len(sample), *shape), -1, dtype=torch.int16)
            if sample.routed_experts is None
            else sample.routed_experts
            for sample in parts
        ]
    )
