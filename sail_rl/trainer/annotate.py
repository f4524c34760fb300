"""Token fields that need a forward pass of the trainer: old and reference log-probs, importance weights, values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sail_rl.data.encoding import Sample
from sail_rl.maths.importance import ImportanceCorrection
from sail_rl.maths.token_fields import present
from sail_rl.models import TokenLogprobs

from .batches import Learner

Reference = Callable[[Learner, Sequence[Sample]], list[TokenLogprobs]]
"""Log-probs of the samples under the stage's starting model (collective)."""


def frozen_reference(model: nn.Module) -> Reference:
    """The reference is another model, a copy of the starting one."""
    return lambda learner, samples: learner.compute_logprobs(samples, model=model)


def policy_without_adapters(learner: Learner, samples: Sequence[Sample]) -> list[TokenLogprobs]:
    """The reference is the policy with its LoRA switched off, which is the starting model."""
    return learner.compute_logprobs(samples, adapters=False)


@dataclass(frozen=True, slots=True)
class Annotator:
    """Sets token fields by forward passes without gradient, before the step's first update.

    Args:
        recompute: set `old_logprobs`, the trainer's own; otherwise the engine's log-probs take their role.
        importance: set `importance_weights` from the trainer's and the engine's log-probs; requires `recompute`.
        values: set `old_values`; requires a model with a critic.
        reference: set `reference_logprobs` by this function, one of the two below.
    """

    recompute: bool = False
    importance: ImportanceCorrection | None = None
    values: bool = False
    reference: Reference | None = None

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
            for sample, output in zip(samples, self.reference(learner, samples), strict=True):
                sample.token_fields.reference_logprobs = output.logprobs
