r"""Format rewards: 1 for `<think>…</think>` followed by an answer with one `\boxed{}`, else 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sail_rl.completion import THINK_END, THINK_START, box_count, boxes, completion_text, split_thought


def think_boxed(completions: Sequence[Any], *, prefilled: bool | Sequence[bool] = False, **_: Any) -> list[float]:
    r"""Score the shape of completions (SAIL-VL2 report, section 4.2), whatever the answer says.

    Well-formed: one `<think>` at the very start and one `</think>`, a thought that isn't empty, then exactly one
    `\boxed{…}` that isn't empty and no other box, even an open one. What the thought contains doesn't matter: a model
    may well box an intermediate result there, and the answer reward doesn't look at it.

    Args:
        completions: strings or conversations.
        prefilled: the chat template has written `<think>` already, so completions start inside the thought; for all, or
            one for each (which is what a run passes).
    """
    inside = [prefilled] * len(completions) if isinstance(prefilled, bool) else prefilled
    texts = [completion_text(completion) for completion in completions]
    return [float(_well_formed(text, prefilled=start)) for text, start in zip(texts, inside, strict=True)]


def tag_count(completions: Sequence[Any], *, prefilled: bool | Sequence[bool] = False) -> list[float]:
    r"""A third each for exactly one `<think>`, exactly one `</think>`, exactly one `\boxed{}` after it: a softer format
    reward for models that don't know the format yet."""
    inside = [prefilled] * len(completions) if isinstance(prefilled, bool) else prefilled
    scores = []
    for completion, start in zip(completions, inside, strict=True):
        text = THINK_START * start + completion_text(completion)
        counts = text.count(THINK_START), text.count(THINK_END), box_count(text.rpartition(THINK_END)[2])
        scores.append(sum(count == 1 for count in counts) / 3)
    return scores


def _well_formed(text: str, *, prefilled: bool) -> bool:
    text = (THINK_START + text if prefilled else text).strip()
    if not text.startswith(THINK_START) or text.count(THINK_START) != 1 or text.count(THINK_END) != 1:
        return False
    parsed = split_thought(text)
    answer = parsed.answer or ""
    return bool(parsed.thought) and box_count(answer) == 1 and boxes(answer) not in ([], [""])
