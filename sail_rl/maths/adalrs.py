"""AdaLRS: a backtracking line search for the learning rate on the slope of the loss (arXiv 2506.13274)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy

Decision = Literal["continue", "try", "keep", "return", "roll back"]


def descent(losses: Sequence[float]) -> tuple[float, float]:
    """The fall of the loss per step (least squares), and the standard error of this slope."""
    steps = numpy.arange(len(losses), dtype=float)
    (slope, _), covariance = numpy.polyfit(steps, losses, 1, cov="unscaled")
    residuals = losses - numpy.polyval(numpy.polyfit(steps, losses, 1), steps)
    variance = float(residuals @ residuals) / max(1, len(losses) - 2)
    return -float(slope), float(numpy.sqrt(variance * covariance[0, 0]))


@dataclass
class LineSearch:
    """Decides after each window of steps about the learning rate.

    One window measures the descent v at the current rate η; the next window tries α'η. Let e be the standard error of
    the difference. If v(α'η) > v(η) + 2e, keep α'η; if v(α'η) < v(η) - 2e, roll weights and optimiser back and continue
    with β'η; otherwise return to η. After t trials α' = max(λ^t α, 1) and β' = 1 / max(λ^t β, 1): the search narrows,
    and ends when α' is 1.

    Args:
        window: steps of a window, at least 3.
        alpha, beta, decay: α and β (above 1) and λ (below 1).
        scale: η over the scheduled learning rate. This and the following fields are the state for resumption.
        trial: tried rate over the scheduled one, if the current window is a trial.
        trials: t, the number of finished trials.
        measured: descent and its standard error at η.
        losses: losses of the current window.
    """

    window: int
    alpha: float = 2.0
    beta: float = 2.0
    decay: float = 0.9
    scale: float = 1.0
    trial: float | None = None
    trials: int = 0
    measured: tuple[float, float] | None = None
    losses: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """The current factor of the scheduled learning rate."""
        return self.scale if self.trial is None else self.trial

    def observe(self, loss: float, *, remaining: int) -> Decision:
        """Take a step's loss and decide; `remaining` steps follow it, and no trial begins that they could not judge.

        After "try", and after "keep" if there is a `trial`, the state before the trial must be saved.
        """
        step_up = max(self.decay**self.trials * self.alpha, 1.0)
        if step_up == 1.0:
            return "continue"
        self.losses.append(loss)
        if len(self.losses) < self.window:
            return "continue"
        found, self.losses = descent(self.losses), []
        if self.trial is None or self.measured is None:
            if remaining < self.window:
                return "continue"
            self.measured, self.trial = found, self.scale * step_up
            return "try"
        gain, error = found[0] - self.measured[0], (found[1] ** 2 + self.measured[1] ** 2) ** 0.5
        tried, self.trial = self.trial, None
        step_down = 1 / max(self.decay**self.trials * self.beta, 1.0)
        self.trials += 1
        if gain > 2 * error:
            self.scale, self.measured = tried, found
            following = max(self.decay**self.trials * self.alpha, 1.0)
            self.trial = self.scale * following if following > 1 and remaining >= self.window else None
            return "keep"
        self.measured = None
        if gain < -2 * error:
            self.scale *= step_down
            return "roll back"
        return "return"
