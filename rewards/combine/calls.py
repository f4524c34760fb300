"""Calls one reward for a batch: passes arguments by name, awaits it if it is async, and handles its exceptions."""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from numbers import Real
from typing import Any

from sail_rl.completion import THINK_START
from sail_rl.contracts import HIDDEN_COLUMNS, CallStatus, Prompt, RewardCall, RewardTerm, Rollout
from sail_rl.imports import described

from .score import Score

Outcome = tuple[float | None, RewardCall]
"""A score (None if there is none) and the record of its call."""


def score_rows(term: RewardTerm, prompts: Sequence[Prompt], rollouts: Sequence[Rollout]) -> list[Outcome]:
    """Call one reward for these rollouts; the term's `on_error` says how a failure is scored.

    If the call for the whole batch raises, each rollout is scored alone, to find those that the reward can't score.

    Raises:
        RuntimeError: if the reward fails and `on_error` is "fail"; names the reward and shows the sample.
        ValueError: if the reward returns anything but a number or None for each completion.
    """
    if not rollouts:
        return []
    start = time.perf_counter()
    try:
        scores = _call(term, prompts, rollouts)
    except (ScoresError, ArgumentsError):
        raise
    except Exception as error:  # user code may raise anything; `on_error` says what follows
        if len(rollouts) > 1:
            pairs = zip(prompts, rollouts, strict=True)
            outcomes = [score_rows(term, [prompt], [rollout])[0] for prompt, rollout in pairs]
            if term.on_error == "fail":
                raise RuntimeError(
                    f"reward {term.name!r} raised {described(error)} for a batch of "
                    f"{len(rollouts)} rollouts, but for none of them alone"
                ) from error
            return outcomes
        scores = [error]
    share = (time.perf_counter() - start) / len(rollouts)
    return [_outcome(term, *row, share) for row in zip(prompts, rollouts, scores, strict=True)]


def reward_arguments(prompts: Sequence[Prompt], rollouts: Sequence[Rollout]) -> dict[str, list[Any]]:
    """TRL's keyword arguments: conversations, token ids, images and the dataset's columns, one entry per rollout.

    Where a row lacks a column, its entry is None. `prefilled` tells which prompts already end with `<think>`.
    """
    columns = dict.fromkeys(name for prompt in prompts for name in prompt.columns if name not in HIDDEN_COLUMNS)
    return {name: [prompt.columns.get(name) for prompt in prompts] for name in columns} | {
        "prompts": [prompt.messages for prompt in prompts],
        "completions": [[{"role": "assistant", "content": rollout.text}] for rollout in rollouts],
        "completion_ids": [rollout.token_ids for rollout in rollouts],
        "images": [prompt.images for prompt in prompts],
        "prefilled": [prompt.text.rstrip().endswith(THINK_START) for prompt in prompts],
    }


