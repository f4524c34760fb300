"""Makes the scorers of stages and of the evaluation from a recipe's rewards, and checks all gold answers."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Collection, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any

from sail_rl.config import DEFAULT_SCORER, ISOLATION, LOADER, EvaluationConfig, Recipe, RewardConfig, RLStage
from sail_rl.config.sections import NAME
from sail_rl.contracts import HIDDEN_COLUMNS, RewardTerm, Scorer, hidden_columns, reward_hook
from sail_rl.data.mixture import sources_of
from sail_rl.imports import resolve

if TYPE_CHECKING:
    from sail_rl.data.dataset import Rows

logger = logging.getLogger(__name__)


def stage_scorer(stage: RLStage) -> Scorer:
    """The scorer of an RL stage: its rewards, its guards, its expression."""
    terms = make_terms(stage.rewards)
    if stage.guards:
        terms += [RewardTerm(name, guard, weight=0.0) for name, guard in _guards(stage.guards).items()]
    options: dict[str, Any] = {}
    if stage.total is not None:
        options["expression"] = stage.total
    if stage.weights_sum_to_one:
        options["weights_sum_to_one"] = True
    return _scorer(stage.scorer, terms, options)


def _guards(path: str) -> Mapping[str, Any]:
    guards = resolve(path)
    if not isinstance(guards, Mapping):
        raise ValueError(f"guards: {path} is a {type(guards).__name__}; name a mapping from names to rewards")
    if wrong := [name for name in guards if not (isinstance(name, str) and re.fullmatch(NAME, name))]:
        raise ValueError(f"guards: {path} has the name {wrong[0]!r}; use letters, digits, - and _")
    return guards


def evaluation_scorer(evaluation: EvaluationConfig) -> Scorer:
    """The scorer of the held-out evaluation."""
    return _scorer(evaluation.scorer, make_terms(evaluation.rewards), {})


def _scorer(path: str, terms: list[RewardTerm], options: Mapping[str, Any]) -> Scorer:
    make = resolve(path)
    try:
        inspect.signature(make).bind(terms, **options)
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{name}=…" for name in options)
        raise ValueError(f"scorer {path}: can't be called with the rewards and ({given}): {error}") from None
    return make(terms, **options)


def plain_scorer(rewards: Mapping[str, RewardConfig], expression: str | None = None) -> Scorer:
    """The scorer of rewards outside any recipe: their weighted sum, or an expression over them."""
    return resolve(DEFAULT_SCORER)(make_terms(rewards), expression=expression)


def make_terms(rewards: Mapping[str, RewardConfig]) -> list[RewardTerm]:
    """Import each reward; `kwargs` are bound to a reward function, or passed to the class or function that makes it."""
    terms = []
    for name, config in rewards.items():
        if config.isolate:
            target = resolve(ISOLATION)(
                config.path,
                config.kwargs,
                timeout_s=config.timeout,
                batch_timeout_s=config.batch_timeout,
                memory_gib=config.memory_gib,
            )
        else:
            try:
                target = resolve(LOADER)(config.path, config.kwargs)
            except ValueError as error:
                raise ValueError(f"reward {name!r}: {error}") from error
        call_order = (reward_hook(target, "call_order") or 0.0) if config.call_order is None else config.call_order
        weight = 1.0 if config.weight is None else config.weight
        terms.append(RewardTerm(name, target, weight, call_order, config.on_none, config.on_error))
    return terms


def check_gold_answers(recipe: Recipe, datasets: Mapping[str, Rows], *, missing: Collection[str] = ()) -> None:
    """Let every reward with a `check_gold(answer, **columns)` see the gold answer of each row that it will score.

    Args:
        recipe: the resolved recipe.
        datasets: the checked datasets by name.
        missing: names of datasets that don't exist yet; they aren't checked.

    Raises:
        ValueError: for the first row with an answer that its reward can't use, with file, row and reward.
    """
    users = [("evaluation", name, recipe.evaluation.rewards) for name in recipe.evaluation.sets]
    users += [(stage.name, stage.data, stage.rewards) for stage in recipe.rl_stages]
    scored: set[str] = set()
    for user, data, rewards in users:
        terms = make_terms(rewards)
        try:
            checks = {term.name: reward_hook(term.function, "check_gold") for term in terms}
            sources = dict.fromkeys(recipe.origin(source) for source in sources_of(recipe.data.mixtures, data))
            scored |= sources.keys() - missing
            for source, (name, check) in product(sources, checks.items()):
                if check and source not in missing:
                    _check_rows(f"reward {name!r} of {user}", check, datasets[source])
        finally:
            for term in terms:
                if close := reward_hook(term.function, "close"):
                    close()
    for source in sorted(scored):
        warn_of_hidden(datasets[source])


def warn_of_hidden(rows: Rows) -> None:
    """Warn of a dataset's columns that rewards don't get."""
    if hidden := hidden_columns(rows.columns):
        logger.warning("%s: %s", rows.path, hidden)


def _check_rows(name: str, check: Any, rows: Rows) -> None:
    for index in range(len(rows)):
        row = rows.metadata(index)
        try:
            check(row.pop("answer", None), **{name: value for name, value in row.items() if name not in HIDDEN_COLUMNS})
        except ValueError as error:
            raise ValueError(f"{rows.path}, row {rows.number(index)}: {name}: {error}") from error
