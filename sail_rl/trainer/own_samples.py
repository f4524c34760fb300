"""From the groups of a step to the samples that this rank trains on: dealt, exchanged, encoded."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

from sail_rl.contracts import Rollout
from sail_rl.data.balance import Place, balanced_shares

from .distributed import rank, world_size
from .estimators import RolloutSample
from .exchange import exchange_rollouts
from .groups import Group
from .sampling import GroupSampler


def own_samples(groups: Sequence[Group], parts: Sequence[range], sampler: GroupSampler) -> list[list[RolloutSample]]:
    """This rank's samples of each part of a step (collective).

    Args:
        groups: the step's groups, the same on every rank.
        parts: positions in `groups` of each mini-batch, whose samples are dealt to all ranks.
        sampler: holds the rollouts that this rank has sampled; loses those of the step.
    """
    dealt = [_deal(groups, part) for part in parts]
    shares = [[place for part in dealt for place in part[number]] for number in range(world_size())]
    samples = _encoded(groups, exchange_rollouts(groups, shares, sampler.held), sampler)
    return [[samples[place] for place in part[rank()]] for part in dealt]


def _deal(groups: Sequence[Group], part: range) -> list[list[Place]]:
    """The places of each rank's samples in a mini-batch."""
    own = [groups[position] for position in part]
    shares = balanced_shares([group.sizes for group in own], [group.rank for group in own], ranks=world_size())
    return [[(part[number], index) for number, index in share] for share in shares]


def _encoded(
    groups: Sequence[Group], rollouts: dict[Place, Rollout], sampler: GroupSampler
) -> dict[Place, RolloutSample]:
    """The samples of these rollouts. Each prompt is encoded once, and its samples share the images."""
    places = {position: list(own) for position, own in groupby(sorted(rollouts), key=itemgetter(0))}
    prompts = sampler.take_prompts([groups[position].prompt for position in places])
    found: dict[Place, RolloutSample] = {}
    for prompt, own in zip(prompts, places.values(), strict=True):
        samples = sampler.encoder.rollout_samples(prompt, [rollouts.pop(place) for place in own])
        found |= {place: RolloutSample(*place, sample) for place, sample in zip(own, samples, strict=True)}
    return found
