"""Combining rewards: every term is called once for the whole batch, with TRL's arguments."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections import Counter
from collections.abc import Sequence
from numbers import Real
from typing import Any

from sail_rl.contracts import Prompt, RewardTerm, Rollout, Scores


class WeightedSum:
    """total = Σ weight x reward over the rewards that apply to a sample.

    A reward that returns None for a sample has no part in its total (its weight is not given to the others) and a NaN
    in its curve. Weight 0 logs only. What a reward raises stops the run; nothing becomes a silent 0.

    Args:
        terms: named reward functions with weights; at least one.
    """

    def __init__(self, terms: Sequence[RewardTerm]) -> None:
        if not terms:
            raise ValueError("no reward terms: name at least one reward")
        names = Counter(term.name for term in terms)
        if twice := [name for name in names if names[name] > 1]:
            raise ValueError(f"reward names {twice} are used twice: each curve needs a name of its own")
        for term in terms:
            if not math.isfinite(term.weight):
                raise ValueError(f"weight of reward {term.name!r} is {term.weight}: give a finite number")
        self.terms = list(terms)

    def __call__(self, prompts: Sequence[Prompt], rollouts: Sequence[Rollout]) -> Scores:
        """Score rollout `i`, sampled from prompt `i`."""
        # Each reward has lists of its own: one that edits what it is given must not change what the next one sees.
        parts = {term.name: call_reward(term, reward_arguments(prompts, rollouts), prompts) for term in self.terms}
        total = []
        for index, prompt in enumerate(prompts):
            known = [term for term in self.terms if not math.isnan(parts[term.name][index])]
            if not any(term.weight for term in known) and any(term.weight for term in self.terms):
                raise ValueError(f"no reward applies to prompt {prompt.id}: each that has a weight returned None")
            total.append(sum(term.weight * parts[term.name][index] for term in known))
        return Scores(total, parts)

    def close(self) -> None:
        """Close every reward that has a `close` (a verification pool, a judge's client)."""
        for term in self.terms:
            if callable(close := getattr(term.function, "close", None)):
                close()


def reward_arguments(prompts: Sequence[Prompt], rollouts: Sequence[Rollout]) -> dict[str, list[Any]]:
    """TRL's keyword arguments: conversations, token ids, images and every dataset column, one entry a rollout.

    A column that some rows lack is None there.
    """
    columns = dict.fromkeys(name for prompt in prompts for name in prompt.columns)
    return {name: [prompt.columns.get(name) for prompt in prompts] for name in columns} | {
        "prompts": [prompt.messages for prompt in prompts],
        "completions": [[{"role": "assistant", "content": rollout.text}] for rollout in rollouts],
        "completion_ids": [rollout.token_ids for rollout in rollouts],
        "images": [prompt.images for prompt in prompts],
    }


def call_reward(term: RewardTerm, arguments: dict[str, list[Any]], prompts: Sequence[Prompt]) -> list[float]:
    """Call one reward, sync or async; returns its scores with NaN for None.

    Raises:
        RuntimeError: when the reward raises, naming it and the batch's first prompt, with the real error as cause.
        ValueError: when it returns something other than a number or None for each completion.
    """
    try:
        scores = term.function(**arguments)
        if inspect.isawaitable(scores):
            scores = asyncio.run(_await(scores))
    except Exception as error:  # the user's code: reported with its name, never turned into a number
        raise RuntimeError(
            f"reward {term.name!r} raised {type(error).__name__}: {error} (batch of {len(prompts)}, first prompt "
            f"{prompts[0].id})"
        ) from error
    expected = len(arguments["completions"])
    if not isinstance(scores, Sequence) or len(scores) != expected:
        raise ValueError(f"reward {term.name!r} returned {scores!r:.200}; it must return a list of {expected} scores")
    return [_number(term.name, prompt, score) for prompt, score in zip(prompts, scores, strict=True)]


async def _await(scores: Any) -> Any:
    return await scores


def _number(name: str, prompt: Prompt, score: Any) -> float:
    if score is None:
        return math.nan
    if not isinstance(score, Real) or not math.isfinite(score):
        raise ValueError(f"reward {name!r} gave {score!r} for prompt {prompt.id}; scores are finite numbers or None")
    return float(score)
