"""What a reward may say about a score besides its value: how it came about, how long it took."""

from __future__ import annotations

from typing import Self

from sail_rl.contracts import CallStatus


class Score(float):
    """A score with a note for the metrics; a plain float to everybody else.

    `status` "timeout" or "error": the value stands for an answer that couldn't be checked, not for a checked one.
    `seconds` is what this one took (None: the batch's time is shared out). `cached`: it was known already.
    """

    status: CallStatus
    seconds: float | None
    cached: bool

    def __new__(
        cls, value: float, *, status: CallStatus = "ok", seconds: float | None = None, cached: bool = False
    ) -> Self:
        score = super().__new__(cls, value)
        score.status, score.seconds, score.cached = status, seconds, cached
        return score
