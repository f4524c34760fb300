"""Measures what a step's rollouts cost each rank on their way to training: bytes received, memory, seconds.

    python benchmarks/rollout_exchange.py [--ranks 4] [--prompts 8] [--samples 8] [--tokens 3000]

The rollouts are those of a 30B-A3B MoE with routes (48 layers, 8 experts a token). "All gathered" sends every rollout
to every rank, as this library once did; "exchanged" sends numbers to every rank and each rollout to one rank at most.
"All moved" is the worst case of the latter: no rollout is trained on where it was sampled. Each way runs in processes
of its own, over gloo. Prints a Markdown table; bytes are those of the payloads.
"""

from __future__ import annotations

import argparse
import os
import pickle
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import distributed

from sail_rl.contracts import Rollout
from sail_rl.data.balance import balanced_shares
from sail_rl.trainer import exchange
from sail_rl.trainer.distributed import gather_objects, join_process_group, leave_process_group, rank, world_size
from sail_rl.trainer.exchange import HeldRollouts, exchange_rollouts
from sail_rl.trainer.groups import Group, NumberedPrompt

LAYERS, EXPERTS, PROMPT = 48, 8, 300
MIB = 2**20


def main() -> None:
    """Start the ranks of each way, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=3000, help="mean length of a completion")
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        join_process_group(timeout_minutes=5)
        measure(options)
        leave_process_group()
        return
    print(f"{options.prompts * options.samples} rollouts of {options.tokens} tokens, {options.ranks} ranks\n")
    print(
        "| way | received by a rank, MiB | extra peak memory of a rank, MiB | seconds |\n|---|---|---|---|", flush=True
    )
    for way in WAYS:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(options.ranks)]
        own = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, *launcher, *sys.argv, "--way", way], check=True, env=own)


def measure(options: argparse.Namespace) -> None:
    """Sample this rank's share, bring the rollouts to training, and print the mean over the ranks."""
    share = options.prompts // world_size()
    numbers = range(rank() * share, (rank() + 1) * share)
    held = HeldRollouts({number: rollouts_of(number, options) for number in numbers})
    distributed.barrier()
    before, start = peak(), time.perf_counter()
    received = WAYS[options.way](held)
    distributed.barrier()
    seconds = time.perf_counter() - start
    found = gather_objects([(received / MIB, (peak() - before) / MIB)])
    if rank() == 0:
        mebibytes, memory = np.mean(found, axis=0)
        print(f"| {options.way} | {mebibytes:.2f} | {memory:.1f} | {seconds:.2f} |", flush=True)


def rollouts_of(number: int, options: argparse.Namespace) -> list[Rollout]:
    """Rollouts of one prompt, between half and one and a half times as long as the mean."""
    generator = np.random.default_rng(number)
    made = []
    for sample in range(options.samples):
        length = int(generator.integers(options.tokens // 2, options.tokens * 3 // 2))
        tokens, logprobs = generator.integers(0, 151_936, length).tolist(), generator.normal(size=length).tolist()
        routes = generator.integers(0, 128, (PROMPT + length - 1, LAYERS, EXPERTS), dtype=np.int16)
        made.append(Rollout(str(number), sample, tokens, logprobs, "word " * length, "stop", 1, [], routes))
    return made


def all_gathered(held: HeldRollouts) -> int:
    """Every rollout goes to every rank; returns the bytes received."""
    everything = gather_objects(list(held.items()))
    foreign = [pickle.dumps(item) for item in everything if item[0] not in held]
    return sum(map(len, foreign))


def exchanged(held: HeldRollouts) -> int:
    """Each rollout goes to the rank that trains on it; returns the bytes received."""
    return _exchanged(held, lambda groups: _dealt(groups, [group.rank for group in groups]))


def all_moved(held: HeldRollouts) -> int:
    """Each rollout goes to the rank after its own; returns the bytes received."""
    return _exchanged(held, lambda groups: _moved(groups))


def _exchanged(held: HeldRollouts, deal: Callable[[list[Group]], Any]) -> int:
    own = [
        Group.of(NumberedPrompt(n, n), rollouts, [0.0] * len(rollouts), rank=rank(), size=(PROMPT, 256))
        for n, rollouts in held.items()
    ]
    groups = gather_objects(own)
    sizes: list[int] = []
    read = exchange.from_bytes

    def counted(data: np.ndarray) -> list[Rollout]:
        sizes.append(len(data))
        return read(data)

    exchange.from_bytes = counted
    exchange_rollouts(groups, deal(groups), held)
    return sum(sizes) + len(pickle.dumps(own)) * (world_size() - 1)


def _dealt(groups: list[Group], homes: list[int]) -> Any:
    return balanced_shares([group.sizes for group in groups], homes, ranks=world_size())


def _moved(groups: list[Group]) -> Any:
    places = [(position, index) for position, group in enumerate(groups) for index in range(len(group.rollouts))]
    return [[p for p in places if (groups[p[0]].rank + 1) % world_size() == number] for number in range(world_size())]


def peak() -> int:
    """The largest memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


WAYS: dict[str, Callable[[HeldRollouts], int]] = {
    "all gathered": all_gathered,
    "exchanged": exchanged,
    "all moved": all_moved,
}

if __name__ == "__main__":
    main()
