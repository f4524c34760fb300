"""Guards: rewards of weight 0 that watch for reward hacking. A guard is 1 where a completion shows its symptom.

Every RL stage uses `GUARDS` by default. In a recipe, `guards: null` turns them off, and another path replaces them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from sail_rl.completion import (
    THINK_END,
    THINK_START,
    box_count,
    completion_text,
    final_answer,
    parse_all,
    split_thought,
)

from .verify.choice import letters, options_of
from .verify.equality import quick_equal
from .verify.latex import normalise

MIN_LEAK = 3  # characters; shorter gold answers occur in prompts by chance


def several_boxes(completions: Sequence[Any], *, prefilled: Sequence[bool]) -> list[float]:
    """The completion hedges: it has several boxes after the thought."""
    return [float(box_count(parsed.answer or "") > 1) for parsed in parse_all(completions, prefilled)]


def box_in_thought(completions: Sequence[Any], *, prefilled: Sequence[bool]) -> list[float]:
    """The answer stands where it doesn't count: the thought has a box, and the text after it has none."""
    return [
        float(box_count(parsed.thought or "") > 0 and box_count(parsed.answer or "") == 0)
        for parsed in parse_all(completions, prefilled)
    ]


def empty_thought(completions: Sequence[Any], *, prefilled: Sequence[bool]) -> list[float]:
    """The thought is opened and closed with nothing in it."""
    texts = [completion_text(completion) for completion in completions]
    return [
        float((inside or THINK_START in text) and THINK_END in text and not split_thought(text).thought)
        for text, inside in zip(texts, prefilled, strict=True)
    ]


def copied_option(completions: Sequence[Any], prompts: Sequence[Any], **columns: Any) -> list[float | None]:
    """The answer names more of the question's options than are right; None for questions without options."""
    scores: list[float | None] = []
    for index, (completion, prompt) in enumerate(zip(completions, prompts, strict=True)):
        given = columns.get("options")
        options = options_of({"prompts": prompt, "options": given[index] if given else None})
        if not options:
            scores.append(None)
            continue
        answer = final_answer(completion_text(completion)) or ""
        named = sum(bool(option) and option.casefold() in normalise(answer).casefold() for option in options.values())
        gold = columns.get("answer")
        right = len(letters(str(gold[index]), options)) if gold else 1
        scores.append(float(max(named, len(letters(answer, options))) > max(1, right)))
    return scores


def leaked_gold(prompts: Sequence[Any], answer: Sequence[Any] | None = None) -> list[float | None]:
    """The question, without its options, contains the gold answer; None if the answer is too short to tell."""
    scores: list[float | None] = []
    for prompt, gold in zip(prompts, answer or [None] * len(prompts), strict=True):
        if not isinstance(gold, str | int | float) or len(str(gold).strip()) < MIN_LEAK:
            scores.append(None)
            continue
        question = re.sub(r"(?m)^\s*\(?[A-Z][.:)、].*$", "", completion_text(prompt))
        pattern = rf"(?<![\w.]){re.escape(str(gold).strip())}(?![\w]|\.\d)"
        scores.append(float(re.search(pattern, question, re.IGNORECASE) is not None))
    return scores


def thought_disagrees(completions: Sequence[Any], *, prefilled: Sequence[bool]) -> list[float | None]:
    """The last boxes in the thought and after it disagree; None if either has no box."""
    scores: list[float | None] = []
    for parsed in parse_all(completions, prefilled):
        boxed = final_answer(parsed.thought or ""), final_answer(parsed.answer or "")
        scores.append(None if None in boxed else float(quick_equal(str(boxed[0]), str(boxed[1])) is False))
    return scores


GUARDS: dict[str, Callable[..., list[Any]]] = {
    f"guard_{guard.__name__}": guard
    for guard in (several_boxes, box_in_thought, empty_thought, copied_option, leaked_gold, thought_disagrees)
}
