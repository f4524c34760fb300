"""Batches for reinforcement learning: generate, probe, score, advantages — the RL step on one screen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Protocol

import torch

from sail_rl.contracts import Prompt, Rollout, RolloutEngine, Sampling, Scorer, Scores
from sail_rl.data.encoding import Encoder, Sample
from sail_rl.data.order import RowStream
from sail_rl.maths.advantages import group_advantages, informative_groups
from sail_rl.seeding import derive_seed

from .distributed import gather_objects
from .rollout_metrics import rollout_metrics, rollout_records
from .trainer import Trainer


class RolloutObserver(Protocol):
    """Is shown each batch of rollouts with its scores (traces, the record of prompts seen)."""

    def __call__(self, step: int, prompts: list[Prompt], rollouts: list[Rollout], scores: Scores) -> None: ...


@dataclass
class RolloutBatches:
    """A `BatchSource` that samples from the policy it trains.

    Args:
        engine: generates, with the trainer's weights.
        scorer: turns rollouts into rewards.
        stream: prompts, each rank its share.
        encoder: builds samples.
        sampling: how completions are sampled; its seed is the run's.
        mini_batches: optimiser steps for each batch of rollouts.
        probe_rollouts: rollouts that are rescored after each weight push.
        max_logprob_diff: limit of that comparison, in nats.
        observer: sees the rollouts.
    """

    engine: RolloutEngine
    scorer: Scorer
    stream: RowStream
    encoder: Encoder
    sampling: Sampling
    mini_batches: int
    probe_rollouts: int
    max_logprob_diff: float
    observer: RolloutObserver

    @property
    def score_options(self) -> dict[str, Any]:
        """The trainer scores the very distribution that the engine samples from."""
        return {
            "temperature": self.sampling.temperature,
            "banned_token_ids": tuple(self.encoder.processor.image_token_ids),
        }

    def batches(self, trainer: Trainer, *, start_step: int) -> Iterator[list[Sample]]:
        """Yield the mini-batches of each batch of rollouts; `start_step` begins a batch of rollouts."""
        assert start_step % self.mini_batches == 0, "checkpoints are taken between batches of rollouts"
        for number in count(start_step // self.mini_batches):
            groups, unlabelled = self.collect(trainer, number)
            size = len(groups) // self.mini_batches
            for start in range(0, len(groups), size):
                yield [sample for group in groups[start : start + size] for sample in group] or [unlabelled]

    def collect(self, trainer: Trainer, number: int) -> tuple[list[list[Sample]], Sample]:
        """Sample and score batch number `number`.

        Returns the samples of each group, none where all rewards are equal: such a group has no gradient, so it is
        neither computed nor counted in the loss's denominator. And one sample with nothing to score, to stand in for a
        mini-batch that has none: this rank must take part in the step all the same.
        """
        prompts = [self.encoder.prompt(row) for row in self.stream.batch(number)]
        trainer.push_weights(self.engine)
        with trainer.stopwatch.measure("time/generate"):
            sampling = replace(self.sampling, seed=derive_seed(self.sampling.seed, "rollouts", number))
            groups = self.engine.generate(prompts, sampling)
        repeated = [prompt for prompt, group in zip(prompts, groups, strict=True) for _ in group]
        rollouts = [rollout for group in groups for rollout in group]
        with trainer.stopwatch.measure("time/score"):
            scores = self.scorer(repeated, rollouts)
        rewards = torch.tensor(scores.total).view(len(prompts), self.sampling.samples_per_prompt)
        advantages = group_advantages(rewards).flatten().tolist()
        samples = [
            self.encoder.rollout_sample(prompt, rollout, advantage=advantage)
            for prompt, rollout, advantage in zip(repeated, rollouts, advantages, strict=True)
        ]
        stride = max(1, len(samples) // self.probe_rollouts)
        trainer.check_logprobs(samples[::stride][: self.probe_rollouts], limit=self.max_logprob_diff)
        informative = informative_groups(rewards).tolist()
        self._report(trainer, repeated, rollouts, scores, advantages, informative)
        size = self.sampling.samples_per_prompt
        kept = [samples[size * p : size * (p + 1)] if useful else [] for p, useful in enumerate(informative)]
        return kept, samples[0].unlabelled()

    def _report(
        self,
        trainer: Trainer,
        prompts: list[Prompt],
        rollouts: list[Rollout],
        scores: Scores,
        advantages: list[float],
        informative: list[bool],
    ) -> None:
        """Log the metrics of all ranks' rollouts and show this rank's to the observer."""
        records = gather_objects(rollout_records(prompts, rollouts, scores, advantages))
        useful = gather_objects(informative)
        trainer.record(rollout_metrics(records) | {"groups/zero_variance": 1 - sum(useful) / len(useful)})
        self.observer(trainer.state.global_step + 1, prompts, rollouts, scores)
