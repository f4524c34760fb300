"""Evaluation on held-out prompts: metrics of an engine's current weights, or of any scored completions."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from sail_rl.completion import THINK_END, final_answer
from sail_rl.contracts import RIGHT, Prompt, Rollout, RolloutEngine, Sampling, Scorer, Scores
from sail_rl.maths.heldout import ACCURACY, halves_of, powers, selecting, source_of
from sail_rl.maths.passk import majority, pass_at_k
from sail_rl.trainer.distributed import gather_objects


@dataclass(frozen=True, slots=True)
class ScoredCompletion:
    """One scored completion of a held-out prompt.

    `scores` holds each reward's score by name (NaN: it has none), `thought` tells whether a thought was finished, and
    `length` is in tokens.
    """

    dataset: str
    prompt: str
    source: str | None
    answer: str | None
    thought: bool
    length: int
    scores: dict[str, float]

    @property
    def right(self) -> bool:
        """True if the reward named `accuracy` scores above RIGHT."""
        return self.scores[ACCURACY] > RIGHT


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Samples and scores completions of held-out prompts; every rank must call it, with its own share of the prompts.

    It returns the metrics `eval/SET/…` over all ranks, see `summarise`.
    """

    engine: RolloutEngine
    scorer: Scorer
    sets: Mapping[str, Sequence[Prompt]]
    """This rank's prompts by dataset. The run's summary shows the accuracy on the first dataset."""
    sampling: Sampling
    halved: str | None = None
    """A dataset whose halves are reported, too, under the names of `halves_of`."""

    @property
    def accuracy_name(self) -> str:
        """Name of the metric that the summary shows."""
        first = next(iter(self.sets))
        return f"eval/{halves_of(first)[1] if first == self.halved else first}/{ACCURACY}"

    def selection_name(self, metric: str) -> str:
        """Name of the metric that chooses the best model: `metric`, on the half of its dataset that selects."""
        prefix, dataset, rest = metric.split("/", 2)
        return f"{prefix}/{halves_of(dataset)[0]}/{rest}" if dataset == self.halved else metric

    def __call__(self) -> dict[str, float]:
        """Generate and score; the engine must already hold the weights to evaluate."""
        prompts = [prompt for own in self.sets.values() for prompt in own]
        names = [name for name, own in self.sets.items() for _ in own]
        groups = self.engine.generate(prompts, self.sampling)
        rollouts = [rollout for group in groups for rollout in group]
        indices = [index for index, group in enumerate(groups) for _ in group]
        scores = self.scorer([prompts[index] for index in indices], rollouts)
        own = [
            self._scored(names[index], prompts[index], rollout, scores, number)
            for number, (index, rollout) in enumerate(zip(indices, rollouts, strict=True))
        ]
        found = _grouped(gather_objects(own), lambda completion: completion.dataset)
        if self.halved:
            chosen = selecting(completion.prompt for completion in found[self.halved])
            for name, selects in zip(halves_of(self.halved), (True, False), strict=True):
                found[name] = [each for each in found[self.halved] if (each.prompt in chosen) == selects]
        return {f"eval/{name}/{metric}": value for name in found for metric, value in summarise(found[name]).items()}

    def _scored(self, name: str, prompt: Prompt, rollout: Rollout, scores: Scores, number: int) -> ScoredCompletion:
        return ScoredCompletion(
            dataset=name,
            prompt=prompt.id,
            source=source_of(prompt.columns),
            answer=final_answer(rollout.text),
            thought=THINK_END in rollout.text,
            length=len(rollout.token_ids),
            scores={part: values[number] for part, values in scores.parts.items()},
        )


def summarise(completions: Sequence[ScoredCompletion]) -> dict[str, float]:
    """Metrics of the completions of one dataset.

    Means over completions: each reward, `length_mean` and, for rows with a `source`, `accuracy/SOURCE` and
    `thinking/SOURCE` (the share of finished thoughts). If every prompt has several completions, there are also means
    over prompts: `pass@k` (one of k is right; k = 1, 2, 4, … n) and `maj@n` (the most common answer is right).
    """
    metrics: dict[str, float] = {}
    for name in dict.fromkeys(name for completion in completions for name in completion.scores):
        values = [a.scores[name] for a in completions if not math.isnan(a.scores.get(name, math.nan))]
        metrics |= {name: fmean(values)} if values else {}
    metrics["length_mean"] = fmean(completion.length for completion in completions)
    for source, own in _grouped(completions, lambda completion: completion.source).items():
        metrics[f"accuracy/{source}"] = fmean(completion.right for completion in own)
        metrics[f"thinking/{source}"] = fmean(completion.thought for completion in own)
    groups = list(_grouped(completions, lambda completion: completion.prompt).values())
    samples = min(map(len, groups))
    if samples > 1:
        for k in powers(samples):
            metrics[f"pass@{k}"] = fmean(pass_at_k(sum(a.right for a in group), len(group), k) for group in groups)
        metrics[f"maj@{samples}"] = fmean(_majority_is_right(group) for group in groups)
    return metrics


def _majority_is_right(group: Sequence[ScoredCompletion]) -> bool:
    chosen = majority([completion.answer for completion in group])
    return next(completion.right for completion in group if completion.answer == chosen)


def _grouped(
    completions: Iterable[ScoredCompletion], key: Callable[[ScoredCompletion], str | None]
) -> dict[str, list[ScoredCompletion]]:
    groups: dict[str, list[ScoredCompletion]] = defaultdict(list)
    for completion in completions:
        if (name := key(completion)) is not None:
            groups[name].append(completion)
    return groups
