"""The interface between batch sources and the trainer: `BatchSource`, `StepBatch` and `Learner`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from sail_rl.contracts import RolloutEngine
from sail_rl.data.encoding import Sample
from sail_rl.maths.importance import effective_sample_share
from sail_rl.models import Distribution, TokenLogprobs

from .stopwatch import Stopwatch


class Learner(Protocol):
    """The trainer's interface for batch sources. Every rank must call the methods marked as collective."""

    stopwatch: Stopwatch
    """Collects the durations that the current step logs."""

    @property
    def step(self) -> int:
        """Number of finished optimiser steps."""
        ...

    @property
    def weights_version(self) -> int:
        """The version under which engines know the current weights."""
        ...

    def push_weights(self, engine: RolloutEngine) -> None:
        """Send the current weights to the engine, unless it already has them (collective)."""
        ...

    def compute_logprobs(
        self, samples: Sequence[Sample], *, model: torch.nn.Module | None = None, adapters: bool = True
    ) -> list[TokenLogprobs]:
        """Log-probs of each sample's completion, on the CPU (collective).

        Args:
            samples: this rank's samples.
            model: another model than the policy.
            adapters: False switches the policy's LoRA off.
        """
        ...

    def normalise_returns(self, mean: float, deviation: float) -> None:
        """Tell a new critic the mean and deviation of returns; a critic that knows them keeps them."""
        ...

    def record(self, metrics: dict[str, float]) -> None:
        """Add metrics to the current step's log entry."""
        ...


@dataclass(frozen=True, slots=True)
class StepBatch:
    """This rank's part of one optimiser step.

    The step's loss is the sum of weight x token loss over the samples of all ranks, divided by the sum of all ranks'
    `loss_denominator` (see `maths.aggregation`).

    Attributes:
        samples: samples with the token field `weights`. Samples without a gradient may be left out.
        loss_denominator: this rank's part of the denominator, left-out samples included.
        layout: sample indices of each micro-batch; None: first-fit packing.
        critic_only: train the critic alone (its warm-up); no other weight changes.
    """

    samples: list[Sample]
    loss_denominator: float
    layout: list[list[int]] | None = None
    critic_only: bool = False

    @classmethod
    def token_mean(cls, samples: list[Sample], *, layout: list[list[int]] | None = None) -> StepBatch:
        """A batch whose labelled tokens all have the same weight."""
        for sample in samples:
            sample.token_fields.weights = torch.ones(sample.completion_length)
        return cls(samples, float(sum(sample.completion_length for sample in samples)), layout)


@dataclass(frozen=True, slots=True)
class StepTotals:
    """Sums over one optimiser step, all micro-batches of all ranks: the loss denominator, the labelled `tokens`, and
    the `positions` of samples with labelled tokens."""

    loss_denominator: float
    tokens: int
    positions: int

    @property
    def empty(self) -> bool:
        """True if no token of any rank has a part in the loss."""
        return not (self.loss_denominator and self.tokens)


class BatchSource(Protocol):
    """The source of the samples of each optimiser step."""

    @property
    def distribution(self) -> Distribution:
        """The distribution whose log-probs the loss takes."""
        ...

    def batches(self, learner: Learner, *, start_step: int) -> Iterator[StepBatch]:
        """Yield this rank's samples for optimiser steps `start_step`, `start_step + 1`, …"""
        ...


def summed_metrics(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    """Sum the ranks' parts of the token means and derive further metrics; a rank without labels has no parts."""
    names = sorted({name for part in parts for name in part})
    metrics = {name: sum(part.get(name, 0.0) for part in parts) for name in names}
    if "ratio/mean_square" in metrics:
        square = metrics.pop("ratio/mean_square")
        metrics["ratio/effective_share"] = effective_sample_share(metrics["ratio/mean"], square)
    return metrics
