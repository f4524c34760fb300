"""Sampling groups of rollouts for an optimiser step, with or without DAPO's dynamic sampling."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import accumulate
from statistics import fmean
from typing import Any, Protocol

from sail_rl.contracts import Prompt, Rollout, RolloutEngine, Sampling, Scorer, Scores, joined
from sail_rl.data.encoding import Encoder
from sail_rl.data.order import RowStream
from sail_rl.seeding import derive_seed

from .batches import Learner
from .distributed import gather_objects
from .groups import Group, PartialGroup
from .rollout_metrics import rollout_metrics, rollout_records
from .stopwatch import Stopwatch

logger = logging.getLogger(__name__)


class RolloutObserver(Protocol):
    """Is shown each rank's rollouts with their scores (traces, the record of prompts seen)."""

    def __call__(self, step: int, prompts: list[Prompt], rollouts: list[Rollout], scores: Scores) -> None: ...


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """One rank's share of a batch: rollouts with the prompt and the scores of each [N], and as groups [P]."""

    prompts: list[Prompt]
    rollouts: list[Rollout]
    scores: Scores
    groups: list[Group]
    unfinished: list[PartialGroup]
    """Prompts whose groups were given up, or are gone on with in the next round."""


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
        can_sample_ahead: `can_sample_ahead(step)` is True if the next batch may be sampled while the batch of `step`
            trains, with weights that are one batch old by then. A checkpoint or an evaluation in between forbids it:
            both want the engine idle, and a resumed run has only the newest weights.
        oversample: prompts that are begun, over those wanted. A rank's round ends as soon as it has the groups it
            wants, and the rest is given up: their prompts come first in the next round, which waits for them.
        partial: tokens that a completion grows by in one round. Groups with unfinished ones are carried to the next
            round, of this step or the next one; `oversample` is then what is under way, over what a step wants, and
            nothing is given up.
        groups_per_score: groups that are scored in one call, as soon as they are finished.
        rounds: rounds of sampling so far; with the rest, all that a resumed run must know.
        begun: prompts of `stream` that were begun, by all ranks.
        surplus: good groups for the next step.
        carried: prompts that were given up or are unfinished, for each rank.
    """

    engine: RolloutEngine
    scorer: Scorer
    stream: RowStream
    encoder: Encoder
    sampling: Sampling
    observer: RolloutObserver
    max_rounds: int | None = None
    can_sample_ahead: Callable[[int], bool] = lambda step: False
    oversample: float = 1.0
    partial: int | None = None
    groups_per_score: int = 1
    rounds: int = 0
    begun: int = 0
    surplus: list[Group] = field(default_factory=list)
    carried: list[list[PartialGroup]] = field(default_factory=list)
    _sampled_ahead: Future[RolloutBatch] | None = None
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "rollouts"))

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold so that no prompt is lost or repeated."""
        return {
            "rounds": self.rounds,
            "begun": self.begun,
            "surplus": [group.to_json() for group in self.surplus],
            "carried": [[prompt.to_json() for prompt in prompts] for prompts in self.carried],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.rounds, self.begun = state["rounds"], state["begun"]
        self.surplus = [Group.from_json(group) for group in state["surplus"]]
        self.carried = [[PartialGroup.from_json(prompt) for prompt in prompts] for prompts in state["carried"]]

    def collect(self, trainer: Learner) -> list[Group]:
        """The groups of one step, of all ranks."""
        wanted, rounds, sampled = self.stream.batch_size, 0, 0
        records: list[dict[str, Any]] = []
        good, dull = self.surplus, 0
        allowed = (self.max_rounds or 1) * (math.ceil(self.sampling.max_tokens / self.partial) if self.partial else 1)
        while rounds < allowed and len(good) < wanted:
            fresh = self._round(trainer, records)
            useful = [group for group in fresh if group.informative]
            rounds, sampled, dull = rounds + 1, sampled + len(fresh), dull + len(fresh) - len(useful)
            good = good + (fresh if self.max_rounds is None else useful)
        used, self.surplus = good[:wanted], good[wanted:]
        ages = [trainer.weights_version - v for group in used for r in group.rollouts for v in r.token_versions]
        if len(used) < wanted:
            logger.warning(
                "step %d: only %d of %d groups carry a signal after %d round(s) of sampling; training on those",
                *(trainer.step + 1, len(used), wanted, rounds),
            )
        trainer.record(
            rollout_metrics(records)
            | self.scorer.metrics()
            | {
                "groups/zero_variance": dull / max(1, sampled),
                "sampling/rounds": rounds,
                "sampling/used_fraction": len(used) / wanted,
                "sampling/surplus": len(self.surplus),
            }
            | ({"rollout/staleness": fmean(ages)} if ages else {})
        )
        if len(self.surplus) < wanted and self.can_sample_ahead(trainer.step):
            self._sample_ahead(trainer)
        return used

    def close(self) -> None:
        """Forget what is being sampled ahead, and close the scorer."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self.scorer.close()

    def _round(self, trainer: Learner, records: list[dict[str, Any]]) -> list[Group]:
        """The next batch of prompts, sampled and scored; adds all ranks' metric records to `records`."""
        if self._sampled_ahead:
            with trainer.stopwatch.measure("time/wait"):
                batch, self._sampled_ahead = self._sampled_ahead.result(), None
        else:
            trainer.push_weights(self.engine)
            batch = self._sample(trainer.stopwatch, "")
        self.begun += sum(self._rooms())
        self.rounds += 1
        self.carried = gather_objects([batch.unfinished])
        if batch.rollouts:
            self.observer(trainer.step + 1, batch.prompts, batch.rollouts, batch.scores)
        records += gather_objects(rollout_records(batch.prompts, batch.rollouts, batch.scores))
        return gather_objects(batch.groups)

    def _sample_ahead(self, trainer: Learner) -> None:
        """Begin the next batch with the weights of now, while the trainer goes on to change its own."""
        trainer.push_weights(self.engine)
        self._sampled_ahead = self._thread.submit(self._sample, trainer.stopwatch, "_ahead")

    def _sample(self, stopwatch: Stopwatch, ahead: str) -> RolloutBatch:
        """Sample this rank's share of a batch and score it a group at a time; talks to no other rank."""
        begun = self._own_prompts()
        carried = len(self._carried()[self.stream.rank])
        wanted = len(begun) if self.partial else math.ceil(self._missing() / self.stream.world_size)
        prompts = [replace(self.encoder.prompt(self.stream.rows[b.row]), partial_rollouts=b.unfinished) for b in begun]
        seed = derive_seed(self.sampling.seed, "rollouts", self.rounds)
        groups: dict[int, list[Rollout]] = {}
        partial: dict[int, list[Rollout]] = {}
        scores: dict[int, Scores] = {}
        stream = self.engine.stream(prompts, replace(self.sampling, seed=seed, max_new_tokens_per_round=self.partial))
        try:
            while len(groups) + len(partial) < wanted or set(range(carried)) - groups.keys() - partial.keys():
                with stopwatch.measure(f"time/generate{ahead}"):
                    place, fresh = next(stream)
                group = sorted(begun[place].finished + fresh, key=lambda rollout: rollout.sample)
                complete = all(rollout.stop_reason != "unfinished" for rollout in group)
                (groups if complete else partial)[place] = group
                if len(unscored := groups.keys() - scores.keys()) == self.groups_per_score:
                    with stopwatch.measure(f"time/score{ahead}"):
                        scores |= self._score(prompts, groups, sorted(unscored))
            if len(groups) + len(partial) == len(prompts):
                next(stream, None)  # lets it end
        finally:
            stream.close()
        with stopwatch.measure(f"time/score{ahead}"):
            scores |= self._score(prompts, groups, sorted(groups.keys() - scores.keys()))
        finished = sorted(groups)
        return RolloutBatch(
            prompts=[prompts[place] for place in finished for _ in groups[place]],
            rollouts=[rollout for place in finished for rollout in groups[place]],
            scores=joined([scores[place] for place in finished]),
            groups=[
                Group(begun[place].row, groups[place], scores[place].total, *self.encoder.prompt_size(prompts[place]))
                for place in finished
            ],
            unfinished=[
                PartialGroup(b.row, partial.get(n, b.rollouts)) for n, b in enumerate(begun) if n not in groups
            ],
        )

    def _score(
        self, prompts: Sequence[Prompt], groups: Mapping[int, list[Rollout]], places: Sequence[int]
    ) -> dict[int, Scores]:
        """The scores of the groups at these places, from one call."""
        if not places:
            return {}
        repeated = [prompts[place] for place in places for _ in groups[place]]
        scores = self.scorer(repeated, [rollout for place in places for rollout in groups[place]])
        ends = list(accumulate(len(groups[place]) for place in places))
        return {place: scores.some(end - len(groups[place]), end) for place, end in zip(places, ends, strict=True)}

    def _own_prompts(self) -> list[PartialGroup]:
        """This rank's prompts of a round: those carried over, and new ones up to what may be under way."""
        rooms, rank = self._rooms(), self.stream.rank
        fresh = self.stream.stretch(self.begun + sum(rooms[:rank]), rooms[rank])
        return self._carried()[rank] + [PartialGroup(row) for row in fresh]

    def _rooms(self) -> list[int]:
        """New prompts that each rank begins in the coming round."""
        count = self.stream.batch_size if self.partial else self._missing()
        most = math.ceil(math.ceil(count / self.stream.world_size) * self.oversample)
        return [max(0, most - len(prompts)) for prompts in self._carried()]

    def _missing(self) -> int:
        """Groups that a round is for; a dynamic one can't know which will count."""
        return self.stream.batch_size - (0 if self.max_rounds else len(self.surplus))

    def _carried(self) -> list[list[PartialGroup]]:
        return self.carried or [[]] * self.stream.world_size
