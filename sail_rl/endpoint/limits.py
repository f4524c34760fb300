"""How fast a judge may be asked: even pacing, the estimate of tokens, and the circuit breaker."""

from __future__ import annotations

import time
from collections.abc import Sequence

from .errors import CallFailedError
from .images import Picture

BYTES_PER_TOKEN = 4  # of UTF-8: English has about 4 characters a token, Chinese a bit over one character
PIXELS_PER_TOKEN = 28 * 28  # Qwen2-VL and its successors (arXiv 2409.12191, section 2.1); others are coarser


def estimate_tokens(text: str, pictures: Sequence[Picture], max_tokens: int | None) -> float:
    """Tokens that a call will take at most, roughly: prompt (text, pictures) and the longest reply allowed."""
    pixels = sum(width * height for width, height in (picture.sent_size for picture in pictures))
    return len(text.encode(errors="replace")) / BYTES_PER_TOKEN + pixels / PIXELS_PER_TOKEN + (max_tokens or 0)


class Pace:
    """At most `per_minute` units a minute, evenly spaced, so that no window of the endpoint's sees more."""

    def __init__(self, per_minute: float | None) -> None:
        self._seconds_per_unit = 60.0 / per_minute if per_minute else 0.0
        self._free_at = 0.0  # on the monotonic clock

    def reserve(self, units: float) -> float:
        """Take the next slot; returns the seconds until it starts."""
        now = time.monotonic()
        start = max(now, self._free_at)
        self._free_at = start + units * self._seconds_per_unit
        return start - now

    def correct(self, units: float) -> None:
        """Add what a call took beyond its reservation (negative: give back)."""
        self._free_at += units * self._seconds_per_unit

    def pause(self, seconds: float) -> None:
        """Start nothing for this long."""
        self._free_at = max(self._free_at, time.monotonic() + seconds)


class Breaker:
    """Gives an endpoint up after `failures` requests in a row without any answer; after `pause_s` one call tries it."""

    def __init__(self, failures: int, pause_s: float) -> None:
        self._limit, self._pause_s = failures, pause_s
        self._failures = 0
        self._retry_at = 0.0
        self._reason = ""

    def check(self) -> None:
        """Pass, or raise CallFailedError when the endpoint is given up."""
        if self._failures < self._limit:
            return
        now = time.monotonic()
        if now < self._retry_at:
            raise CallFailedError(
                f"not asked: {self._failures} requests in a row had no answer, the last one: {self._reason}",
                retryable=False,
            )
        self._retry_at = now + self._pause_s  # this call tries; all others wait for what comes of it

    def answered(self) -> None:
        """The endpoint gave a reply."""
        self._failures = 0

    def unanswered(self, reason: str) -> None:
        """One request was not answered in any of its attempts."""
        self._failures += 1
        self._reason = reason
        self._retry_at = time.monotonic() + self._pause_s
