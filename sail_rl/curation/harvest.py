"""From stored rollouts to data: pass rates, difficulty filter, rejection sampling, hard cases (report, section 4.2).

A rollout is a row of `reporting.store`: `prompt_id`, `sample`, `completion`, `stop_reason`, `rewards` (a list of name
and value), …
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from sail_rl.seeding import derive_seed

StoredRollout = Mapping[str, Any]
Kind = Literal["perception", "reasoning"]


def is_right(rollout: StoredRollout, minimum: Mapping[str, float]) -> bool:
    """Whether a rollout wasn't cut off and each of these rewards is at least so high; a missing score isn't.

    Raises:
        ValueError: a name that isn't among the rollout's rewards.
    """
    scores = {part["name"]: part["value"] for part in rollout["rewards"]}
    if unknown := sorted(minimum.keys() - scores.keys()):
        raise ValueError(f"no reward is called {unknown[0]!r}; the rollouts have {', '.join(scores)}")
    return rollout["stop_reason"] == "stop" and all(scores[name] >= value for name, value in minimum.items())


def pass_rates(rollouts: Iterable[StoredRollout], minimum: Mapping[str, float]) -> dict[str, float]:
    """The share of right rollouts of each prompt."""
    verdicts: dict[str, list[bool]] = defaultdict(list)
    for rollout in rollouts:
        verdicts[rollout["prompt_id"]].append(is_right(rollout, minimum))
    return {prompt: sum(found) / len(found) for prompt, found in verdicts.items()}


def keeps_difficulty(rate: float, kind: Kind) -> bool:
    """The report's filter: a question that is always right is dropped, a reasoning one also if it never is."""
    return rate < 1 and (rate > 0 or kind == "perception")


def hard_cases(rates: Mapping[str, float], *, above: float = 0.0, below: float = 0.5) -> list[str]:
    """Prompts whose pass rate is in (above, below], hardest first: for the stage with mixed rewards."""
    return sorted((p for p, rate in rates.items() if above < rate <= below), key=lambda p: (rates[p], p))


def rejection_sample(
    rollouts: Sequence[StoredRollout], minimum: Mapping[str, float], *, per_prompt: int = 1, seed: int = 0
) -> list[StoredRollout]:
    """Up to `per_prompt` right rollouts of each prompt, no two alike, in order of the prompts' first appearance.

    Among a prompt's right rollouts those nearest to their median length are taken: neither those that hit on the answer
    in passing nor those that ramble. Ties are broken by `seed`.
    """
    if per_prompt < 1:
        raise ValueError(f"per_prompt is {per_prompt}; give at least 1")
    right: dict[str, dict[str, StoredRollout]] = defaultdict(dict)
    for rollout in rollouts:
        if is_right(rollout, minimum):
            right[rollout["prompt_id"]].setdefault(rollout["completion"], rollout)
    chosen = (_typical(list(found.values()), per_prompt, seed, prompt) for prompt, found in right.items())
    return [rollout for few in chosen for rollout in few]


def _typical(rollouts: list[StoredRollout], count: int, seed: int, prompt: str) -> list[StoredRollout]:
    lengths = sorted(len(rollout["token_ids"]) for rollout in rollouts)
    median = (lengths[(len(lengths) - 1) // 2] + lengths[len(lengths) // 2]) / 2

    def distance(rollout: StoredRollout) -> tuple[float, int]:
        return abs(len(rollout["token_ids"]) - median), derive_seed(seed, prompt, rollout["completion"])

    return sorted(rollouts, key=distance)[:count]


def histogram(rates: Iterable[float], *, samples: int) -> dict[str, int]:
    """How many prompts have each pass rate, in steps of 1 / samples."""
    counts = {f"{right}/{samples}": 0 for right in range(samples + 1)}
    for rate in rates:
        counts[f"{math.floor(rate * samples + 0.5)}/{samples}"] += 1
    return counts
