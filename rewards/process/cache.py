"""The results that a pool remembers, by the content of their items."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Literal

RETRY_AFTER_SECONDS = 600.0  # after which an item that timed out may be tried again
Status = Literal["ok", "timeout", "error", "too_long"]


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one item: its `value` if `status` is "ok", else a `message` that says what went wrong.

    `final` is False for an item that the time limit of its batch has ended; asked again, it may have a result.
    """

    value: Any = None
    status: Status = "ok"
    message: str = ""
    seconds: float = 0.0
    cached: bool = False
    final: bool = True


class ResultCache:
    """A least-recently-used cache of `size` results.

    The keys are hashes, so that long items take no memory. Errors are never kept, and time-outs only for
    RETRY_AFTER_SECONDS and for questions with the same time limit or a shorter one, since a busy machine may cause
    them.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: OrderedDict[bytes, tuple[Result, float, float]] = OrderedDict()  # result, time limit, expiry time

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, payload: bytes, timeout_s: float) -> Result | None:
        """The result of a pickled item under this time limit, or None."""
        key = _key(payload)
        if key not in self._kept:
            return None
        result, limit, until = self._kept[key]
        if until <= time.monotonic() or (result.status == "timeout" and limit < timeout_s):
            return None
        self._kept.move_to_end(key)
        return result

    def put(self, payload: bytes, result: Result, timeout_s: float) -> None:
        """Keep a result that was found under this time limit."""
        if not self._size or result.status == "error" or not result.final:
            return
        lifetime = RETRY_AFTER_SECONDS if result.status == "timeout" else float("inf")
        key = _key(payload)
        self._kept[key] = (result, timeout_s, time.monotonic() + lifetime)
        self._kept.move_to_end(key)
        while len(self._kept) > self._size:
            self._kept.popitem(last=False)


def _key(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=16).digest()
