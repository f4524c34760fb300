"""Sampling groups of rollouts for an optimiser step, with or without DAPO's dynamic sampling."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from sail_rl.contracts import Prompt, Rollout, RolloutEngine, Sampling, Scorer, Scores
from sail_rl.data.encoding import Encoder
from sail_rl.data.order import RowStream
from sail_rl.seeding import derive_seed

from .distributed import gather_objects
from .groups import Group
from .rollout_metrics import rollout_metrics, rollout_records

if TYPE_CHECKING:
    from .trainer import Trainer

logger = logging.getLogger(__name__)


class RolloutObserver(Protocol):
    """Is shown each rank's rollouts with their scores (traces, the record of prompts seen)."""

    def __call__(self, step: int, prompts: list[Prompt], rollouts: list[Rollout], scores: Scores) -> None: ...


@dataclass
class GroupSampler:
    """Samples and scores groups; every rank calls it and gets the same list of all ranks' groups, in prompt order.

    With `max_rounds`, sampling is dynamic (DAPO, arXiv 2503.14476, section 3.2): groups whose rewards are all equal are
    replaced by groups of the next prompts, for at most so many rounds of `stream.batch_size` prompts; good groups
    beyond what the step needs are kept for the next one. When the rounds are used up, the step trains on what there is.
    Without it every group is returned.

    Args:
        engine: generates, with the trainer's weights.
        scorer: turns rollouts into rewards.
        stream: the prompts in order.
        encoder: renders prompts.
        sampling: how completions are sampled; its seed is the run's.
        observer: sees the rollouts.
        max_rounds: see above.
        next_batch: the next batch of `stream` to sample from; with `surplus`, all that a resumed run must know.
    """

    engine: RolloutEngine
    scorer: Scorer
    stream: RowStream
    encoder: Encoder
    sampling: Sampling
    observer: RolloutObserver
    max_rounds: int | None = None
    next_batch: int = 0
    surplus: list[Group] = field(default_factory=list)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold so that no prompt is lost or repeated."""
        return {"next_batch": self.next_batch, "surplus": [group.to_json() for group in self.surplus]}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.next_batch = state["next_batch"]
        self.surplus = [Group.from_json(group) for group in state["surplus"]]

    def collect(self, trainer: Trainer) -> list[Group]:
        """The groups of one step, of all ranks."""
        wanted, rounds, sampled = self.stream.batch_size, 0, 0
        records: list[dict[str, Any]] = []
        good, dull = self.surplus, 0
        while rounds < (self.max_rounds or 1) and len(good) < wanted:
            fresh = self._round(trainer, records)
            useful = [group for group in fresh if group.informative]
            rounds, sampled, dull = rounds + 1, sampled + len(fresh), dull + len(fresh) - len(useful)
            good = good + (fresh if self.max_rounds is None else useful)
        used, self.surplus = good[:wanted], good[wanted:]
        if len(used) < wanted:
            logger.warning(
                "step %d: only %d of %d groups carry a signal after %d round(s) of sampling; training on those",
                *(trainer.state.global_step + 1, len(used), wanted, rounds),
            )
        trainer.record(
            rollout_metrics(records)
            | {
                "groups/zero_variance": dull / sampled,
                "sampling/rounds": rounds,
                "sampling/used_fraction": len(used) / wanted,
                "sampling/surplus": len(self.surplus),
            }
        )
        return used

    def _round(self, trainer: Trainer, records: list[dict[str, Any]]) -> list[Group]:
        """Sample and score the next batch of prompts; adds all ranks' metric records to `records`."""
        number, self.next_batch = self.next_batch, self.next_batch + 1
        rows = self.stream.share(number)
        prompts = [self.encoder.prompt(self.stream.rows[row]) for row in rows]
        trainer.push_weights(self.engine)
        with trainer.stopwatch.measure("time/generate"):
            sampling = replace(self.sampling, seed=derive_seed(self.sampling.seed, "rollouts", number))
            groups = self.engine.generate(prompts, sampling)
        repeated = [prompt for prompt, group in zip(prompts, groups, strict=True) for _ in group]
        rollouts = [rollout for group in groups for rollout in group]
        with trainer.stopwatch.measure("time/score"):
            scores = self.scorer(repeated, rollouts)
        self.observer(trainer.state.global_step + 1, repeated, rollouts, scores)
        records += gather_objects(rollout_records(repeated, rollouts, scores))
        own = [
            self._group(row, prompt, group, scores.total[number * len(group) : (number + 1) * len(group)])
            for number, (row, prompt, group) in enumerate(zip(rows, prompts, groups, strict=True))
        ]
        return gather_objects(own)

    def _group(self, row: int, prompt: Prompt, rollouts: Sequence[Rollout], rewards: list[float]) -> Group:
        tokens, visual = self.encoder.prompt_size(prompt)
        return Group(row, list(rollouts), rewards, tokens, visual)
