"""Derives seeds from what is sampled, so that a prompt has the same seed in every batch and on every rank."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy
import torch


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2^31) from any parts, e.g. `derive_seed(run_seed, step, prompt_id)`, equal on all machines."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Restore the global random states of Python, NumPy and torch afterwards, for calls into libraries that reseed."""
    python_state, numpy_state = random.getstate(), numpy.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python_state)
        numpy.random.set_state(numpy_state)
