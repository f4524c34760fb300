"""Metrics of an endpoint's calls: counts, tokens, cost and latency."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy

KEPT = 10_000  # latencies kept for percentiles


@dataclass
class JudgeMetrics:
    """Counts since the start, and latencies of the last 10,000 answered calls.

    Among the `requests`, `duplicates` equalled another request of their batch, `cache_hits` were answered from the
    cache, and `failures` got no verdict. Among the `calls` sent, `retries` were repetitions. The endpoint counts the
    tokens; `calls_without_usage` came without a count and add no tokens.
    """

    requests: int = 0
    duplicates: int = 0
    cache_hits: int = 0
    calls: int = 0
    retries: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    calls_without_usage: int = 0
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))

    def table(self, prompt_price: float | None, completion_price: float | None) -> dict[str, float]:
        """All metrics by name: `cost` only with prices (per million tokens), `ms_p50` and `ms_p99` after a call."""
        numbers = {name: float(value) for name, value in vars(self).items() if name != "latencies_ms"}
        if prompt_price is not None and completion_price is not None:
            numbers["cost"] = (self.prompt_tokens * prompt_price + self.completion_tokens * completion_price) / 1e6
        if self.latencies_ms:
            median, p99 = numpy.percentile(self.latencies_ms, (50, 99), method="inverted_cdf").tolist()
            numbers |= {"ms_p50": median, "ms_p99": p99}
        return numbers
