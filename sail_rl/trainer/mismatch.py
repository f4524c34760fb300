"""The gate on the training–inference mismatch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch

from sail_rl.maths.mismatch import Mismatch, MismatchLimits

from .batches import Learner
from .distributed import all_sum


class LogprobMismatchError(RuntimeError):
    """The training–inference mismatch is too large: gradients would be dominated by noise."""


def check_mismatch(learner: Learner, differences: Sequence[torch.Tensor], limits: MismatchLimits) -> None:
    """Record the training–inference mismatch and stop the run if it is too large (collective).

    Args:
        learner: records the metrics.
        differences: trainer - engine log-probs (nats) of the tokens of each completion [T] of this rank that the
            current weights sampled.
        limits: the largest allowed values.

    Raises:
        LogprobMismatchError: names the statistics that exceed their limits.
    """
    own = torch.cat([torch.zeros(0), *(each.cpu() for each in differences)])
    found = Mismatch.of(own, completions=len(differences), all_sum=all_sum)
    if found is None:  # all rollouts were sampled ahead, with older weights
        return
    learner.record({f"mismatch/{name}": value for name, value in asdict(found).items()})
    if names := found.beyond(limits):
        values = ", ".join(f"{name} {getattr(found, name):.3g} (limit {getattr(limits, name):.3g})" for name in names)
        raise LogprobMismatchError(
            f"step {learner.step}: log-probs of the rollout engine and of the trainer differ too much: {values} nats. "
            "The engine's weights, dtype or model code are not the trainer's. Raise engine.mismatch only if the dtype "
            "explains the difference (docs/rollouts.md has healthy values)"
        )
