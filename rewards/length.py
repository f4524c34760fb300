"""Rewards of a completion's length."""

from __future__ import annotations

from typing import Any


class SoftOverlong:
    """DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13): 0, then falling to -1 over the last `buffer` tokens.

    It tells a policy that it is about to be cut, where a hard limit would only look like noise.

    Args:
        max_tokens: longest completion, the stage's own `max_tokens`.
        buffer: tokens before that limit over which the punishment grows.
    """

    def __init__(self, max_tokens: int, buffer: int) -> None:
        if not 0 < buffer <= max_tokens:
            raise ValueError(f"SoftOverlong: buffer is {buffer}; give 1 to max_tokens ({max_tokens})")
        self.max_tokens = max_tokens
        self.buffer = buffer

    def __call__(self, completion_ids: list[list[int]], **_: Any) -> list[float]:
        """A value in [-1, 0] for each completion."""
        free = self.max_tokens - self.buffer
        return [max(-1.0, min(0.0, (free - len(ids)) / self.buffer)) for ids in completion_ids]
