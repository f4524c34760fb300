"""Batches for supervised fine-tuning: rows of a dataset in a seeded order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import torch

from sail_rl.data.encoding import Encoder
from sail_rl.data.order import RowStream

from .trainer import StepBatch, Trainer


class SupervisedBatches:
    """A `BatchSource` of prompt/completion rows; `stream` gives each rank its share of every batch."""

    def __init__(self, stream: RowStream, encoder: Encoder) -> None:
        self.stream = stream
        self.encoder = encoder
        self.score_options: dict[str, Any] = {}

    def batches(self, trainer: Trainer, *, start_step: int) -> Iterator[StepBatch]:
        """Yield the samples of each optimiser step from `start_step` on."""
        for step in count(start_step):
            samples = [self.encoder.sft_sample(row) for row in self.stream.batch(step)]
            for sample in samples:
                sample.token_fields["weights"] = torch.ones(sample.completion_length)
            yield StepBatch(samples, mass=float(sum(sample.completion_length for sample in samples)))
