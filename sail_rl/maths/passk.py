"""Metrics over k samples of a prompt: pass@k and the majority answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from math import comb


def pass_at_k(right: int, samples: int, k: int) -> float:
    """pass@k, the unbiased chance that one of k samples is right: 1 - C(n - c, k) / C(n, k) (arXiv 2107.03374, eq. 1).

    Args:
        right: c, the number of right samples; `samples`: n; `k`: at most n.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} of {samples} samples: k must be 1 to {samples}")
    return 1.0 - comb(samples - right, k) / comb(samples, k)


def majority(answers: Sequence[Hashable]) -> Hashable:
    """The most common answer (maj@k); of equally common answers the first."""
    return Counter(answers).most_common(1)[0][0]
