"""Batches for reinforcement learning: sample, exchange, annotate, probe, advantages — the RL step on one screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, pstdev

import torch

from sail_rl.data.encoding import Sample
from sail_rl.maths.aggregation import Aggregation
from sail_rl.maths.mismatch import MismatchLimits
from sail_rl.maths.token_fields import present
from sail_rl.models import Distribution

from .annotate import Annotator
from .batches import Learner, StepBatch
from .distributed import gather_objects
from .estimators import AdvantageEstimator, RolloutSample, explained_variance
from .groups import Group
from .mismatch import check_mismatch
from .own_samples import own_samples
from .sampling import GroupSampler


@dataclass
class RolloutBatches:
    """A `BatchSource` that samples from the policy it trains.

    Args:
        sampler: samples groups of rollouts and scores them.
        annotator: adds the token fields that need a forward pass of the trainer.
        estimator: adds the advantages.
        aggregation: weights of the token losses, and their denominator.
        mini_batches: number of parts of a batch of rollouts; each part is one optimiser step.
        epochs: number of passes over the parts.
        skip_zero_advantage: skip samples without a gradient; requires a loss without KL, entropy and value terms.
        overlong_filtering: exclude truncated completions from the loss (DAPO, arXiv 2503.14476, section 3.4).
        critic_warmup: number of first optimiser steps that train only the critic.
        probe_rollouts: number of rollouts whose log-probs are compared after each weight push.
        mismatch_limits: largest allowed difference of engine and trainer.
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
    mismatch_limits: MismatchLimits

    @property
    def distribution(self) -> Distribution:
        """The distribution that the engine samples from."""
        banned = tuple(self.sampler.encoder.processor.image_token_ids)
        return Distribution(self.sampler.sampling.temperature, banned)

    def batches(self, learner: Learner, *, start_step: int) -> Iterator[StepBatch]:
        """Yield the mini-batches of each batch of rollouts; `start_step` must be the first step of one."""
        assert start_step % (self.mini_batches * self.epochs) == 0, "checkpoints are taken between batches of rollouts"
        while True:
            groups = self.sampler.collect(learner)
            parts = own_samples(groups, self._parts(len(groups)), self.sampler)
            samples = [sample for part in parts for sample in part]
            if self.annotator.values and groups:
                rewards = [reward for group in groups for reward in group.rewards]
                learner.normalise_returns(fmean(rewards), pstdev(rewards))
            self.annotator(learner, [each.sample for each in samples])
            self._check_mismatch(learner, groups, samples)
            self.estimator(groups, samples)
            self._record(learner, samples)
            for part in parts * self.epochs:
                yield self._step_batch(learner, groups, part)

    def _parts(self, groups: int) -> list[range]:
        """The group numbers of each mini-batch; they do not depend on the number of ranks."""
        bounds = [groups * part // self.mini_batches for part in range(self.mini_batches + 1)]
        return [range(start, end) for start, end in pairwise(bounds)]

    def _check_mismatch(self, learner: Learner, groups: Sequence[Group], samples: Sequence[RolloutSample]) -> None:
        """Compare the log-probs of engine and trainer on rollouts that the current weights sampled."""
        newest = learner.weights_version
        fresh = [s.sample for s in samples if groups[s.position].rollouts[s.index].oldest_version == newest]
        if not self.annotator.recompute:
            stride = max(1, len(fresh) // self.probe_rollouts)
            fresh = fresh[::stride][: self.probe_rollouts]
        with learner.stopwatch.measure("time/probe"):
            if self.annotator.recompute:
                trainer = [present(sample.token_fields.old_logprobs) for sample in fresh]
            else:
                trainer = [output.logprobs for output in learner.compute_logprobs(fresh)]
            engine = [present(sample.token_fields.rollout_logprobs) for sample in fresh]
            differences = [ours - theirs for ours, theirs in zip(trainer, engine, strict=True)]
            check_mismatch(learner, differences, self.mismatch_limits)

    def _record(self, learner: Learner, samples: Sequence[RolloutSample]) -> None:
        means = gather_objects([present(each.sample.token_fields.advantages).mean().item() for each in samples])
        learner.record({"advantage/std": pstdev(means) if means else 0.0})
        if self.annotator.values:
            learner.record({"value/explained_variance": explained_variance([each.sample for each in samples])})

    def _step_batch(self, learner: Learner, groups: Sequence[Group], part: Sequence[RolloutSample]) -> StepBatch:
        """The samples that can have a gradient, and the denominator of all samples that count in the loss."""
        samples: list[Sample] = []
        loss_denominator = 0.0
        for each in part:
            fields, tokens = each.sample.token_fields, each.sample.completion_length
            if self.overlong_filtering and groups[each.position].rollouts[each.index].truncated:
                continue
            loss_denominator += self.aggregation.denominator(tokens)
            fields.weights = torch.full((tokens,), self.aggregation.token_weight(tokens))
            if not (self.skip_zero_advantage and bool((present(fields.advantages) == 0).all())):
                samples.append(each.sample)
        return StepBatch(samples, loss_denominator, critic_only=learner.step < self.critic_warmup)
