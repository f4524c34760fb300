"""Values beside each labelled token that losses and advantages are computed from."""

from __future__ import annotations

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
        actor: 0 where the policy is not trained, during the critic's warm-up.
    """

    weights: Tensor | None = None
    rollout_logprobs: Tensor | None = None
    old_logprobs: Tensor | None = None
    importance_weights: Tensor | None = None
    old_values: Tensor | None = None
    reference_logprobs: Tensor | None = None
    advantages: Tensor | None = None
    returns: Tensor | None = None
    actor: Tensor | None = None

    @property
    def ratio_logprobs(self) -> Tensor:
        """Log-probs [L] that the policy ratio divides by: `old_logprobs`, or the engine's if there are none."""
        logprobs = self.rollout_logprobs if self.old_logprobs is None else self.old_logprobs
        return present(logprobs)

    @classmethod
    def joined(cls, parts: Sequence[TokenFields]) -> TokenFields:
        """The fields of several samples, concatenated.

        Raises:
            ValueError: if only some of the samples have a field.
        """
        values: dict[str, Tensor] = {}
        for name in (each.name for each in fields(cls)):
            found = [value for part in parts if (value := getattr(part, name)) is not None]
            if found and len(found) < len(parts):
                raise ValueError(
                    f"token field {name}: only {len(found)} of {len(parts)} samples that are packed together have it; "
                    "a batch source must set a field for all samples of a step or for none"
                )
            if found:
                values[name] = torch.cat(found)
        return cls(**values)

    def map(self, function: Callable[[Tensor], Tensor]) -> TokenFields:
        """The same fields with the function applied to each tensor."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return TokenFields(**{name: function(value) for name, value in values.items() if value is not None})
