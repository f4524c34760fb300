"""Data from stored rollouts: pass rates, difficulty filter, rejection sampling, hard cases (report, section 4.2)."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from sail_rl.data.dataset import Rows
from sail_rl.data.saving import save_rows
from sail_rl.records.store import StoredRollout
from sail_rl.seeding import derive_seed

logger = logging.getLogger(__name__)
Keep = Literal["perception", "reasoning", "hard"]


def is_right(stored: StoredRollout, minimum: Mapping[str, float]) -> bool:
    """True if a completion ended by itself, without a control token inside, and each reward reaches its minimum.

    A missing score counts as too low. A control token that was sampled can't be trained on: it isn't in the text.

    Raises:
        ValueError: a name that isn't among the rollout's rewards.
    """
    if unknown := sorted(minimum.keys() - stored.rewards.keys()):
        raise ValueError(f"no reward is called {unknown[0]!r}; the rollouts have {', '.join(stored.rewards)}")
    reached = all(stored.rewards[name] >= value for name, value in minimum.items())
    return stored.rollout.stop_reason == "stop" and not stored.rollout.control_tokens and reached


def pass_rates(rollouts: Iterable[StoredRollout], minimum: Mapping[str, float]) -> dict[str, float]:
    """The share of right rollouts of each prompt."""
    verdicts: dict[str, list[bool]] = defaultdict(list)
    for stored in rollouts:
        verdicts[stored.rollout.prompt_id].append(is_right(stored, minimum))
    return {prompt: sum(found) / len(found) for prompt, found in verdicts.items()}


def keeps_difficulty(rate: float, kind: Keep) -> bool:
    """The report's filter: it drops a question that is always right, and a reasoning question that never is."""
    return rate < 1 and (rate > 0 or kind == "perception")


def hard_cases(rates: Mapping[str, float], *, above: float = 0.0, below: float = 0.5) -> list[str]:
    """Prompts whose pass rate is in (above, below], hardest first: for the stage with mixed rewards."""
    return sorted((p for p, rate in rates.items() if above < rate <= below), key=lambda p: (rates[p], p))


def kept_by_rate(rates: Mapping[str, float], keep: Keep, *, hard_below: float) -> list[str]:
    """The prompts that `keep` selects by their pass rate, see `keeps_difficulty` and `hard_cases`."""
    if keep == "hard":
        return hard_cases(rates, below=hard_below)
    return [prompt for prompt, rate in rates.items() if keeps_difficulty(rate, keep)]


def rejection_sample(
    rollouts: Sequence[StoredRollout], minimum: Mapping[str, float], *, per_prompt: int = 1, seed: int = 0
) -> list[StoredRollout]:
    """Up to `per_prompt` right rollouts of each prompt, no two alike, in order of the prompts' first appearance.

    Of a prompt's right rollouts, those nearest to their median length are taken, because very short ones may hit on the
    answer by chance and very long ones ramble. `seed` breaks ties.
    """
    if per_prompt < 1:
        raise ValueError(f"per_prompt is {per_prompt}; give at least 1")
    if wild := sum(stored.rollout.control_tokens > 0 for stored in rollouts):
        logger.warning("%d of %d rollouts have control tokens before their end; none is kept", wild, len(rollouts))
    right: dict[str, dict[str, StoredRollout]] = defaultdict(dict)
    for stored in rollouts:
        if is_right(stored, minimum):
            right[stored.rollout.prompt_id].setdefault(stored.rollout.text, stored)
    chosen = (_typical(list(found.values()), per_prompt, seed, prompt) for prompt, found in right.items())
    return [stored for few in chosen for stored in few]


def _typical(rollouts: list[StoredRollout], count: int, seed: int, prompt: str) -> list[StoredRollout]:
    lengths = sorted(len(stored.rollout.token_ids) for stored in rollouts)
    median = (lengths[(len(lengths) - 1) // 2] + lengths[len(lengths) // 2]) / 2

    def distance(stored: StoredRollout) -> tuple[float, int]:
        return abs(len(stored.rollout.token_ids) - median), derive_seed(seed, prompt, stored.rollout.text)

    return sorted(rollouts, key=distance)[:count]


def histogram(rates: Iterable[float], *, samples: int) -> dict[str, int]:
    """Number of prompts with each pass rate, in steps of 1 / samples."""
    counts = {f"{right}/{samples}": 0 for right in range(samples + 1)}
    for rate in rates:
        counts[f"{math.floor(rate * samples + 0.5)}/{samples}"] += 1
    return counts


def newest_steps(rollouts: list[StoredRollout], last: int | None) -> list[StoredRollout]:
    """The rollouts of the `last` newest steps that have any (None: of all steps)."""
    steps = sorted({stored.step for stored in rollouts})
    first = steps[-last:][0] if last else steps[0]
    return [stored for stored in rollouts if stored.step >= first]


def save_harvest(path: Path, rows: Rows, kept: Sequence[StoredRollout]) -> None:
    """Write kept rollouts as SFT rows: the rows they were sampled for, with the sampled text as completion.

    Raises:
        ValueError: a rollout's prompt isn't among the rows.
    """
    indices = row_indices(rows, {stored.rollout.prompt_id for stored in kept})
    save_rows(
        path,
        rows,
        [indices[stored.rollout.prompt_id] for stored in kept],
        {
            "id": [f"{stored.rollout.prompt_id}#{stored.rollout.sample}@{stored.step}" for stored in kept],
            "completion": [stored.rollout.text for stored in kept],
        },
    )


def save_filtered(path: Path, rows: Rows, kept: Sequence[str], rates: Mapping[str, float]) -> None:
    """Write the kept prompts' rows, with a column `pass_rate`.

    Raises:
        ValueError: a prompt with a pass rate isn't among the rows.
    """
    indices = row_indices(rows, rates.keys())
    save_rows(path, rows, [indices[name] for name in kept], {"pass_rate": [rates[name] for name in kept]})


def row_indices(rows: Rows, wanted: Collection[str]) -> dict[str, int]:
    """The index of every row by its id.

    Raises:
        ValueError: a wanted id isn't among the rows.
    """
    indices = {rows.metadata(index)["id"]: index for index in range(len(rows))}
    if missing := sorted(set(wanted) - indices.keys()):
        raise ValueError(f"{rows.path} has no row with id {missing[0]!r} ({len(missing)} are missing)")
    return indices
