"""Adapters that run reward functions written for verl and EasyR1 unchanged, under TRL's signature."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from sail_rl.completion import completion_text
from sail_rl.imports import resolve

VERL_TEXTS = ("solution_str", "predict_str", "model_output")
"""The names that verl's own functions use for the completion."""
VERL_BATCH_TEXT = "solution_strs"
EASYR1_INPUTS = ("reward_input", "reward_inputs")
Scores = list[Any] | Awaitable[list[Any]]


class VerlFunction:
    """A function of verl, called for each completion with the arguments that its parameters name.

    The forms are `(solution_str, ground_truth)`, with `predict_str` or `model_output` as other names of the text;
    `(data_source, solution_str, ground_truth, extra_info)`; and verl's batch form `(data_sources, solution_strs,
    ground_truths, extra_infos)`, which gets lists. An async function is called for all completions at once.

    `ground_truth` comes from the column `answer`, `data_source` and `extra_info` from the columns of these names, where
    they are None and {} if a row lacks them. The score is the returned number, the entry "score" of a returned mapping,
    or the first entry of a returned tuple. An exception is the score of its completion only.
    """

    def __init__(self, function: Callable[..., Any], kwargs: Mapping[str, Any]) -> None:
        parameters = inspect.signature(function).parameters
        self.batched = VERL_BATCH_TEXT in parameters
        every = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        names = [VERL_BATCH_TEXT] if self.batched else [name for name in VERL_TEXTS if name in parameters]
        if every and not names:
            names = [VERL_TEXTS[0]]
        if len(names) != 1:
            raise ValueError(
                f"the parameters are ({', '.join(parameters)}); a function of verl takes its completion as one of "
                f"{', '.join(VERL_TEXTS)}, or completions as {VERL_BATCH_TEXT}"
            )
        self._text = names[0]
        plural = "s" * self.batched
        self._names = {
            name
            for name in (self._text, *(name + plural for name in ("ground_truth", "data_source", "extra_info")))
            if every or name in parameters
        }
        _check_complete(parameters, {*self._names, *kwargs})
        self.func, self._function = function, functools.partial(function, **kwargs)  # `reward_hook` looks at `func`

    def __call__(
        self,
        completions: Sequence[Any],
        answer: Sequence[Any],
        data_source: Sequence[Any] | None = None,
        extra_info: Sequence[Any] | None = None,
    ) -> Scores:
        """Score completions."""
        plural = "s" * self.batched
        columns = {
            self._text: [completion_text(completion) for completion in completions],
            f"ground_truth{plural}": list(answer),
            f"data_source{plural}": list(data_source or [None] * len(completions)),
            f"extra_info{plural}": [extra or {} for extra in extra_info or [None] * len(completions)],
        }
        given = {name: values for name, values in columns.items() if name in self._names}
        if self.batched:
            return _score_batch(self._function(**given), "score")
        rows = [dict(zip(given, values, strict=True)) for values in zip(*given.values(), strict=True)]
        return _score_each((functools.partial(self._function, **row) for row in rows), "score")


class EasyR1Function:
    """A function of EasyR1: `compute_score(reward_inputs)` of a list of mappings, or `compute_score(reward_input)`.

    Each input has "response", "response_length" (tokens) and "ground_truth", from the column `answer`. As in EasyR1,
    the variable REWARD_TYPE of the function's module decides between the forms "batch" and "sequential"; without it the
    parameter's name decides. An exception in the sequential form is the score of its completion only.
    """

    def __init__(self, function: Callable[..., Any], kwargs: Mapping[str, Any], metric: str = "overall") -> None:
        parameters, form = inspect.signature(function).parameters, easyr1_form(function, kwargs)
        if form is None:
            raise ValueError(
                f"the parameters are ({', '.join(parameters)}); a function of EasyR1 takes reward_inputs (a list of "
                "mappings) or reward_input (one), or its module sets REWARD_TYPE"
            )
        _check_complete(parameters, {next(iter(parameters)), *kwargs})
        self._batched, self._metric = form == "batch", metric
        self.func, self._function = function, functools.partial(function, **kwargs)

    def __call__(
        self, completions: Sequence[Any], answer: Sequence[Any], completion_ids: Sequence[Sequence[int]]
    ) -> Scores:
        """Score completions."""
        inputs = [
            {"response": completion_text(completion), "response_length": len(ids), "ground_truth": gold}
            for completion, gold, ids in zip(completions, answer, completion_ids, strict=True)
        ]
        if self._batched:
            return _score_batch(self._function(inputs), self._metric)
        return _score_each((functools.partial(self._function, each) for each in inputs), self._metric)


class Verl(VerlFunction):
    """A function of verl by its path; recipes may also name the function itself.

    Args:
        path: the function, as `module:name` or `file.py:name`.
        kwargs: further keyword arguments of the function.
    """

    def __init__(self, path: str, **kwargs: Any) -> None:
        super().__init__(resolve(path), kwargs)


class EasyR1(EasyR1Function):
    """A function of EasyR1 by its path; recipes may also name the function itself.

    Args:
        path: the function, as `module:name` or `file.py:name`.
        metric: the entry of a returned mapping that is the score.
        kwargs: further keyword arguments of the function.
    """

    def __init__(self, path: str, *, metric: str = "overall", **kwargs: Any) -> None:
        super().__init__(resolve(path), kwargs, metric)


def easyr1_form(function: Callable[..., Any], kwargs: Mapping[str, Any]) -> str | None:
    """The form of EasyR1's function, "batch" or "sequential"; None for other functions."""
    parameters = inspect.signature(function).parameters
    first = next(iter(parameters), "")
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    form = getattr(module, "REWARD_TYPE", None)
    if first in EASYR1_INPUTS:
        return form or ("batch" if first == "reward_inputs" else "sequential")
    return form if [name for name in _required(parameters) if name not in kwargs] == [first] else None


def _required(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    variable = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return [name for name, p in parameters.items() if p.default is p.empty and p.kind not in variable]


def _check_complete(parameters: Mapping[str, inspect.Parameter], given: Collection[str]) -> None:
    if missing := [name for name in _required(parameters) if name not in given]:
        raise ValueError(f"it needs {', '.join(missing)}; give them as the reward's `kwargs`")


def _score_each(calls: Iterable[Callable[[], Any]], metric: str) -> Scores:
    results = [_attempt(call) for call in calls]
    if not any(inspect.isawaitable(result) for result in results):
        return [_value(result, metric) for result in results]

    async def all_scores() -> list[Any]:
        done = await asyncio.gather(*(_settled(result) for result in results), return_exceptions=True)
        return [_value(result, metric) for result in done]

    return all_scores()


def _score_batch(result: Any, metric: str) -> Scores:
    if not inspect.isawaitable(result):
        return [_value(each, metric) for each in result]

    async def scores() -> list[Any]:
        return [_value(each, metric) for each in await result]

    return scores()


def _attempt(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # the score of this completion; the recipe's `on_error` says what follows
        return error


async def _settled(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


def _value(score: Any, metric: str) -> Any:
    if isinstance(score, tuple) and score:
        return score[0]
    if not isinstance(score, Mapping):
        return score
    if metric not in score:
        raise ValueError(f"the reward function returned {sorted(score)}, without {metric!r}")
    return score[metric]
