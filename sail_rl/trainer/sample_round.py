"""One rank's share of a round of sampling: groups are generated, and scored as soon as they are complete."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import accumulate

from sail_rl.contracts import Prompt, Rollout, RolloutEngine, Sampling, Scorer, Scores, joined
from sail_rl.data.encoding import Encoder

from .groups import Group, NumberedPrompt, PartialGroup
from .stopwatch import Stopwatch


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """The result of one rank's share of a round.

    `groups` are the complete groups [P], and `unfinished` the prompts of the others, both in the order of the share.
    `prompts`, `rollouts` and `scores` are those of the samples of `groups` [N]; `sampled` holds the rollouts of all
    groups by the number of the prompt.
    """

    groups: list[Group]
    prompts: list[Prompt]
    rollouts: list[Rollout]
    scores: Scores
    unfinished: list[NumberedPrompt]
    sampled: dict[int, list[Rollout]]


def sample_round(
    share: Sequence[PartialGroup],
    prompts: Sequence[Prompt],
    *,
    rank: int,
    encoder: Encoder,
    engine: RolloutEngine,
    sampling: Sampling,
    scorer: Scorer,
    groups_per_score: int,
    stopwatch: Stopwatch,
    suffix: str = "",
) -> RolloutBatch:
    """Sample and score one rank's share of a round; talks to no other rank.

    Rewards run here, where the completions are, so that other ranks need only the scores.

    Args:
        share: the groups to sample: new ones, and unfinished ones to continue.
        prompts: the prompt of each group.
        rank: the number of this rank.
        encoder: measures prompts.
        engine: generates, with the weights of the latest push.
        sampling: how completions are sampled, with the seed of this round.
        scorer: turns rollouts into rewards.
        groups_per_score: number of complete groups that one call scores.
        stopwatch: measures "time/generate" and "time/score", each with `suffix`.
    """
    prompts = [replace(prompt, partial_rollouts=part.unfinished) for part, prompt in zip(share, prompts, strict=True)]
    sampled: dict[int, list[Rollout]] = {}
    scores: dict[int, Scores] = {}
    waiting: list[int] = []

    def score() -> None:
        with stopwatch.measure(f"time/score{suffix}"):
            scores.update(_score(scorer, prompts, {index: sampled[index] for index in sorted(waiting)}))
        waiting.clear()

    with closing(engine.stream(prompts, sampling)) as stream:
        while True:
            with stopwatch.measure(f"time/generate{suffix}"):
                found = next(stream, None)
            if found is None:
                break
            index, fresh = found
            sampled[index] = sorted(share[index].finished + fresh, key=lambda rollout: rollout.sample)
            if all(rollout.stop_reason != "unfinished" for rollout in sampled[index]):
                waiting.append(index)
            if len(waiting) == groups_per_score:
                score()
    assert len(sampled) == len(prompts), f"the engine gave {len(sampled)} groups for {len(prompts)} prompts"
    if waiting:
        score()
    complete = sorted(scores)
    return RolloutBatch(
        groups=[
            Group.of(
                *(share[index].prompt, sampled[index], scores[index].total),
                rank=rank,
                size=encoder.prompt_size(prompts[index]),
            )
            for index in complete
        ],
        prompts=[prompts[index] for index in complete for _ in sampled[index]],
        rollouts=[rollout for index in complete for rollout in sampled[index]],
        scores=joined([scores[index] for index in complete]),
        unfinished=[part.prompt for index, part in enumerate(share) if index not in scores],
        sampled={part.prompt.number: sampled[index] for index, part in enumerate(share)},
    )


def _score(scorer: Scorer, prompts: Sequence[Prompt], groups: dict[int, list[Rollout]]) -> dict[int, Scores]:
    """The scores of these groups, by their index, from one call."""
    repeated = [prompts[index] for index, group in groups.items() for _ in group]
    scores = scorer(repeated, [rollout for group in groups.values() for rollout in group])
    ends = accumulate(map(len, groups.values()))
    return {index: scores.some(end - len(group), end) for (index, group), end in zip(groups.items(), ends, strict=True)}
