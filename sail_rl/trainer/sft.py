"""Batches for supervised fine-tuning: rows of a dataset in a seeded order, or packed out of a stream."""

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
    """A `BatchSource` of prompt/completion rows; `stream` gives each rank its share of every batch."""

    stream: RowStream
    encoder: Encoder
    distribution: Distribution = MODEL_DISTRIBUTION

    def batches(self, learner: Learner, *, start_step: int) -> Iterator[StepBatch]:
        """Yield the samples of each optimiser step from `start_step` on."""
        for step in count(start_step):
            yield StepBatch.token_mean([self.encoder.sft_sample(row) for row in self.stream.batch(step)])


@dataclass(frozen=True, slots=True)
class StreamedBatches:
    """A `BatchSource` of full packed rows; only this rank's are decoded."""

    packer: StreamPacker
    rows: Sequence[dict[str, Any]]
    encoder: Encoder
    rank: int
    distribution: Distribution = MODEL_DISTRIBUTION

    def batches(self, learner: Learner, *, start_step: int) -> Iterator[StepBatch]:
        """Yield this rank's rows of each optimiser step; the packer's state says where the stream stands."""
        while True:
            shares, metrics = self.packer.step()
            learner.record(metrics)
            own = shares[self.rank]
            samples = [self.encoder.sft_sample(self.rows[number]) for row in own for number in row]
            places = iter(range(len(samples)))
            yield StepBatch.token_mean(samples, places=[[next(places) for _ in row] for row in own])
