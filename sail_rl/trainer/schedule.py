"""The learning rate's schedule, which counts updates of the weights; and weight decay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class UpdateSchedule(LambdaLR):
    """A schedule that advances only after a step that updated the weights; the trainer says so in `updated`."""

    updated: bool = True

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
