"""What a rollout's tokens need before they can be trained on: trainer log-probs, reference log-probs, values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sail_rl.data.encoding import Sample
from sail_rl.maths.importance import ImportanceCorrection
from sail_rl.maths.token_fields import present

from .batches import Learner


@dataclass(frozen=True, slots=True)
class Annotator:
    """Adds token fields to samples by forward passes without gradient, before the step's first update.

    Args:
        recompute: add `old_logprobs`, the trainer's own, instead of taking the sampler's for them.
        importance: add `importance_weights`, from `old_logprobs` and the sampler's (needs `recompute`).
        values: add `old_values` (the model has a critic).
        reference: add `reference_logprobs`, those of this frozen model.
    """

    recompute: bool = False
    importance: ImportanceCorrection | None = None
    values: bool = False
    reference: nn.Module | None = None

    def __call__(self, learner: Learner, samples: Sequence[Sample]) -> None:
        """Annotate this rank's samples; every rank must call it, with any number of samples."""
        if self.recompute or self.values:
            for sample, scores in zip(samples, learner.compute_logprobs(samples), strict=True):
                if self.recompute:
                    sample.token_fields.old_logprobs = scores.logprobs
                if self.values:
                    assert scores.values is not None
                    sample.token_fields.old_values = scores.values
        if self.importance:
            for sample in samples:
                fields = sample.token_fields
                one_segment = torch.zeros(sample.completion_length, dtype=torch.long)
                fields.importance_weights = self.importance(
                    present(fields.old_logprobs), present(fields.rollout_logprobs), one_segment
                )
        if self.reference is not None:
            for sample, scores in zip(samples, learner.compute_logprobs(samples, model=self.reference), strict=True):
                sample.token_fields.reference_logprobs = scores.logprobs
