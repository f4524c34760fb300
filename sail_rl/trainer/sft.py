"""Batches for supervised fine-tuning: dataset rows in a seeded order, or packed from a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from sail_rl.data.encoding import Encoder
from sail_rl.data.order import RowStream
from sail_rl.data.stream import StreamPacker
from sail_rl.models import MODEL_DISTRIBUTION, Distribution

from .batches import Learner, StepBatch


@dataclass(frozen=True, slots=True)
class SupervisedBatches:
    """A `BatchSource` of prompt/completion rows. `stream` gives each rank its share of every batch."""

    stream: RowStream
    encoder: Encoder
    distribution: Distribution = MODEL_DISTRIBUTION

    def batches(self, learner: Learner, *, start_step: int) -> Iterator[StepBatch]:
        """Yield this rank's samples for optimiser steps `start_step`, `start_step + 1`, …"""
        for step in count(start_step):
            yield StepBatch.token_mean([self.encoder.sft_sample(row) for row in self.stream.batch(step)])


@dataclass(frozen=True, slots=True)
class StreamedBatches:
    """A `BatchSource` of full micro-batches. Each rank decodes only its own images."""

    packer: StreamPacker
    rows: Sequence[dict[str, Any]]
    encoder: Encoder
    rank: int
    distribution: Distribution = MODEL_DISTRIBUTION

    def batches(self, learner: Learner, *, start_step: int) -> Iterator[StepBatch]:
        """Yield this rank's micro-batches of each step. The packer knows its position; `start_step` is not used."""
        while True:
            shares, metrics = self.packer.step()
            learner.record(metrics)
            own = shares[self.rank]
            samples = [self.encoder.sft_sample(self.rows[number]) for numbers in own for number in numbers]
            indices = iter(range(len(samples)))
            yield StepBatch.token_mean(samples, layout=[[next(indices) for _ in numbers] for numbers in own])
