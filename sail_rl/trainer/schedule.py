"""Learning rates: the policy's schedule, which counts its updates, and the critic's; and weight decay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from sail_rl.models.adapters import part_of


class UpdateSchedule(LambdaLR):
    """A schedule that advances only after a step that updated the policy; the trainer says so in `updated`.

    Parameter groups with `constant: True` keep their learning rate.
    """

    updated: bool = True

    @classmethod
    def of(cls, schedule: LambdaLR) -> UpdateSchedule:
        """The same schedule as one that counts updates."""
        pairs = zip(schedule.optimizer.param_groups, schedule.lr_lambdas, strict=True)
        return cls(schedule.optimizer, [_unscaled if group.get("constant") else scale for group, scale in pairs])

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Advance to the next update, if there was one."""
        if self.updated:
            super().step(*args, **kwargs)


def decayed_parameters(model: nn.Module) -> list[str]:
    """Names of the parameters that weight decay applies to: matrices, but neither norms nor biases."""
    return [name for name, weight in model.named_parameters() if len(getattr(weight, "ds_shape", weight.shape)) > 1]


@contextmanager
def without_weight_decay(optimizer: Optimizer) -> Iterator[None]:
    """Make updates without weight decay, so that weights whose gradient has always been 0 stay as they are."""
    saved = [group["weight_decay"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.0
    try:
        yield
    finally:
        for group, decay in zip(optimizer.param_groups, saved, strict=True):
            group["weight_decay"] = decay


def set_critic_learning_rate(optimizer: Optimizer, model: nn.Module, learning_rate: float) -> None:
    """Move the critic's parameters to groups with a constant learning rate (before the optimiser's first step)."""
    critic = {id(weight) for name, weight in model.named_parameters() if part_of(name) == "critic"}
    for group in list(optimizer.param_groups):
        own = [weight for weight in group["params"] if id(weight) in critic]
        if own:
            group["params"] = [weight for weight in group["params"] if id(weight) not in critic]
            optimizer.add_param_group(group | {"params": own, "lr": learning_rate, "constant": True})
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]


def _unscaled(step: int) -> float:
    return 1.0
