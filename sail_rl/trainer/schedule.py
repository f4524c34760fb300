"""The learning rate's schedule, which counts updates of the weights."""

from __future__ import annotations

from typing import Any

from torch.optim.lr_scheduler import LambdaLR


class UpdateSchedule(LambdaLR):
    """A schedule that advances only after a step that updated the weights; the trainer says so in `updated`."""

    updated: bool = True

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Advance to the next update, if there was one."""
        if self.updated:
            super().step(*args, **kwargs)