def chosen_arguments(name: str, function: Any, arguments: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """The arguments that the function's parameters name, or all of them if it takes `**columns`.

    `solution`, TRL's name of the gold answers, is the column `answer` where rows have no column of that name.
    """
    parameters = inspect.signature(function).parameters
    open_ended = [parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()]
    required = [
        key
        for key, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    if "solution" in required and "solution" not in arguments and "answer" in arguments:
        arguments = arguments | {"solution": arguments["answer"]}
    if missing := [key for key in required if key not in arguments]:
        raise ArgumentsError(
            f"reward {name!r} needs {', '.join(missing)}, but the rows have {', '.join(sorted(arguments))}; "
            "add the column to the dataset, or give the value as one of the reward's `kwargs`"
        )
    return arguments if any(open_ended) else {key: value for key, value in arguments.items() if key in parameters}


def called(function: Any, arguments: dict[str, list[Any]]) -> Any:
    """What the function returns, awaited if necessary.

    Raises:
        RuntimeError: if it calls `sys.exit`, which would end the run without a word.
    """
    try:
        return awaited(function(**arguments))
    except SystemExit as error:
        raise RuntimeError(f"called sys.exit({error.code!r})").with_traceback(error.__traceback__) from None


def awaited(scores: Any) -> Any:
    """The scores, awaited if necessary; this works inside a running event loop, too."""
    if not inspect.isawaitable(scores):
        return scores

    async def result() -> Any:
        return await scores

    try:
        asyncio.get_running_loop()
    except RuntimeError:  # the usual case
        return asyncio.run(result())
    with ThreadPoolExecutor(max_workers=1) as thread:  # this thread's event loop is running the caller
        return thread.submit(asyncio.run, result()).result()


def as_list(scores: Any) -> list[Any] | None:
    """The scores of a sequence, a NumPy array or a tensor as plain numbers; None if they are none of these."""
    if callable(getattr(scores, "tolist", None)):
        scores = scores.tolist()
    if not isinstance(scores, Sequence) or isinstance(scores, str):
        return None
    return [_plain_number(score) for score in scores]


def _plain_number(score: Any) -> Any:
    """A NumPy scalar or a tensor with one element as a number; any other value as it is."""
    if isinstance(score, Real) or not callable(getattr(score, "item", None)):
        return score
    try:
        return score.item()
    except (ValueError, RuntimeError):  # several elements: no score
        return score


def show(prompt: Prompt, rollout: Rollout) -> str:
    """A sample as text for an error message; long texts are cut in the middle."""
    columns = {name: value for name, value in prompt.columns.items() if name not in ("images", "video", "prompt")}
    lines = [("prompt", f"{prompt.id}: {prompt.text}"), ("completion", rollout.text), ("columns", repr(columns))]
    return "\n".join(f"    {name}: {_middle_cut(text, 600)}" for name, text in lines)


class ScoresError(ValueError):
    """A reward returned something other than a list of scores: a bug in its code, to which `on_error` doesn't apply."""


class ArgumentsError(ValueError):
    """A reward needs a column that the dataset lacks."""


def _call(term: RewardTerm, prompts: Sequence[Prompt], rollouts: Sequence[Rollout]) -> Sequence[Any]:
    # Each reward gets its own lists: one that edits its arguments must not change those of the next reward.
    arguments = chosen_arguments(term.name, term.function, reward_arguments(prompts, rollouts))
    returned = called(term.function, arguments)
    scores = as_list(returned)
    if scores is None or len(scores) != len(rollouts):
        raise ScoresError(
            f"reward {term.name!r} returned {returned!r:.200}; it must return a list of {len(rollouts)} scores"
        )
    return scores


def _outcome(term: RewardTerm, prompt: Prompt, rollout: Rollout, score: Any, share: float) -> Outcome:
    seconds = getattr(score, "seconds", None)
    milliseconds = 1000 * (share if seconds is None else seconds)
    if isinstance(score, Exception):
        status: CallStatus = "timeout" if isinstance(score, TimeoutError) else "error"
        if term.on_error == "fail":
            raise RuntimeError(
                f"reward {term.name!r} raised {described(score)}\n{show(prompt, rollout)}\n    "
                "set on_error: zero or none to score such failures and continue"
            ) from score
        return (0.0 if term.on_error == "zero" else None), RewardCall(status, milliseconds, message=described(score))
    if score is None:
        return None, RewardCall("none", milliseconds)
    if isinstance(score, Score) and math.isnan(score) and score.status != "ok":
        return None, RewardCall(score.status, milliseconds, score.cached)
    if not isinstance(score, Real) or not math.isfinite(score):
        raise ScoresError(
            f"reward {term.name!r} returned {score!r} for prompt {prompt.id}; scores are finite numbers or None"
        )
    if isinstance(score, Score):
        return float(score), RewardCall(score.status, milliseconds, score.cached)
    return float(score), RewardCall("ok", milliseconds)


def _middle_cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit // 2]} […] {text[-limit // 2 :]}"
