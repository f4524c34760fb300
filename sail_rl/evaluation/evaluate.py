"""Evaluation on held-out prompts: of the current weights while a run trains, and of any stored rollouts."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean

from sail_rl.completion import THINK_END, final_answer
from sail_rl.contracts import Prompt, Rollout, RolloutEngine, Sampling, Scorer, Scores
from sail_rl.maths.passk import majority, pass_at_k
from sail_rl.trainer.distributed import gather_objects

ACCURACY = "accuracy"


@dataclass(frozen=True, slots=True)
class Answered:
    """One scored completion of a held-out prompt; `scores` are by reward (NaN: none), `length` is in tokens."""

    dataset: str
    prompt: str
    source: str | None
    answer: str | None
    thought: bool
    length: int
    scores: dict[str, float]

    @property
    def right(self) -> bool:
        """Whether the reward named `accuracy` is above one half."""
        return self.scores[ACCURACY] > 0.5


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Scores `samples` completions for each of this rank's prompts; every rank must call it.

    Returns `eval/SET/…`, see `summarise`, over all ranks.
    """

    engine: RolloutEngine
    scorer: Scorer
    sets: Mapping[str, Sequence[Prompt]]
    """Prompts by dataset; the first one's accuracy is the summary's."""
    sampling: Sampling

    @property
    def accuracy_name(self) -> str:
        """Name of the metric that the summary shows."""
        return f"eval/{next(iter(self.sets))}/{ACCURACY}"

    def __call__(self) -> dict[str, float]:
        """Generate and score; the engine must hold the weights to be judged."""
        prompts = [prompt for own in self.sets.values() for prompt in own]
        names = [name for name, own in self.sets.items() for _ in own]
        groups = self.engine.generate(prompts, self.sampling)
        rollouts = [rollout for group in groups for rollout in group]
        repeated = [place for place, group in enumerate(groups) for _ in group]
        scores = self.scorer([prompts[place] for place in repeated], rollouts)
        own = [
            self._answered(names[place], prompts[place], rollout, scores, number)
            for number, (place, rollout) in enumerate(zip(repeated, rollouts, strict=True))
        ]
        every = sorted(gather_objects(own), key=lambda answered: answered.dataset)
        found = {name: list(answers) for name, answers in groupby(every, key=lambda answered: answered.dataset)}
        return {
            f"eval/{name}/{metric}": value for name in self.sets for metric, value in summarise(found[name]).items()
        }

    def _answered(self, name: str, prompt: Prompt, rollout: Rollout, scores: Scores, number: int) -> Answered:
        return Answered(
            dataset=name,
            prompt=prompt.id,
            source=source_of(prompt.columns),
            answer=final_answer(rollout.text),
            thought=THINK_END in rollout.text,
            length=len(rollout.token_ids),
            scores={part: values[number] for part, values in scores.parts.items()},
        )


def summarise(answers: Sequence[Answered]) -> dict[str, float]:
    """Metrics of the completions of one dataset.

    Means over completions: each reward, `length_mean` and, for rows with a `source`, `accuracy/SOURCE` and
    `thinking/SOURCE` (the share of finished thoughts). With several completions a prompt also `pass@k` (one of k is
    right; k = 1, 2, 4, … n) and `maj@n` (the commonest answer is right), means over prompts.
    """
    metrics: dict[str, float] = {}
    for name in dict.fromkeys(name for answered in answers for name in answered.scores):
        values = [a.scores[name] for a in answers if not math.isnan(a.scores.get(name, math.nan))]
        metrics |= {name: fmean(values)} if values else {}
    metrics["length_mean"] = fmean(answered.length for answered in answers)
    for source, own in _grouped(answers, lambda answered: answered.source).items():
        metrics[f"accuracy/{source}"] = fmean(answered.right for answered in own)
        metrics[f"thinking/{source}"] = fmean(answered.thought for answered in own)
    groups = list(_grouped(answers, lambda answered: answered.prompt).values())
    samples = min(map(len, groups))
    if samples > 1:
        for k in powers(samples):
            metrics[f"pass@{k}"] = fmean(pass_at_k(sum(a.right for a in group), len(group), k) for group in groups)
        metrics[f"maj@{samples}"] = fmean(_majority_is_right(group) for group in groups)
    return metrics


def powers(samples: int) -> list[int]:
    """1, 2, 4, … and the number of samples itself."""
    return sorted({2**power for power in range(samples.bit_length()) if 2**power <= samples} | {samples})


def source_of(columns: Mapping[str, object]) -> str | None:
    """A row's `source`, if it can be part of a metric's name."""
    source = columns.get("source")
    return source if isinstance(source, str) and "/" not in source else None


def _majority_is_right(group: Sequence[Answered]) -> bool:
    chosen = majority([answered.answer for answered in group])
    return next(answered.right for answered in group if answered.answer == chosen)


def _grouped(answers: Iterable[Answered], key: Callable[[Answered], str | None]) -> dict[str, list[Answered]]:
    groups: dict[str, list[Answered]] = defaultdict(list)
    for answered in answers:
        if (name := key(answered)) is not None:
            groups[name].append(answered)
    return groups
