"""Batches for supervised fine-tuning: rows of a dataset in a seeded order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

from sail_rl.data.encoding import Encoder
from sail_rl.data.order import RowStream

from .batches import StepBatch
from .trainer import Trainer


class SupervisedBatches:
    """A `BatchSource` of prompt/completion rows; `stream` gives each rank its share of every batch."""

    def __init__(self, stream: RowStream, encoder: Encoder) -> None:
        self.stream = stream
        self.encoder = encoder
        self.score_options: dict[str, Any] = {}

    def batches(self, trainer: Trainer, *, start_step: int) -> Iterator[StepBatch]:
        """Yield the samples of each optimiser step from `start_step` on."""
        for step in count(start_step):
            yield StepBatch.token_mean([self.encoder.sft_sample(row) for row in self.stream.batch(step)])
