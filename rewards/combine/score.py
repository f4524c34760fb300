"""A score that also carries its status and its duration."""

from __future__ import annotations

from typing import Self

from sail_rl.contracts import CallStatus


class Score(float):
    """A float that carries a note for the metrics.

    A `status` of "timeout" or "error" means that the answer couldn't be checked, and "too_long" that it is too long to
    be right. With NaN such a score counts as None. `seconds` is the time that this score took; with None, it is the
    batch's time divided by its size. `cached` scores were known before.
    """

    status: CallStatus
    seconds: float | None
    cached: bool

    def __new__(
        cls, value: float, status: CallStatus = "ok", *, seconds: float | None = None, cached: bool = False
    ) -> Self:
        score = super().__new__(cls, value)
        score.status, score.seconds, score.cached = status, seconds, cached
        return score
