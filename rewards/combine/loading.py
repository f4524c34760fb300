"""Makes a reward with TRL's signature of what a recipe names: a function of TRL, verl or EasyR1, a factory, a class."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from rewards.adapters import EASYR1_INPUTS, VERL_BATCH_TEXT, VERL_TEXTS, EasyR1Function, VerlFunction, easyr1_form
from sail_rl.imports import described, resolve

TRL = frozenset({"prompts", "completions", "completion_ids", "images", "prefilled"})
VERL = frozenset({*VERL_TEXTS, VERL_BATCH_TEXT})
EASYR1 = frozenset(EASYR1_INPUTS)
HELP = (
    "a reward takes `completions` or `completion_ids` (TRL), `solution_str` and `ground_truth` (verl), or "
    "`reward_inputs` (EasyR1); a function that makes a reward needs values for all its parameters in `kwargs`"
)


def load_reward(path: str, kwargs: Mapping[str, Any]) -> Callable[..., Any]:
    """The reward function that `path` names, with TRL's signature.

    Args:
        path: `module:name` or `file.py:name` of a reward function in TRL's, verl's or EasyR1's style, of a class whose
            instances are such functions, or of a function that returns one.
        kwargs: keyword arguments, bound to a reward function, or passed to the class or the making function.

    Raises:
        ValueError: if it is none of these, or the arguments don't fit; the message names the path and the remedy.
    """
    target = resolve(path)
    if not callable(target):
        raise ValueError(f"{path} is a {type(target).__name__}, not a function")
    if inspect.isclass(target) or _makes_rewards(path, target, kwargs):
        made = _made(path, target, kwargs)
        if not callable(made):
            raise ValueError(f"{path} makes a {type(made).__name__}, not a function; {HELP}")
        return _in_trl_style(f"the reward that {path} makes", made, {})
    _check_arguments(path, target, kwargs)
    return _in_trl_style(path, target, kwargs)


def _in_trl_style(path: str, function: Callable[..., Any], kwargs: Mapping[str, Any]) -> Callable[..., Any]:
    """The function with its arguments bound and, if it is verl's or EasyR1's, adapted."""
    parameters = _parameters(path, function)
    found = [style for style in (TRL, VERL, EASYR1) if style & parameters.keys()]
    shown = f"{path}: the parameters are ({', '.join(parameters)})"
    if len(found) > 1:
        raise ValueError(f"{shown}, which mix the styles of several libraries; {HELP}")
    try:
        if found == [VERL]:
            return VerlFunction(function, kwargs)
        if found != [TRL] and easyr1_form(function, kwargs):
            return EasyR1Function(function, kwargs)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if found != [TRL] and not _open_ended(parameters):
        without = [name for name, p in parameters.items() if p.default is p.empty and name not in kwargs]
        raise ValueError(f"{shown}, so it gets no completion; {HELP} (without a value: {', '.join(without) or 'none'})")
    return functools.partial(function, **kwargs) if kwargs else function


def _makes_rewards(path: str, function: Callable[..., Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a function gets no completion, and has a value for each of its parameters: then it must make a reward."""
    parameters = _parameters(path, function)
    if (TRL | VERL | EASYR1) & parameters.keys() or _open_ended(parameters):
        return False
    return all(p.default is not p.empty or name in kwargs for name, p in parameters.items())


def _made(path: str, target: Callable[..., Any], kwargs: Mapping[str, Any]) -> Any:
    _check_arguments(path, target, kwargs)
    try:
        inspect.signature(target).bind(**kwargs)
    except TypeError as error:
        raise ValueError(f"{path}: {error}; give it as one of the reward's `kwargs`") from None
    try:
        return target(**kwargs)
    except ValueError:  # its own message names the wrong argument
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(f"{path} can't be made: {described(error)}") from error


def _check_arguments(path: str, function: Callable[..., Any], kwargs: Mapping[str, Any]) -> None:
    parameters = _parameters(path, function)
    if not _open_ended(parameters) and (unknown := [name for name in kwargs if name not in parameters]):
        raise ValueError(f"{path} has no parameter {', '.join(unknown)}; it has {', '.join(parameters) or 'none'}")


def _parameters(path: str, function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        raise ValueError(f"{path} has no signature to read; wrap it in a function of `completions`") from None


def _open_ended(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
