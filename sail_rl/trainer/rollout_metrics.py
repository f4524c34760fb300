"""Metrics of a batch of rollouts: rewards by part, lengths, truncation, thinking, reward calls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, pstdev
from typing import Any

import numpy

from sail_rl.completion import THINK_END
from sail_rl.contracts import RIGHT, Prompt, RewardCall, Rollout, Scores


def rollout_records(prompts: Sequence[Prompt], rollouts: Sequence[Rollout], scores: Scores) -> list[dict[str, Any]]:
    """One small dictionary for each rollout, cheap to gather from all ranks."""
    return [
        {
            "length": len(rollout.token_ids),
            "truncated": rollout.stop_reason == "length",
            "thinking": THINK_END in rollout.text,
            "version": min(rollout.token_versions),
            "total": scores.total[index],
            "parts": {name: values[index] for name, values in scores.parts.items()},
            # Messages quote completions, and belong to traces.
            "calls": {name: replace(calls[index], message="") for name, calls in scores.calls.items()},
        }
        for index, rollout in enumerate(rollouts)
    ]


def rollout_metrics(records: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means over all rollouts of the step ({} without any); one counts as correct if its total is above RIGHT."""
    if not records:
        return {}
    lengths = [record["length"] for record in records]
    totals = [record["total"] for record in records]
    metrics = {
        "reward/total/mean": fmean(totals),
        "reward/total/std": pstdev(totals),
        "rollout/length_mean": fmean(lengths),
        "rollout/length_max": max(lengths),
        "rollout/truncated": fmean(record["truncated"] for record in records),
        "rollout/thinking": fmean(record["thinking"] for record in records),
        "rollout/weights_version": min(record["version"] for record in records),
    }
    for name, right in (("rollout/length_correct", True), ("rollout/length_wrong", False)):
        chosen = [length for length, total in zip(lengths, totals, strict=True) if (total > RIGHT) == right]
        if chosen:
            metrics[name] = fmean(chosen)
    for name in records[0]["parts"]:
        known = [value for record in records if not math.isnan(value := record["parts"][name])]
        if known:
            metrics |= {f"reward/{name}/mean": fmean(known), f"reward/{name}/std": pstdev(known)}
    for name in records[0]["calls"]:
        metrics |= call_metrics(name, [record["calls"][name] for record in records])
    return metrics


def call_metrics(name: str, calls: Sequence[RewardCall]) -> dict[str, float]:
    """Calls of one reward: shares of all rollouts by status, and percentiles of the time over the calls made."""
    metrics = {
        f"reward/{name}/{status}": fmean(call.status == status for call in calls)
        for status in ("none", "timeout", "error", "too_long", "skipped")
    }
    made = [call for call in calls if call.status != "skipped"]
    if made:
        spent = [call.milliseconds for call in made]
        median, p99 = numpy.percentile(spent, (50, 99), method="inverted_cdf").tolist()
        metrics |= {
            f"reward/{name}/ms_p50": median,
            f"reward/{name}/ms_p99": p99,
            f"reward/{name}/cache_hit": fmean(call.cached for call in made),
        }
    return metrics
