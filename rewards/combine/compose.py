"""Combines rewards into the total that is trained on, as a weighted sum or by a reward expression."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from sail_rl.contracts import Prompt, RewardCall, RewardTerm, Rollout, Scores, reward_hook

from .calls import Outcome, score_rows, show
from .expression import evaluate, needed, parse_expression, parts_of, rewards_in, weighted_sum

SUM_TOLERANCE = 1e-9


class Composition:
    """A scorer whose total is the value of an expression over the rewards, by default Σ weight x reward.

    Rewards of weight 0, and those that the expression doesn't name, are only logged. Rewards of `call_order` 0 are
    called for every rollout. The others follow in ascending order, for the rollouts whose total still depends on them:
    a product with a factor 0 doesn't. Each term's `on_none` and `on_error` say how None and exceptions are scored;
    `expression.evaluate` says how an operation treats a skipped None.

    Args:
        terms: named reward functions, at least one.
        expression: for instance `0.9 * judge * think * answer + 0.1 * format`.
        weights_sum_to_one: require a total of 1 when all rewards are 1.
        lenient: make a total that can't be computed NaN instead of an error (to try out rewards, never to train).
    """

    def __init__(
        self,
        terms: Sequence[RewardTerm],
        *,
        expression: str | None = None,
        weights_sum_to_one: bool = False,
        lenient: bool = False,
    ) -> None:
        _check(terms)
        self.lenient = lenient
        self.terms = sorted(terms, key=lambda term: term.call_order)
        weights = {term.name: term.weight for term in terms if term.weight or not any(other.weight for other in terms)}
        names = [term.name for term in terms]
        self.tree = weighted_sum(weights) if expression is None else parse_expression(expression, names)
        self.used = rewards_in(self.tree)
        if not self.used:
            raise ValueError(f"reward expression {expression!r} names no reward, so there is nothing to learn from")
        self._parts = parts_of(self.tree)
        if clash := [name for name in ("total", *self._parts) if name in names]:
            raise ValueError(f"a reward can't be called {clash[0]!r}: another curve has that name")
        if weights_sum_to_one:
            total = evaluate(self.tree, dict.fromkeys(names, 1.0))
            if not isinstance(total, float) or abs(total - 1) > SUM_TOLERANCE:
                raise ValueError(f"weights_sum_to_one: rewards of 1 make a total of {total}; make the weights sum to 1")

    def __call__(self, prompts: Sequence[Prompt], rollouts: Sequence[Rollout]) -> Scores:
        """Score rollout `i`, sampled from prompt `i`."""
        known: list[dict[str, float | None]] = [{} for _ in rollouts]
        parts: dict[str, list[float]] = {}
        calls: dict[str, list[RewardCall]] = {}
        for term in self.terms:
            rows = [i for i, scores in enumerate(known) if self._wants(term, scores)]
            outcomes = dict(
                zip(rows, score_rows(term, [prompts[i] for i in rows], [rollouts[i] for i in rows]), strict=True)
            )
            not_called: Outcome = (None, RewardCall("skipped"))
            calls[term.name] = [outcomes.get(i, not_called)[1] for i in range(len(rollouts))]
            parts[term.name] = [_nan(outcomes.get(i, not_called)[0]) for i in range(len(rollouts))]
            for i, (score, _) in outcomes.items():
                known[i][term.name] = self._counted(term, score, prompts[i], rollouts[i])
        total = [
            self._total(known[i], prompt, rollout)
            for i, (prompt, rollout) in enumerate(zip(prompts, rollouts, strict=True))
        ]
        for name, node in self._parts.items():
            parts[name] = [_nan(evaluate(node, scores)) for scores in known]
        order = [term.name for term in self.terms]
        return Scores(total, {name: parts[name] for name in [*order, *self._parts]}, calls)

    def metrics(self) -> dict[str, float]:
        """The metrics of rewards that have a `metrics()`, such as a judge's calls, cost and latency, by full name."""
        return {
            f"reward/{term.name}/judge/{name}": value
            for term in self.terms
            if callable(metrics := reward_hook(term.function, "metrics"))
            for name, value in metrics().items()
        }

    def close(self) -> None:
        """Close every reward that has a `close` (a verification pool, a judge's client)."""
        for term in self.terms:
            if callable(close := reward_hook(term.function, "close")):
                close()

    def _wants(self, term: RewardTerm, scores: dict[str, float | None]) -> bool:
        """True if a reward is to be called for a rollout that has these scores so far."""
        if term.call_order == 0 or term.name not in self.used:
            return True
        return term.name in needed(self.tree, scores)

    def _counted(self, term: RewardTerm, score: float | None, prompt: Prompt, rollout: Rollout) -> float | None:
        """The score as it enters the total, with `on_none` applied."""
        if score is not None or term.name not in self.used or term.on_none == "skip":
            return score
        if term.on_none == "zero":
            return 0.0
        if self.lenient:
            return math.nan
        raise ValueError(
            f"reward {term.name!r} returned None\n{show(prompt, rollout)}\n    set on_none to say how None is scored: "
            "skip (leave the reward out of this total) or zero"
        )

    def _total(self, scores: dict[str, float | None], prompt: Prompt, rollout: Rollout) -> float:
        try:
            return self._checked_total(scores, prompt, rollout)
        except ValueError:
            if self.lenient:
                return math.nan
            raise

    def _checked_total(self, scores: dict[str, float | None], prompt: Prompt, rollout: Rollout) -> float:
        try:
            total = evaluate(self.tree, scores)
        except ZeroDivisionError:
            raise ValueError(f"the reward expression divides by 0\n{show(prompt, rollout)}") from None
        if total is None:
            raise ValueError(f"no reward applies: all rewards in the total returned None\n{show(prompt, rollout)}")
        assert isinstance(total, float), "every needed reward was called"
        if not math.isfinite(total):
            raise ValueError(f"the reward expression gives {total}\n{show(prompt, rollout)}")
        return total


def _check(terms: Sequence[RewardTerm]) -> None:
    if not terms:
        raise ValueError("no reward terms: name at least one reward")
    names = Counter(term.name for term in terms)
    if twice := [name for name in names if names[name] > 1]:
        raise ValueError(f"reward names {twice} are used twice: each curve needs a name of its own")
    for term in terms:
        if not math.isfinite(term.weight):
            raise ValueError(f"weight of reward {term.name!r} is {term.weight}: give a finite number")


def _nan(score: object) -> float:
    return score if isinstance(score, float) else math.nan
