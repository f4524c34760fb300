"""Tries a reward on completions: the scores, the record of each call, and warnings about suspicious scores."""

from __future__ import annotations

import inspect
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import StatisticsError, correlation, fmean, pstdev
from typing import Any

import numpy

from sail_rl.completion import THINK_END, THINK_START
from sail_rl.contracts import (
    HIDDEN_COLUMNS,
    RIGHT,
    RewardCall,
    RewardTerm,
    Scorer,
    Scores,
    hidden_columns,
    reward_hook,
)

from .reward_examples import RewardExamples

LENGTH_CORRELATION = 0.8
AT_LEAST = 10  # fewest completions for which a correlation is meaningful
EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class RewardTrial:
    """The outcome of a trial. `scores` and `calls` follow the order of the examples [N]; None: no score."""

    scores: list[float | None]
    parts: dict[str, list[float | None]]
    calls: dict[str, list[RewardCall]]
    seconds: float
    warnings: list[str]

    @property
    def failures(self) -> int:
        """The number of completions for which a reward raised or timed out, and gave no score."""
        missing = [
            [
                part is None and call.status in ("error", "timeout")
                for part, call in zip(self.parts[name], made, strict=True)
            ]
            for name, made in self.calls.items()
        ]
        return sum(any(row) for row in zip(*missing, strict=True))


def try_rewards(terms: Sequence[RewardTerm], scorer: Scorer, examples: RewardExamples) -> RewardTrial:
    """Score the examples with a lenient scorer over these terms, and collect warnings."""
    start = time.perf_counter()
    scores: Scores = scorer(examples.prompts, examples.rollouts)
    seconds = time.perf_counter() - start
    totals = [_known(value) for value in scores.total]
    parts = {name: [_known(value) for value in values] for name, values in scores.parts.items()}
    warnings = [
        *gold_warnings(terms, examples),
        *score_warnings(totals, examples),
        *call_warnings(scores.calls, examples),
    ]
    if examples.words_for_tokens and any(_asks_for(term.function, "completion_ids") for term in terms):
        warnings.append("the data has no `completion_ids`: words stood in for tokens, so lengths are too small")
    if hidden := hidden_columns(dict.fromkeys(name for prompt in examples.prompts for name in prompt.columns)):
        warnings.append(hidden)
    return RewardTrial(totals, parts, scores.calls, seconds, warnings)


def gold_warnings(terms: Sequence[RewardTerm], examples: RewardExamples) -> list[str]:
    """Warnings about gold answers that a reward's `check_gold` refuses; a run with them would not start."""
    found = []
    for term in terms:
        if (check := reward_hook(term.function, "check_gold")) is None:
            continue
        problems = []
        for prompt, location in zip(examples.prompts, examples.locations, strict=True):
            columns = {name: value for name, value in prompt.columns.items() if name not in HIDDEN_COLUMNS}
            try:
                check(columns.pop("answer", None), **columns)
            except ValueError as error:
                problems.append(f"{location}: {error}")
        if problems:
            found.append(f"{term.name}: {len(problems)} gold answer(s) can't be used: {_some(problems)}")
    return found


def score_warnings(totals: Sequence[float | None], examples: RewardExamples) -> list[str]:
    """Warnings about the scores as a whole: none, constant ones, thoughts without a start, correlation with length."""
    known = [value for value in totals if value is not None]
    if not known:
        return ["no completion has a score"]
    found = []
    if len(totals) > 1 and min(known) == max(known):
        found.append(f"constant: every score is {known[0]:g}, so there is nothing to learn from")
    texts = [rollout.text for rollout in examples.rollouts]
    open_thoughts = sum(THINK_END in text and THINK_START not in text for text in texts)
    if open_thoughts and not any(prompt.text.rstrip().endswith(THINK_START) for prompt in examples.prompts):
        found.append(
            f"prefill: {open_thoughts} completion(s) close a thought that they don't open; if the chat template writes "
            "<think>, end `prompt` with it, or rewards of format and answer misread them"
        )
    pairs = [(value, len(text)) for value, text in zip(totals, texts, strict=True) if value is not None]
    if len(pairs) >= AT_LEAST and (r := related(*zip(*pairs, strict=True))) and abs(r) > LENGTH_CORRELATION:
        found.append(f"length: the score's correlation with the completion's length is {r:.2f}")
    return found


