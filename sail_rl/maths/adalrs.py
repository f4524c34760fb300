"""AdaLRS: a backtracking line search for the learning rate on the slope of the loss (arXiv 2506.13274)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy

Decision = Literal["continue", "try", "keep", "return", "roll back"]


LEAST = 3
"""The least number of losses that have a slope with an error."""


def descent(losses: Sequence[float | None]) -> tuple[float, float] | None:
    """The fall of the loss per step (least squares), and the standard error of this slope.

    Steps without a loss (None) are left out. The result is None for fewer than `LEAST` losses.
    """
    steps = numpy.array([step for step, loss in enumerate(losses) if loss is not None], dtype=float)
    known = numpy.array([loss for loss in losses if loss is not None])
    if len(known) < LEAST:
        return None
    (slope, _), covariance = numpy.polyfit(steps, known, 1, cov="unscaled")
    residuals = known - numpy.polyval(numpy.polyfit(steps, known, 1), steps)
    variance = float(residuals @ residuals) / (len(known) - 2)
    return -float(slope), float(numpy.sqrt(variance * covariance[0, 0]))


@dataclass
class LineSearch:
    """Decides after each window of steps about the learning rate.

    One window measures the descent v at the current rate η; the next window tries α'η. Let e be the standard error of
    the difference. If v(α'η) > v(η) + 2e, keep α'η; if v(α'η) < v(η) - 2e, roll weights and optimiser back and continue
    with β'η; otherwise return to η. After t trials α' = max(λ^t α, 1) and β' = 1 / max(λ^t β, 1): the search narrows,
    and ends when α' is 1.

    A trial with a step that isn't finite is rolled back at once: its descent counts as infinitely bad. In other windows
    such steps are left out, as are steps without an update. A window that has too few losses left judges nothing.
    Windows always have the same number of steps, so that their ends stay where checkpoints fall.

    Args:
        window: steps of a window, at least 3.
        alpha, beta, decay: α and β (above 1) and λ (below 1).
        scale: η over the scheduled learning rate. This and the following fields are the state for resumption.
        trial: tried rate over the scheduled one, if the current window is a trial.
        trials: t, the number of finished trials.
        measured: descent and its standard error at η.
        losses: losses of the current window; None for steps that are left out.
    """

    window: int
    alpha: float = 2.0
    beta: float = 2.0
    decay: float = 0.9
    scale: float = 1.0
    trial: float | None = None
    trials: int = 0
    measured: tuple[float, float] | None = None
    losses: list[float | None] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """The current factor of the scheduled learning rate."""
        return self.scale if self.trial is None else self.trial

    def observe(self, loss: float | None, *, remaining: int) -> Decision:
        """Take a step's loss and decide; `remaining` steps follow it, and no trial begins that they could not judge.

        `loss` is None if there was nothing to train on, and not finite if the step was skipped for that. After "try",
        and after "keep" if there is a `trial`, the state before the trial must be saved.
        """
        if self._step_up == 1.0:
            return "continue"
        finite = loss is None or math.isfinite(loss)
        self.losses.append(loss if finite else None)
        if self.trial is not None and not finite:
            self.losses = [None] * (len(self.losses) % self.window)  # the window's other steps have another rate
            return self._roll_back()
        if len(self.losses) < self.window:
            return "continue"
        found, self.losses = descent(self.losses), []
        if self.trial is None or self.measured is None:
            if found is None or remaining < self.window:
                return "continue"
            self.measured, self.trial = found, self.scale * self._step_up
            return "try"
        return self._judge(self.trial, self.measured, found, remaining=remaining)

    @property
    def _step_up(self) -> float:
        """α', the factor of the next trial."""
        return max(self.decay**self.trials * self.alpha, 1.0)

    def _judge(
        self, tried: float, before: tuple[float, float], found: tuple[float, float] | None, *, remaining: int
    ) -> Decision:
        """End a trial of the rate `tried` by the descent `found`, compared with the one `before`."""
        gain, error = (found[0] - before[0], (found[1] ** 2 + before[1] ** 2) ** 0.5) if found else (0.0, 0.0)
        if gain < -2 * error:
            return self._roll_back()
        self.trial, self.measured = None, None
        self.trials += 1
        if gain <= 2 * error:
            return "return"
        self.scale, self.measured = tried, found
        if self._step_up > 1 and remaining >= self.window:
            self.trial = self.scale * self._step_up
        return "keep"

    def _roll_back(self) -> Decision:
        """End a trial with a lower rate than before it."""
        self.scale /= max(self.decay**self.trials * self.beta, 1.0)
        self.trial, self.measured = None, None
        self.trials += 1
        return "roll back"
