"""One rank of an exchange of rollouts, started by test_exchange.py: writes what this rank received and computed."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import distributed

from sail_rl.contracts import Rollout
from sail_rl.data.balance import balanced_shares
from sail_rl.maths.mismatch import Mismatch
from sail_rl.trainer import exchange
from sail_rl.trainer.distributed import all_sum, gather_objects, join_process_group, leave_process_group, rank
from sail_rl.trainer.exchange import HeldRollouts, exchange_rollouts
from sail_rl.trainer.groups import Group, NumberedPrompt
from sail_rl.trainer.rollout_bytes import to_bytes

GROUPS, SAMPLES = 6, 4


def rollouts_of(number: int) -> list[Rollout]:
    """The rollouts of a prompt, the same on every rank; those of prompt 0 are long, so that some must move."""
    generator = np.random.default_rng(number)
    made = []
    for sample in range(SAMPLES):
        length = int(generator.integers(60, 90) if number == 0 else generator.integers(1, 9))
        experts = generator.integers(0, 128, (5 + length - 1, 3, 2)).astype(np.int16)
        logprobs = generator.normal(size=length).tolist()
        tokens = generator.integers(0, 151_936, length).tolist()
        earlier = [1] * (length // 2)
        made.append(Rollout(f"p{number}", sample, tokens, logprobs, "text", "stop", 2, earlier, experts, sample))
    return made


def facts(rollout: Rollout) -> dict[str, Any]:
    assert rollout.routed_experts is not None
    return asdict(replace(rollout, routed_experts=None)) | {"experts": rollout.routed_experts.tolist()}


def main(folder: str, ranks: str) -> None:
    """Exchange the rollouts of six groups, of which this rank has sampled its contiguous share."""
    join_process_group(timeout_minutes=2)
    per_rank = GROUPS // int(ranks)
    held = HeldRollouts({n: rollouts_of(n) for n in range(rank() * per_rank, (rank() + 1) * per_rank)})
    held[100 + rank()] = rollouts_of(100)  # of a later step
    own = [
        Group.of(NumberedPrompt(n, n), held[n], [float(s) for s in range(SAMPLES)], rank=rank(), size=(5, 0))
        for n in held
        if n < GROUPS
    ]
    groups = gather_objects(own)
    shares = balanced_shares([g.sizes for g in groups], [g.rank for g in groups], ranks=int(ranks))
    sent: list[int] = []

    def counted(rollouts: list[Rollout]) -> np.ndarray:
        sent.append(len(rollouts))
        return to_bytes(rollouts)

    with patch.object(exchange, "to_bytes", counted):
        found = exchange_rollouts(groups, shares, held)
    assert list(held) == [100 + rank()], "the step's rollouts are gone, the others stay"
    differences = [torch.tensor(rollout.logprobs, dtype=torch.float32) for rollout in found.values()]
    mismatch = Mismatch.of(torch.cat(differences), completions=len(differences), all_sum=all_sum)
    assert mismatch is not None
    result = {
        "found": [[*place, facts(rollout)] for place, rollout in sorted(found.items())],
        "sent": sent,
        "moved": sum(groups[position].rank != rank() for position, _ in found),
        "mismatch": asdict(mismatch),
    }
    Path(folder, f"{rank()}.json").write_text(json.dumps(result))
    distributed.barrier()
    leave_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