def call_warnings(calls: dict[str, list[RewardCall]], examples: RewardExamples) -> list[str]:
    """Warnings about rewards that time out, fail or always give None."""
    found = []
    for name, made in calls.items():
        counts: Counter[str] = Counter(call.status for call in made)
        if made and counts["none"] + counts["skipped"] == len(made) and counts["none"]:
            found.append(f"{name}: always None")
        for status, what in (("timeout", "timed out"), ("error", "failed"), ("too_long", "too long an answer")):
            if counts[status]:
                which = [
                    f"{location}: {call.message}" if call.message else location
                    for call, location in zip(made, examples.locations, strict=True)
                    if call.status == status
                ]
                found.append(f"{name}: {what} for {counts[status]} of {len(made)}: {_some(which)}")
    return found


def agreement(scores: Sequence[float | None], expected: Sequence[float | None]) -> dict[str, Any] | None:
    """Agreement of scores and expected scores over the rows that have both; None if no row has both.

    `confusion` counts both as right (above RIGHT) or wrong.
    """
    pairs = [
        (n, s, e) for n, (s, e) in enumerate(zip(scores, expected, strict=True)) if s is not None and e is not None
    ]
    if not pairs:
        return None
    differing = [number for number, score, label in pairs if not math.isclose(score, label, abs_tol=1e-6)]
    confusion = Counter((label > RIGHT, score > RIGHT) for _, score, label in pairs)
    return {
        "compared": len(pairs),
        "agree": 1 - len(differing) / len(pairs),
        "correlation": related([score for _, score, _ in pairs], [label for _, _, label in pairs]),
        "confusion": {
            "right_as_right": confusion[True, True],
            "right_as_wrong": confusion[True, False],
            "wrong_as_right": confusion[False, True],
            "wrong_as_wrong": confusion[False, False],
        },
        "differing": differing,
    }


def call_statistics(calls: Sequence[RewardCall]) -> dict[str, float | None]:
    """Shares of a reward's calls by outcome, and percentiles of their time in milliseconds."""
    made = [call.milliseconds for call in calls if call.status != "skipped"]
    statuses = ("none", "timeout", "error", "too_long", "skipped")
    shares = {status: fmean(call.status == status for call in calls) for status in statuses}
    cached = fmean(call.cached for call in calls)
    levels = {"ms_p50": 50, "ms_p90": 90, "ms_p99": 99, "ms_max": 100}
    times = numpy.percentile(made, list(levels.values()), method="inverted_cdf").tolist() if made else [None] * 4
    return {**shares, "cached": cached, **dict(zip(levels, times, strict=True))}


def as_json(trial: RewardTrial, examples: RewardExamples) -> dict[str, Any]:
    """Everything that is printed, as JSON values in input order and without NaN."""
    known = [score for score in trial.scores if score is not None]
    return {
        "scores": trial.scores,
        "parts": trial.parts,
        "status": {name: [call.status for call in calls] for name, calls in trial.calls.items()},
        "messages": {name: [call.message for call in calls] for name, calls in trial.calls.items()},
        "count": len(examples),
        "mean": fmean(known) if known else None,
        "std": pstdev(known) if known else None,
        "calls": {name: call_statistics(calls) for name, calls in trial.calls.items()},
        "agreement": agreement(trial.scores, examples.expected),
        "seconds": trial.seconds,
        "warnings": trial.warnings,
    }


def related(left: Sequence[float], right: Sequence[float]) -> float | None:
    """Pearson's correlation; None if either side is constant or has fewer than two values."""
    try:
        return correlation(left, right)
    except StatisticsError:
        return None


def _asks_for(function: Callable[..., Any], name: str) -> bool:
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def _some(texts: Sequence[str]) -> str:
    more = f"; and {len(texts) - EXAMPLES} more" if len(texts) > EXAMPLES else ""
    return "; ".join(texts[:EXAMPLES]) + more


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
