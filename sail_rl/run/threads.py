"""Checks that a run's threads fit the machine's cores; surplus spinning threads slow a CPU run tenfold."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch

logger = logging.getLogger(__name__)


def describe_threads(ranks: int, engine: dict[str, Any]) -> str:
    """Log and return the number of threads that a run has on this machine's cores. Warn when they compete.

    Args:
        ranks: trainer processes on this machine.
        engine: the recipe's `engine.kwargs`; `workers` and `threads` count if they are given.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    own, workers = torch.get_num_threads(), engine.get("workers", 0)
    total = ranks * (own + workers * (engine.get("threads") or own))
    said = f"{total} OpenMP threads ({ranks} rank(s) x {own}"
    said += f" + {ranks * workers} worker(s) x {engine.get('threads') or own}" if workers else ""
    said += f") on {cores} core(s)"
    if total > cores and os.environ.get("OMP_WAIT_POLICY", "").upper() != "PASSIVE":
        logger.warning(
            "%s, and waiting threads keep spinning: set OMP_WAIT_POLICY=PASSIVE, or OMP_NUM_THREADS to %d", said,
            max(1, cores // (ranks * (1 + workers))),
        )  # fmt: skip
    else:
        logger.info("%s", said)
    return said
