"""Sampling the groups of rollouts that an optimiser step trains on, on all ranks together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from sail_rl.contracts import Prompt, Rollout, RolloutEngine, Sampling, Scorer, Scores
from sail_rl.data.encoding import Encoder
from sail_rl.data.order import RowStream
from sail_rl.data.prefetch import Prefetcher
from sail_rl.seeding import derive_seed

from .batches import Learner
from .distributed import gather_objects
from .exchange import HeldRollouts
from .groups import Group, NumberedPrompt, PartialGroup
from .prompt_ledger import PromptLedger, StepGroups
from .rollout_metrics import rollout_metrics, rollout_records
from .sample_round import RolloutBatch, sample_round
from .stopwatch import Stopwatch

logger = logging.getLogger(__name__)


class RolloutObserver(Protocol):
    """Receives each rank's rollouts with their scores, for traces and the record of prompts seen."""

    def __call__(self, step: int, prompts: list[Prompt], rollouts: list[Rollout], scores: Scores) -> None: ...


@dataclass
class GroupSampler:
    """Samples and scores the groups of each step.

    Every rank calls it and gets the same list of all ranks' groups, in numbers. The rollouts are held by the rank that
    sampled them, until `exchange_rollouts` takes them. Which prompts are sampled is the ledger's decision;
    `sample_round` samples this rank's share of a round.

    Args:
        ledger: decides which prompts are sampled, and which groups a step gets.
        stream: the dataset, this rank's number and the number of ranks.
        encoder: renders prompts.
        engine: generates, with the trainer's weights.
        sampling: how completions are sampled; its seed is the run's.
        scorer: turns rollouts into rewards.
        observer: sees the rollouts.
        groups_per_score: complete groups that are scored in one call.
        can_sample_ahead: `can_sample_ahead(step)` is True if the next batch may be sampled while the batch of `step`
            trains, with weights that are one batch old by then. A checkpoint or an evaluation in between forbids it:
            both need the engine idle, and a resumed run has only the newest weights.
        held: this rank's rollouts that no step has used yet; a part of every checkpoint.
    """

    ledger: PromptLedger
    stream: RowStream
    encoder: Encoder
    engine: RolloutEngine
    sampling: Sampling
    scorer: Scorer
    observer: RolloutObserver
    groups_per_score: int = 1
    can_sample_ahead: Callable[[int], bool] = lambda step: False
    held: HeldRollouts = field(default_factory=HeldRollouts)
    _prompts: dict[NumberedPrompt, Prompt] = field(default_factory=dict)
    _sampled_ahead: Future[RolloutBatch] | None = None
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "rollouts"))

    def __post_init__(self) -> None:
        self._loader: Prefetcher[NumberedPrompt, Prompt] = Prefetcher(
            lambda prompt: self.encoder.processed_prompt(self.stream.rows[prompt.row]),
            describe=lambda prompt: self.stream.describe(prompt.row),
        )

    def load_held(self, paths: Iterable[Path]) -> None:
        """Take this rank's share of the rollouts that the ranks of an earlier job held, once the ledger is loaded."""
        self.held.load(paths, self.ledger.numbers_waiting(self.stream.rank))

    def collect(self, learner: Learner) -> list[Group]:
        """The groups of one step, of all ranks, in the order of their prompts."""
        records: list[dict[str, Any]] = []
        while self.ledger.needs_round:
            batch = self._next_batch(learner)
            self.ledger.record_round(gather_objects(batch.groups), gather_objects([batch.unfinished]))
            self.held.update(batch.sampled)
            self.held.keep(self.ledger.numbers_waiting(self.stream.rank))
            self._keep_prompts(self.held)
            self.observer(learner.step + 1, batch.prompts, batch.rollouts, batch.scores)
            records += gather_objects(rollout_records(batch.prompts, batch.rollouts, batch.scores))
        step = self.ledger.take_step()
        self._record(learner, step, records)
        self._keep_prompts(group.prompt.number for group in step.groups)
        if self.ledger.needs_round:  # what the next step samples is known already
            self._loader.prefetch(self.ledger.prompts_of_round(self.stream.rank))
        if self.ledger.needs_round and self.can_sample_ahead(learner.step):
            learner.push_weights(self.engine)
            self._sampled_ahead = self._thread.submit(self._sample, self._share(), learner.stopwatch, "_ahead")
        return step.groups

    def take_prompts(self, wanted: Sequence[NumberedPrompt]) -> list[Prompt]:
        """Prompts for training, with processed images: those that this rank has just sampled, or loaded now."""
        prompts = self._prompts_of(wanted)
        for prompt in wanted:
            del self._prompts[prompt]
        return prompts

    def close(self) -> None:
        """Drop what is being sampled and loaded ahead, and close the scorer."""
        self._loader.close()
        self._thread.shutdown(wait=False, cancel_futures=True)
        self.scorer.close()

    def _next_batch(self, learner: Learner) -> RolloutBatch:
        """This rank's share of the next round: sampled ahead, or now with the newest weights."""
        if self._sampled_ahead:
            with learner.stopwatch.measure("time/wait"):
                batch, self._sampled_ahead = self._sampled_ahead.result(), None
            return batch
        learner.push_weights(self.engine)
        return self._sample(self._share(), learner.stopwatch)

    def _share(self) -> list[PartialGroup]:
        """The groups that this rank samples in the next round, with their rollouts so far."""
        prompts = self.ledger.prompts_of_round(self.stream.rank)
        return [PartialGroup(prompt, self.held.get(prompt.number, ())) for prompt in prompts]

    def _sample(self, share: Sequence[PartialGroup], stopwatch: Stopwatch, suffix: str = "") -> RolloutBatch:
        return sample_round(
            share,
            self._prompts_of([part.prompt for part in share]),
            rank=self.stream.rank,
            encoder=self.encoder,
            engine=self.engine,
            sampling=replace(self.sampling, seed=derive_seed(self.sampling.seed, "rollouts", self.ledger.rounds)),
            scorer=self.scorer,
            groups_per_score=self.groups_per_score,
            stopwatch=stopwatch,
            suffix=suffix,
        )

    def _prompts_of(self, wanted: Sequence[NumberedPrompt]) -> list[Prompt]:
        missing = [prompt for prompt in wanted if prompt not in self._prompts]
        self._loader.prefetch(missing)
        self._prompts |= {prompt: self._loader.get(prompt) for prompt in missing}
        return [self._prompts[prompt] for prompt in wanted]

    def _keep_prompts(self, numbers: Iterable[int]) -> None:
        """Drop all other prompts: processed images take megabytes each."""
        kept = set(numbers)
        self._prompts = {prompt: found for prompt, found in self._prompts.items() if prompt.number in kept}

    def _record(self, learner: Learner, step: StepGroups, records: list[dict[str, Any]]) -> None:
        """Log the step's metrics; warn if it has fewer groups than it wants."""
        wanted = self.ledger.prompts_per_step
        if len(step.groups) < wanted:
            logger.warning(
                "step %d: only %d of %d groups carry a signal after %d round(s) of sampling; training on those",
                *(learner.step + 1, len(step.groups), wanted, step.rounds),
            )
        used = [rollout for group in step.groups for rollout in group.rollouts]
        tokens = sum(rollout.length for rollout in used)
        age = sum(learner.weights_version * rollout.length - rollout.version_sum for rollout in used)
        learner.record(
            rollout_metrics(records)
            | self.scorer.metrics()
            | {
                "groups/zero_variance": step.uninformative / max(1, step.sampled),
                "sampling/rounds": step.rounds,
                "sampling/used_fraction": len(step.groups) / wanted,
                "sampling/surplus": len(self.ledger.surplus),
            }
            | ({"rollout/staleness": age / tokens} if tokens else {})
        )
