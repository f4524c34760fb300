"""Values beside each labelled token that losses and advantages are computed from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor


def present(values: Tensor | None) -> Tensor:
    """The values of a field that the batch source must have set."""
    assert values is not None, "the batch source did not set a token field that the loss or the advantages need"
    return values


@dataclass(slots=True)
class TokenFields:
    """One value for each of the L labelled tokens of a sample or of a micro-batch: float tensors [L], or None.

    Attributes:
        weights: factor of the token's loss (see `aggregation`).
        rollout_logprobs: log-probs (nats) under the sampling policy, as the rollout engine computed them.
        old_logprobs: log-probs (nats) under the policy before the step's first update, as the trainer computed them.
        importance_weights: factor of the policy loss (see `importance`).
        old_values: the critic's estimates before the step's first update.
        reference_logprobs: log-probs (nats) under the frozen reference model.
        advantages: advantage of each token; `returns`: the critic's regression target.
    """

    weights: Tensor | None = None
    rollout_logprobs: Tensor | None = None
    old_logprobs: Tensor | None = None
    importance_weights: Tensor | None = None
    old_values: Tensor | None = None
    reference_logprobs: Tensor | None = None
    advantages: Tensor | None = None
    returns: Tensor | None = None

    @property
    def ratio_logprobs(self) -> Tensor:
        """Log-probs [L] that the policy ratio divides by: `old_logprobs`, or the engine's if there are none."""
        logprobs = self.rollout_logprobs if self.old_logprobs is None else self.old_logprobs
        return present(logprobs)

    @property
    def names(self) -> list[str]:
        """Names of the fields that are set."""
        return [each.name for each in fields(self) if getattr(self, each.name) is not None]

    @classmethod
    def joined(cls, parts: Sequence[TokenFields]) -> TokenFields:
        """The fields of several samples, concatenated; see `check_alike` for errors."""
        check_alike(parts)
        names = parts[0].names if parts else []
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    def map(self, function: Callable[[Tensor], Tensor]) -> TokenFields:
        """The same fields with the function applied to each tensor."""
        return TokenFields(**{name: function(getattr(self, name)) for name in self.names})


def check_alike(parts: Sequence[TokenFields]) -> None:
    """Check that several samples have the same fields.

    Raises:
        ValueError: if only some of the samples have a field.
    """
    for name, count in Counter(name for part in parts for name in part.names).items():
        if count < len(parts):
            raise ValueError(
                f"token field {name}: only {count} of {len(parts)} samples have it; a batch source must set a field "
                "for all samples of a step or for none"
            )
