"""Rate limits of an endpoint: even pacing, an estimate of tokens, and a circuit breaker."""

from __future__ import annotations

import time
from collections.abc import Sequence

from .errors import CallFailedError
from .images import Picture

BYTES_PER_TOKEN = 4  # UTF-8: English has about 4 characters per token, Chinese a little more than 1
PIXELS_PER_TOKEN = (
    28 * 28
)  # Qwen2-VL and its successors (arXiv 2409.12191, section 2.1); other models need fewer tokens


def estimate_tokens(text: str, pictures: Sequence[Picture], max_tokens: int | None) -> float:
    """A rough upper estimate of a call's tokens: its text, its pictures and the longest allowed reply."""
    pixels = sum(width * height for width, height in (picture.sent_size for picture in pictures))
    return len(text.encode(errors="replace")) / BYTES_PER_TOKEN + pixels / PIXELS_PER_TOKEN + (max_tokens or 0)


class Pace:
    """Admits at most `per_minute` units per minute, evenly spaced, so that no one-minute window exceeds the limit."""

    def __init__(self, per_minute: float | None) -> None:
        self._seconds_per_unit = 60.0 / per_minute if per_minute else 0.0
        self._free_at = 0.0  # on the monotonic clock

    def reserve(self, units: float) -> float:
        """Reserve the next slot; returns the seconds until it starts."""
        now = time.monotonic()
        start = max(now, self._free_at)
        self._free_at = start + units * self._seconds_per_unit
        return start - now

    def correct(self, units: float) -> None:
        """Charge units that a call used beyond its reservation; negative units are returned."""
        self._free_at += units * self._seconds_per_unit

    def pause(self, seconds: float) -> None:
        """Start no call for this many seconds."""
        self._free_at = max(self._free_at, time.monotonic() + seconds)


class Breaker:
    """Stops calls after `failures` unanswered requests in a row, and lets one call try again after each `pause_s`."""

    def __init__(self, failures: int, pause_s: float) -> None:
        self._limit, self._pause_s = failures, pause_s
        self._failures = 0
        self._retry_at = 0.0
        self._reason = ""

    def check(self) -> None:
        """Raise CallFailedError while calls are stopped."""
        if self._failures < self._limit:
            return
        now = time.monotonic()
        if now < self._retry_at:
            raise CallFailedError(
                f"not asked: {self._failures} requests in a row had no answer; the last error: {self._reason}",
                retryable=False,
            )
        self._retry_at = now + self._pause_s  # this call tries again, and all others wait for its result

    def answered(self) -> None:
        """Record a reply of the endpoint."""
        self._failures = 0

    def unanswered(self, reason: str) -> None:
        """Record a request whose attempts all had no answer."""
        self._failures += 1
        self._reason = reason
        self._retry_at = time.monotonic() + self._pause_s
