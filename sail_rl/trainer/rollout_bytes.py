"""Rollouts as one array of bytes, for another rank or for a checkpoint. Every field survives exactly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from sail_rl.contracts import Rollout

ARRAYS = ("logprobs", "token_ids", "earlier", "routed_experts")
"""The fields of a rollout that don't go into the header."""


def to_bytes(rollouts: Sequence[Rollout]) -> np.ndarray:
    """The rollouts as uint8 [N]: the header's length (8 bytes), the header (JSON), then the arrays of each rollout.

    These are its log-probs (float64), token ids and earlier versions (int32), and its routed experts (int16), all
    little-endian.
    """
    header = np.frombuffer(json.dumps([_described(rollout) for rollout in rollouts]).encode(), np.uint8)
    parts = [np.array([len(header)], "<i8"), header]
    for rollout in rollouts:
        parts += [np.array(rollout.logprobs, "<f8"), np.array(rollout.token_ids, "<i4")]
        parts += [np.array(rollout.earlier, "<i4")]
        if rollout.routed_experts is not None:
            assert rollout.routed_experts.dtype == np.int16, "contracts.Rollout"
            parts.append(rollout.routed_experts.ravel())
    return np.concatenate([part.view(np.uint8) for part in parts])


def from_bytes(data: np.ndarray) -> list[Rollout]:
    """The inverse of `to_bytes`."""
    position = 0

    def array(dtype: str, *shape: int) -> np.ndarray:
        nonlocal position
        found = np.empty(shape, dtype)  # a copy, so that no small part keeps all of `data` in memory
        raw = found.reshape(-1).view(np.uint8)
        raw[:] = data[position : position + len(raw)]
        position += len(raw)
        return found

    header = json.loads(array("u1", int(array("<i8", 1)[0])).tobytes())
    return [
        Rollout(
            **values,
            logprobs=array("<f8", tokens).tolist(),  # read in the order in which they were written
            token_ids=array("<i4", tokens).tolist(),
            earlier=array("<i4", earlier).tolist(),
            routed_experts=None if experts is None else array("<i2", *experts),
        )
        for values, tokens, earlier, experts in header
    ]


def _described(rollout: Rollout) -> list[Any]:
    """A rollout's entry in the header: its other fields, and the lengths and shape of its arrays."""
    values = {each.name: getattr(rollout, each.name) for each in fields(rollout) if each.name not in ARRAYS}
    experts = rollout.routed_experts
    shape = None if experts is None else list(experts.shape)
    return [values, len(rollout.token_ids), len(rollout.earlier), shape]
