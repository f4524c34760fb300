"""Sampling groups of rollouts for an optimiser step, with or without DAPO's dynamic sampling."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import accumulate
from statistics import fmean
from typing import TYPE_CHECKING, Any, Protocol

from sail_rl.contracts import Prompt, Rollout, RolloutEngine, Sampling, Scorer, Scores, joined
from sail_rl.data.encoding import Encoder
from sail_rl.data.order import RowStream
from sail_rl.seeding import derive_seed

from .distributed import gather_objects
from .groups import Group
from .rollout_metrics import rollout_metrics, rollout_records
from .stopwatch import Stopwatch

if TYPE_CHECKING:
    from .trainer import Trainer

logger = logging.getLogger(__name__)


class RolloutObserver(Protocol):
    """Is shown each rank's rollouts with their scores (traces, the record of prompts seen)."""

    def __call__(self, step: int, prompts: list[Prompt], rollouts: list[Rollout], scores: Scores) -> None: ...


@dataclass(frozen=True, slots=True)
class DrawnBatch:
    """One rank's share of a batch: rollouts with the prompt and the scores of each [N], and as groups [P]."""

    prompts: list[Prompt]
    rollouts: list[Rollout]
    scores: Scores
    groups: list[Group]
    unfinished: list[int]
    """Rows whose groups were given up."""


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
        undisturbed: `undisturbed(step)`: whether the batch that training needs after the one of `step` may be sampled
            while that one is trained on, with weights that are one batch old by then. A checkpoint or an evaluation in
            between forbids it: both want the engine idle, and a resumed run has only the newest weights.
        oversample: prompts that are begun, over those wanted. A rank's round ends as soon as it has the groups it
            wants, and the rest is given up: their prompts come first in the next round, which waits for them.
        groups_per_score: groups that are scored in one call, as soon as they are finished.
        next_batch: the next batch of `stream`; with `surplus` and `carried`, all that a resumed run must know.
        surplus: good groups for the next step.
        carried: rows of the prompts that were given up, for each rank.
    """

    engine: RolloutEngine
    scorer: Scorer
    stream: RowStream
    encoder: Encoder
    sampling: Sampling
    observer: RolloutObserver
    max_rounds: int | None = None
    undisturbed: Callable[[int], bool] = lambda step: False
    oversample: float = 1.0
    groups_per_score: int = 1
    next_batch: int = 0
    surplus: list[Group] = field(default_factory=list)
    carried: list[list[int]] = field(default_factory=list)
    _sampled_ahead: Future[DrawnBatch] | None = None
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "rollouts"))

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold so that no prompt is lost or repeated."""
        surplus = [group.to_json() for group in self.surplus]
        return {"next_batch": self.next_batch, "surplus": surplus, "carried": self.carried}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.next_batch = state["next_batch"]
        self.surplus = [Group.from_json(group) for group in state["surplus"]]
        self.carried = state["carried"]

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
        behind = [trainer.weights_version - r.weights_version for group in used for r in group.rollouts]
        if len(used) < wanted:
            logger.warning(
                "step %d: only %d of %d groups carry a signal after %d round(s) of sampling; training on those",
                *(trainer.state.global_step + 1, len(used), wanted, rounds),
            )
        trainer.record(
            rollout_metrics(records)
            | self.scorer.metrics()
            | {
                "groups/zero_variance": dull / sampled,
                "sampling/rounds": rounds,
                "sampling/used_fraction": len(used) / wanted,
                "sampling/surplus": len(self.surplus),
            }
            | ({"rollout/staleness": fmean(behind)} if behind else {})
        )
        if len(self.surplus) < wanted and self.undisturbed(trainer.state.global_step):
            self._sample_ahead(trainer)
        return used

    def close(self) -> None:
        """Forget what is being sampled ahead, and close the scorer."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self.scorer.close()

    def _round(self, trainer: Trainer, records: list[dict[str, Any]]) -> list[Group]:
        """The next batch of prompts, sampled and scored; adds all ranks' metric records to `records`."""
        if self._sampled_ahead:
            with trainer.stopwatch.measure("time/wait"):
                drawn, self._sampled_ahead = self._sampled_ahead.result(), None
        else:
            trainer.push_weights(self.engine)
            drawn = self._draw(self.next_batch, trainer.stopwatch, "")
        self.next_batch += 1
        self.carried = gather_objects([drawn.unfinished])
        self.observer(trainer.state.global_step + 1, drawn.prompts, drawn.rollouts, drawn.scores)
        records += gather_objects(rollout_records(drawn.prompts, drawn.rollouts, drawn.scores))
        return gather_objects(drawn.groups)

    def _sample_ahead(self, trainer: Trainer) -> None:
        """Begin the next batch with the weights of now, while the trainer goes on to change its own."""
        trainer.push_weights(self.engine)
        self._sampled_ahead = self._thread.submit(self._draw, self.next_batch, trainer.stopwatch, "_ahead")

    def _draw(self, number: int, stopwatch: Stopwatch, ahead: str) -> DrawnBatch:
        """Sample this rank's share of a batch and score it a group at a time; talks to no other rank."""
        rows, wanted = self._own_rows(number)
        carried = set(range(len(self.carried[self.stream.rank]))) if self.carried else set()
        prompts = [self.encoder.prompt(self.stream.rows[row]) for row in rows]
        sampling = replace(self.sampling, seed=derive_seed(self.sampling.seed, "rollouts", number))
        groups: dict[int, list[Rollout]] = {}
        scores: dict[int, Scores] = {}
        stream = self.engine.stream(prompts, sampling)
        try:
            while len(groups) < wanted or carried - groups.keys():
                with stopwatch.measure(f"time/generate{ahead}"):
                    place, groups[place] = next(stream)
                if len(unscored := groups.keys() - scores.keys()) == self.groups_per_score:
                    with stopwatch.measure(f"time/score{ahead}"):
                        scores |= self._score(prompts, groups, sorted(unscored))
            if len(groups) == len(prompts):
                next(stream, None)  # lets it end
        finally:
            stream.close()
        with stopwatch.measure(f"time/score{ahead}"):
            scores |= self._score(prompts, groups, sorted(groups.keys() - scores.keys()))
        finished = sorted(groups)
        return DrawnBatch(
            prompts=[prompts[place] for place in finished for _ in groups[place]],
            rollouts=[rollout for place in finished for rollout in groups[place]],
            scores=joined([scores[place] for place in finished]),
            groups=[
                Group(rows[place], groups[place], scores[place].total, *self.encoder.prompt_size(prompts[place]))
                for place in finished
            ],
            unfinished=[row for place, row in enumerate(rows) if place not in groups],
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

    def _own_rows(self, number: int) -> tuple[list[int], int]:
        """This rank's rows of a round, those carried over first, and how many groups of them it wants."""
        ranks, count = self.stream.world_size, self.stream.batch_size
        more = (math.ceil(count // ranks * self.oversample) - count // ranks) * ranks  # begun in the first round
        start = number * count + (more if number else 0)
        fresh = self.stream.stretch(start, count if number else count + more)
        share, rank = len(fresh) // ranks, self.stream.rank
        carried = self.carried[rank] if self.carried else []
        missing = count - (0 if self.max_rounds else len(self.surplus))  # a dynamic round can't know what will count
        return carried + fresh[rank * share : (rank + 1) * share], math.ceil(missing / ranks)
