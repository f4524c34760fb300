"""Token fields that need a forward pass of the trainer: old and reference log-probs, importance weights, values."""

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
    """Sets token fields by forward passes without gradient, before the step's first update.

    Args:
        recompute: set `old_logprobs`, the trainer's own; otherwise the engine's log-probs take their role.
        importance: set `importance_weights` from the trainer's and the engine's log-probs; requires `recompute`.
        values: set `old_values`; requires a model with a critic.
        reference: set `reference_logprobs`, the log-probs under this frozen model.
    """

    recompute: bool = False
    importance: ImportanceCorrection | None = None
    values: bool = False
    reference: nn.Module | None = None

    def __call__(self, learner: Learner, samples: Sequence[Sample]) -> None:
        """Set the fields of this rank's samples, of which there may be none (collective)."""
        if self.recompute or self.values:
            for sample, output in zip(samples, learner.compute_logprobs(samples), strict=True):
                if self.recompute:
                    sample.token_fields.old_logprobs = output.logprobs
                if self.values:
                    assert output.values is not None
                    sample.token_fields.old_values = output.values
        if self.importance:
            for sample in samples:
                fields = sample.token_fields
                one_segment = torch.zeros(sample.completion_length, dtype=torch.long)
                fields.importance_weights = self.importance(
                    present(fields.old_logprobs), present(fields.rollout_logprobs), one_segment
                )
        if self.reference is not None:
            for sample, output in zip(samples, learner.compute_logprobs(samples, model=self.reference), strict=True):
                sample.token_fields.reference_logprobs = output.logprobs
