"""Batches for reinforcement learning: sample, annotate, probe, advantages — the RL step on one screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, pairwise
from statistics import pstdev

import torch

from sail_rl.data.balance import balanced_shares
from sail_rl.data.encoding import Sample
from sail_rl.maths.aggregation import Aggregation
from sail_rl.maths.token_fields import present
from sail_rl.models import Distribution

from .annotate import Annotator
from .batches import Learner, StepBatch
from .distributed import gather_objects, rank, world_size
from .estimators import AdvantageEstimator, RolloutSample
from .groups import Group
from .sampling import GroupSampler


@dataclass
class RolloutBatches:
    """A `BatchSource` that samples from the policy it trains.

    Args:
        sampler: samples and scores the groups of a step.
        annotator: adds what the loss needs besides the sampler's log-probs.
        estimator: adds advantages.
        aggregation: how token losses become one number.
        mini_batches: parts of a batch of rollouts, an optimiser step each; `epochs`: passes over them.
        skip_zero_advantage: don't compute samples that can't have a gradient (there is no KL, entropy or value term).
        overlong_filtering: leave completions that were cut out of the loss (DAPO, arXiv 2503.14476, section 3.4).
        critic_warmup: optimiser steps in which only the critic learns.
        probe_rollouts: rollouts whose log-probs are compared after each weight push.
        max_mismatch: largest allowed |trainer - engine| log-prob, in nats.
    """

    sampler: GroupSampler
    annotator: Annotator
    estimator: AdvantageEstimator
    aggregation: Aggregation
    mini_batches: int
    epochs: int
    skip_zero_advantage: bool
    overlong_filtering: bool
    critic_warmup: int
    probe_rollouts: int
    max_mismatch: float

    @property
    def distribution(self) -> Distribution:
        """The distribution that the engine samples from."""
        banned = tuple(self.sampler.encoder.processor.image_token_ids)
        return Distribution(self.sampler.sampling.temperature, banned)

    def batches(self, learner: Learner, *, start_step: int) -> Iterator[StepBatch]:
        """Yield the mini-batches of each batch of rollouts; `start_step` begins a batch of rollouts."""
        assert start_step % (self.mini_batches * self.epochs) == 0, "checkpoints are taken between batches of rollouts"
        for _ in count():
            groups = self.sampler.collect(learner)
            drawn = [self._own_samples(groups, part) for part in self._parts(len(groups))]
            everything = [d for part in drawn for d in part]
            self.annotator(learner, [d.sample for d in everything])
            self._probe(learner, groups, everything)
            self.estimator(groups, everything)
            self._record(learner, everything)
            for part in drawn * self.epochs:
                yield self._step_batch(learner, groups, part)

    def _parts(self, groups: int) -> list[range]:
        """The group numbers of each mini-batch: the same ones however many ranks there are."""
        bounds = [groups * part // self.mini_batches for part in range(self.mini_batches + 1)]
        return [range(start, end) for start, end in pairwise(bounds)]

    def _own_samples(self, groups: Sequence[Group], part: range) -> list[RolloutSample]:
        """This rank's share of a mini-batch: about as many tokens and visual tokens as any other's."""
        everything = [(position, index) for position in part for index in range(len(groups[position].rollouts))]
        sizes = [groups[position].size(index) for position, index in everything]
        own = [everything[n] for n in balanced_shares(sizes, shares=world_size())[rank()]]
        drawn = []
        for position in sorted({position for position, _ in own}):
            group, indices = groups[position], [index for p, index in own if p == position]
            prompt = self.sampler.encoder.prompt(self.sampler.stream.rows[group.row])
            samples = self.sampler.encoder.rollout_samples(prompt, [group.rollouts[index] for index in indices])
            drawn += [RolloutSample(position, index, sample) for index, sample in zip(indices, samples, strict=True)]
        return drawn

    def _probe(self, learner: Learner, groups: Sequence[Group], drawn: Sequence[RolloutSample]) -> None:
        """Compare the log-probs of engine and trainer on rollouts that the weights of now sampled (none if ahead)."""
        newest = learner.weights_version
        rollouts = [groups[d.position].rollouts[d.index] for d in drawn]
        fresh = [d.sample for d, r in zip(drawn, rollouts, strict=True) if min(r.token_versions) == newest]
        if not self.annotator.recompute:
            stride = max(1, len(fresh) // self.probe_rollouts)
            fresh = fresh[::stride][: self.probe_rollouts]
        with learner.stopwatch.measure("time/probe"):
            if self.annotator.recompute:
                ours = [present(sample.token_fields.old_logprobs) for sample in fresh]
            else:
                ours = [scores.logprobs for scores in learner.compute_logprobs(fresh)]
            theirs = [present(sample.token_fields.rollout_logprobs) for sample in fresh]
            differences = (torch.cat([*ours, torch.zeros(0)]) - torch.cat([*theirs, torch.zeros(0)])).abs()
            learner.check_mismatch(differences, limit=self.max_mismatch)

    def _record(self, learner: Learner, drawn: Sequence[RolloutSample]) -> None:
        means = gather_objects([present(d.sample.token_fields.advantages).mean().item() for d in drawn])
        learner.record({"advantage/std": pstdev(means) if means else 0.0})

    def _step_batch(self, learner: Learner, groups: Sequence[Group], drawn: Sequence[RolloutSample]) -> StepBatch:
        """The samples that can have a gradient, and the mass of all that count."""
        samples: list[Sample] = []
        mass = 0.0
        for d in drawn:
            fields, tokens = d.sample.token_fields, d.sample.completion_length
            if self.overlong_filtering and groups[d.position].rollouts[d.index].stop_reason == "length":
                continue
            mass += self.aggregation.mass(tokens)
            fields.weights = torch.full((tokens,), self.aggregation.token_weight(tokens))
            fields.actor = torch.zeros(tokens) if learner.step < self.critic_warmup else None
            if not (self.skip_zero_advantage and bool((present(fields.advantages) == 0).all())):
                samples.append(d.sample)
        return StepBatch(samples, mass)
