"""Adapters that run reward functions written for verl and EasyR1 unchanged, under TRL's signature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sail_rl.completion import completion_text
from sail_rl.imports import resolve


class Verl:
    """verl's `compute_score(data_source, solution_str, ground_truth, extra_info)`, called for each completion.

    `ground_truth` comes from the column `answer`, `data_source` and `extra_info` from the columns of these names. If
    the function returns a mapping, its entry "score" is the score.

    Args:
        path: the function, as `module:name` or `file.py:name`.
        kwargs: further keyword arguments of the function.
    """

    def __init__(self, path: str, **kwargs: Any) -> None:
        self._function, self._kwargs = resolve(path), kwargs

    def __call__(
        self,
        completions: Sequence[Any],
        answer: Sequence[Any],
        data_source: Sequence[Any] | None = None,
        extra_info: Sequence[Any] | None = None,
    ) -> list[float | None]:
        """Score completions."""
        nothing = [None] * len(completions)
        rows = zip(data_source or nothing, completions, answer, extra_info or nothing, strict=True)
        return [
            _value(
                self._function(
                    data_source=source,
                    solution_str=completion_text(completion),
                    ground_truth=gold,
                    extra_info=extra,
                    **self._kwargs,
                ),
                "score",
            )
            for source, completion, gold, extra in rows
        ]


class EasyR1:
    """EasyR1's batch-wise `compute_score(reward_inputs)`, which takes and returns a list of mappings.

    Each input has "response", "response_length" (tokens) and "ground_truth", from the column `answer`.

    Args:
        path: the function, as `module:name` or `file.py:name`.
        metric: the entry of a returned mapping that is the score.
        kwargs: further keyword arguments of the function.
    """

    def __init__(self, path: str, *, metric: str = "overall", **kwargs: Any) -> None:
        self._function, self._metric, self._kwargs = resolve(path), metric, kwargs

    def __call__(
        self, completions: Sequence[Any], answer: Sequence[Any], completion_ids: Sequence[Sequence[int]]
    ) -> list[float | None]:
        """Score completions."""
        inputs = [
            {"response": completion_text(completion), "response_length": len(ids), "ground_truth": gold}
            for completion, gold, ids in zip(completions, answer, completion_ids, strict=True)
        ]
        return [_value(score, self._metric) for score in self._function(inputs, **self._kwargs)]


def _value(score: Any, name: str) -> Any:
    if not isinstance(score, Mapping):
        return score
    if name not in score:
        raise ValueError(f"the reward function returned {sorted(score)}, without {name!r}")
    return score[name]
