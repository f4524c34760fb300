"""Rollouts between ranks, in real processes: each arrives exactly, once, at the rank that trains on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from exchange_step import GROUPS, SAMPLES, facts, rollouts_of
from launching import finish_ranks


def exchanged(folder: Path, ranks: int) -> list[dict[str, Any]]:
    """What each rank of a job wrote."""
    folder.mkdir()
    finish_ranks(["tests/exchange_step.py", folder, ranks], ranks=ranks, timeout=120)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


@pytest.mark.parametrize("ranks", [2, 3])
def test_each_rollout_arrives_exactly_and_at_one_rank(ranks: int, tmp_path: Path) -> None:
    """With routes and versions; and the ranks' mismatch is the one of a single rank, to the last bit of p99 and max."""
    jobs = exchanged(tmp_path / "several", ranks)
    found = {(position, index): rollout for job in jobs for position, index, rollout in job["found"]}
    assert len(found) == sum(len(job["found"]) for job in jobs) == GROUPS * SAMPLES
    wanted = {(n, s): facts(rollout) for n in range(GROUPS) for s, rollout in enumerate(rollouts_of(n))}
    assert found == wanted
    assert all(len(job["sent"]) == ranks - 1 for job in jobs), "a message to each other rank"
    assert sum(job["moved"] for job in jobs) == sum(sum(job["sent"]) for job in jobs), "no rollout is sent twice"
    assert 0 < sum(job["moved"] for job in jobs) < GROUPS * SAMPLES, "the case is only interesting if some move"
    (alone,) = exchanged(tmp_path / "alone", 1)
    for job in jobs:
        assert job["mismatch"]["p99"] == alone["mismatch"]["p99"]
        assert job["mismatch"]["max"] == alone["mismatch"]["max"]
        assert job["mismatch"] == pytest.approx(alone["mismatch"], rel=1e-12)
