"""Batches for supervised fine-tuning: dataset rows in a seeded order, or packed from a stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count

from sail_rl.data.encoding import Encoder, Sample
from sail_rl.data.order import RowStream
from sail_rl.data.prefetch import Prefetcher
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
        with _samples(self.encoder, self.stream) as samples:
            for step in count(start_step):
                samples.prefetch(own := self.stream.share(step))
                batch = StepBatch.token_mean([samples.get(number) for number in own])
                samples.prefetch(self.stream.share(step + 1))
                yield batch


@dataclass(frozen=True, slots=True)
class StreamedBatches:
    """A `BatchSource` of full micro-batches. Each rank decodes only its own images."""

    packer: StreamPacker
    encoder: Encoder
    rank: int
    distribution: Distribution = MODEL_DISTRIBUTION

    def batches(self, learner: Learner, *, start_step: int) -> Iterator[StepBatch]:
        """Yield this rank's micro-batches of each step. The packer knows its position; `start_step` is not used."""
        with _samples(self.encoder, self.packer.stream) as samples:
            while True:
                shares, metrics = self.packer.step()
                learner.record(metrics)
                own = shares[self.rank]
                samples.prefetch(chain.from_iterable(own))
                batch = [samples.get(number) for number in chain.from_iterable(own)]
                indices = iter(range(len(batch)))
                samples.prefetch(chain.from_iterable(self.packer.peek()[self.rank]))
                yield StepBatch.token_mean(batch, layout=[[next(indices) for _ in numbers] for numbers in own])


def _samples(encoder: Encoder, stream: RowStream) -> Prefetcher[int, Sample]:
    """The samples of a stream's rows, by row number."""
    return Prefetcher(lambda row: encoder.sft_sample(stream.rows[row]), describe=stream.describe)
