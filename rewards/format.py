r"""Format rewards: 1 for `<think>…</think>` followed by an answer with one `\boxed{}`, else 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sail_rl.completion import (
    THINK_END,
    THINK_START,
    Prefilled,
    box_count,
    boxes,
    completion_text,
    each_prefilled,
    split_thought,
)


def think_boxed(completions: Sequence[Any], *, prefilled: Prefilled = False, **_: Any) -> list[float]:
    r"""Score the format of completions (SAIL-VL2 report, section 4.2), whatever their answer.

    A well-formed completion starts with its only `<think>`, has a non-empty thought, one `</think>`, and then exactly
    one box, a non-empty `\boxed{…}`; even an unclosed second box counts against it. Boxes inside the thought are
    allowed: a model may box an intermediate result there, and the answer reward ignores it.

    Args:
        completions: strings or conversations.
        prefilled: see `Prefilled`.
    """
    return [float(_well_formed(text)) for text in _with_opening_tags(completions, prefilled)]


def tag_count(completions: Sequence[Any], *, prefilled: Prefilled = False) -> list[float]:
    r"""A softer format reward for models that don't know the format yet.

    It gives a third each for exactly one `<think>`, exactly one `</think>`, and exactly one `\boxed{}` after that.
    """
    scores = []
    for text in _with_opening_tags(completions, prefilled):
        counts = text.count(THINK_START), text.count(THINK_END), box_count(text.rpartition(THINK_END)[2])
        scores.append(sum(count == 1 for count in counts) / 3)
    return scores


def _with_opening_tags(completions: Sequence[Any], prefilled: Prefilled) -> list[str]:
    inside = each_prefilled(prefilled, len(completions))
    return [THINK_START * start + completion_text(text) for text, start in zip(completions, inside, strict=True)]


def _well_formed(text: str) -> bool:
    text = text.strip()
    if not text.startswith(THINK_START) or text.count(THINK_START) != 1 or text.count(THINK_END) != 1:
        return False
    parsed = split_thought(text)
    answer = parsed.answer or ""
    return bool(parsed.thought) and box_count(answer) == 1 and boxes(answer) not in ([], [""])
