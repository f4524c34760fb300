"""Evaluation of the current weights on held-out prompts, through the same engine and rewards as training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from sail_rl.contracts import Prompt, RolloutEngine, Sampling, Scorer
from sail_rl.trainer.distributed import gather_objects


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Scores one completion for each of this rank's `prompts`; every rank must call it.

    Returns `eval/NAME/REWARD` for each reward (the mean over all ranks' prompts), `eval/NAME/length_mean` (tokens) and,
    for rows with a `source`, `eval/NAME/thinking/SOURCE`: the share of finished thoughts.
    """

    name: str
    engine: RolloutEngine
    scorer: Scorer
    prompts: Sequence[Prompt]
    max_tokens: int
    temperature: float

    def __call__(self) -> dict[str, float]:
        """Generate and score; the engine must hold the weights to be judged."""
        sampling = Sampling(temperature=self.temperature, max_tokens=self.max_tokens)
        groups = self.engine.generate(self.prompts, sampling)
        rollouts = [rollout for group in groups for rollout in group]
        scores = self.scorer(self.prompts, rollouts)
        own = [
            {"length_mean": float(len(rollout.token_ids))}
            | {name: part[i] for name, part in scores.parts.items()}
            | ({f"thinking/{source}": float("</think>" in rollout.text)} if (source := _source(prompt)) else {})
            for i, (prompt, rollout) in enumerate(zip(self.prompts, rollouts, strict=True))
        ]
        records = gather_objects(own)
        names = dict.fromkeys(name for record in records for name in record)
        columns = {
            name: [record[name] for record in records if not math.isnan(record.get(name, math.nan))] for name in names
        }
        return {f"eval/{self.name}/{name}": fmean(values) for name, values in columns.items() if values}


def _source(prompt: Prompt) -> str | None:
    source = prompt.columns.get("source")
    return source if isinstance(source, str) and "/" not in source else None
