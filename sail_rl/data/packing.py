"""Packing: several samples share a micro-batch of bounded length, each with its own attention and positions.

No sample is ever cut. The loss is a sum over labelled tokens, so the layout of samples changes nothing but speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sail_rl.maths.token_fields import TokenFields, check_alike

from .encoding import Sample


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a sequence: `length` tokens that attend causally to themselves and to all of segment `prefix`."""

    length: int
    prefix: int | None = None


@dataclass(slots=True)
class MicroBatch:
    """S samples packed into one sequence of T tokens, L of them labelled.

    Samples of one prompt share it (see `Sample.shared_prompt`): the sequence holds the prompt once, and then each
    completion, which attends to the prompt and to itself. Log-probs and gradients are those of the samples alone.

    Attributes:
        input_ids: [1, T].
        position_ids: [1, T], counted from 0 within each sample.
        segments: the parts of the sequence that attend alike, in order; they cover T.
        targets: [L], the labelled tokens, in the order of the samples.
        target_positions: [L], the position whose hidden state predicts each target.
        target_samples: [L], the sample that each target belongs to.
        uses: [T], the number of labelled samples that contain a position: 0 in padding, above 1 in shared prompts.
        pixel_values: [P, 3 x patch²] and `image_grid_thw` [images, 3], as in `models.vision`.
        token_fields: one value for each target.
        routed_experts: [T, layers, k] experts to replay (-1: the router's own choice), or None.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    segments: tuple[Segment, ...]
    targets: torch.Tensor
    target_positions: torch.Tensor
    target_samples: torch.Tensor
    uses: torch.Tensor
    pixel_values: torch.Tensor
    image_grid_thw: torch.Tensor
    token_fields: TokenFields
    routed_experts: torch.Tensor | None = None

    @property
    def labelled(self) -> int:
        """L, the number of labelled tokens."""
        return len(self.targets)

    def model_inputs(self, device: torch.device) -> dict[str, Any]:
        """Keyword arguments of the model's forward."""
        return {
            "input_ids": self.input_ids.to(device),
            "position_ids": self.position_ids.to(device),
            "segments": self.segments,
            "targets": self.targets.to(device),
            "target_positions": self.target_positions.to(device),
            "pixel_values": self.pixel_values.to(device),
            "image_grid_thw": self.image_grid_thw,  # read on the CPU
            "routed_experts": None if self.routed_experts is None else self.routed_experts.to(device),
        }

    def unlabelled(self) -> MicroBatch:
        """The same micro-batch without labels."""
        return replace(
            self,
            targets=self.targets[:0],
            target_positions=self.target_positions[:0],
            target_samples=self.target_samples[:0],
            uses=torch.zeros_like(self.uses),
            token_fields=self.token_fields.map(lambda values: values[:0]),
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
    layout = layout or shared_layout(samples, pack_length=pack_length)
    return layout, [collate([samples[index] for index in indices], filler=filler) for indices in layout]


def shared_layout(samples: Sequence[Sample], *, pack_length: int) -> list[list[int]]:
    """`first_fit_layout` of the samples; those that share a prompt stay together and take its room once.

    If they don't fit into one micro-batch, they are cut into as few parts as their order allows.
    """
    units: list[list[int]] = []
    for indices in _by_prompt(samples):
        room = -1
        for index in indices:
            if room < samples[index].completion_length:
                units.append([])
                room = pack_length - samples[index].prompt_length
            units[-1].append(index)
            room -= samples[index].completion_length
    lengths = [
        samples[unit[0]].prompt_length + sum(samples[index].completion_length for index in unit) for unit in units
    ]
    rows = first_fit_layout(lengths, pack_length=pack_length)
    return [sorted(index for unit in row for index in units[unit]) for row in rows]


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
    pieces, places = _pieces(parts)
    labelled = [(number, sample) for number, sample in enumerate(parts) if sample.completion_length]
    uses = torch.zeros(sum(piece.segment.length for piece in pieces), dtype=torch.long)
    for number, _ in labelled:
        uses[places[number]] += 1
    none = torch.arange(0)
    shown = [parts[piece.sample] for piece in pieces if piece.start == 0]
    return MicroBatch(
        input_ids=torch.cat([parts[piece.sample].input_ids[piece.tokens] for piece in pieces])[None],
        position_ids=torch.cat([torch.arange(piece.start, piece.stop) for piece in pieces])[None],
        segments=tuple(piece.segment for piece in pieces),
        targets=torch.cat([none, *(sample.input_ids[sample.prompt_length :] for _, sample in labelled)]),
        target_positions=torch.cat([none, *(places[n][sample.prompt_length - 1 : -1] for n, sample in labelled)]),
        target_samples=torch.cat([none, *(torch.full((sample.completion_length,), n) for n, sample in labelled)]),
        uses=uses,
        pixel_values=torch.cat([sample.pixel_values for sample in shown if sample.pixel_values is not None]),
        image_grid_thw=torch.cat([sample.image_grid_thw for sample in shown if sample.image_grid_thw is not None]),
        token_fields=TokenFields.joined([sample.token_fields for _, sample in labelled]),
        routed_experts=_routed_experts(parts, pieces),
    )


@dataclass(frozen=True, slots=True)
class _Piece:
    """The tokens `start` to `stop` of a sample, as a segment of a micro-batch."""

    sample: int
    start: int
    stop: int
    prefix: int | None = None

    @property
    def tokens(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def segment(self) -> Segment:
        return Segment(self.stop - self.start, self.prefix)


def _pieces(samples: Sequence[Sample]) -> tuple[list[_Piece], dict[int, torch.Tensor]]:
    """The segments of a micro-batch, and the positions [tokens] of each sample's tokens in its sequence."""
    pieces: list[_Piece] = []
    places: dict[int, torch.Tensor] = {}
    position = 0
    for indices in _by_prompt(samples):
        first = samples[indices[0]]
        if len(indices) == 1:
            pieces.append(_Piece(indices[0], 0, len(first)))
            places[indices[0]] = torch.arange(position, position + len(first))
            position += len(first)
            continue
        prefix, prompt = len(pieces), torch.arange(position, position + first.prompt_length)
        pieces.append(_Piece(indices[0], 0, first.prompt_length))
        position += first.prompt_length
        for index in indices:
            sample = samples[index]
            pieces.append(_Piece(index, sample.prompt_length, len(sample), prefix))
            places[index] = torch.cat([prompt, torch.arange(position, position + sample.completion_length)])
            position += sample.completion_length
    return pieces, places


def _by_prompt(samples: Sequence[Sample]) -> list[list[int]]:
    """The indices of samples that share a prompt, in the order of their first ones.

    Experts to replay are a part of the prompt: two rollouts may have been routed differently.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, sample in enumerate(samples):
        key: tuple[object, ...] = (index,)
        if sample.shared_prompt is not None and sample.completion_length:
            experts = sample.routed_experts
            routes = None if experts is None else experts[: sample.prompt_length].numpy().tobytes()
            key = (id(sample.shared_prompt), routes)
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def _routed_experts(samples: Sequence[Sample], pieces: Sequence[_Piece]) -> torch.Tensor | None:
    """The experts to replay [T, layers, k], -1 for samples that have none; None if no sample has any."""
    shapes = {sample.routed_experts.shape[1:] for sample in samples if sample.routed_experts is not None}
    if not shapes:
        return None
    (shape,) = shapes

    def routes(piece: _Piece) -> torch.Tensor:
        experts = samples[piece.sample].routed_experts
        if experts is None:
            return torch.full((piece.segment.length, *shape), -1, dtype=torch.int16)
        return experts[piece.tokens]

    return torch.cat([routes(piece) for piece in pieces])
