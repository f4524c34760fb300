"""Guards: rewards of weight 0 that watch for reward hacking. A guard is 1 where a completion shows its symptom.

Every RL stage uses `GUARDS` by default. In a recipe, `guards: null` turns them off, and another path replaces them.
Guards that compare answers do so in the processes that verify answers. A comparison that exceeds a limit there, or
whose texts are too long, gives no score, and its status appears in the metrics.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
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

from .combine.score import Score
from .process.verification import Verification
from .verify.verifiers import SPARE_LENGTH, VERIFIERS, columns_read, longest_answer

MIN_LEAK = 3  # characters; shorter gold answers occur in prompts by chance
_VERIFICATION = Verification(batch_timeout_s=60.0)


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
    asked: dict[int, tuple[Any, ...]] = {}
    too_long = []
    golds = columns.get("answer")
    for index, completion in enumerate(completions):
        row = columns_read(VERIFIERS["choice"], {"prompts": prompts, "options": columns.get("options")}, index)
        given = final_answer(completion_text(completion)) or ""
        gold = None if golds is None else str(golds[index])
        if len(given) > longest_answer(gold, row):
            too_long.append(index)
        else:
            asked[index] = "names_several", given, gold, row
    return _compared(len(completions), asked, too_long)


def leaked_gold(prompts: Sequence[Any], answer: Sequence[Any] | None = None) -> list[float | None]:
    """The question, without its options, contains the gold answer; None if the answer is too short to tell."""
    scores: list[float | None] = []
    for prompt, gold in zip(prompts, answer or [None] * len(prompts), strict=True):
        if not isinstance(gold, str | int | float) or len(str(gold).strip()) < MIN_LEAK:
            scores.append(None)
            continue
        question = re.sub(r"(?m)^[^\S\n]*\(?[A-Z][.:)、].*$", "", completion_text(prompt))
        scores.append(float(_stands_in(question.casefold(), str(gold).strip().casefold())))
    return scores


def _stands_in(text: str, part: str) -> bool:
    """Whether a text contains a part that no letter, digit or decimal point continues."""
    start = text.find(part)
    while start >= 0:
        before, after = text[max(0, start - 1) : start], text[start + len(part) : start + len(part) + 2]
        if not re.match(r"[\w.]", before) and not re.match(r"\w|\.\d", after):
            return True
        start = text.find(part, start + 1)
    return False


def thought_disagrees(completions: Sequence[Any], *, prefilled: Sequence[bool]) -> list[float | None]:
    """The last boxes in the thought and after it disagree for certain; None if either has no box."""
    asked: dict[int, tuple[Any, ...]] = {}
    too_long = []
    for index, parsed in enumerate(parse_all(completions, prefilled)):
        boxed = final_answer(parsed.thought or ""), final_answer(parsed.answer or "")
        if boxed[0] is None or boxed[1] is None:
            continue
        if max(map(len, boxed)) > SPARE_LENGTH and boxed[0] != boxed[1]:  # type: ignore[arg-type]
            too_long.append(index)
        else:
            asked[index] = "differ", *boxed
    return _compared(len(completions), asked, too_long)


def _compared(count: int, asked: Mapping[int, tuple[Any, ...]], too_long: Sequence[int]) -> list[float | None]:
    """The results of questions by row; a row without question has no score."""
    scores: list[float | None] = [None] * count
    for index in too_long:
        scores[index] = Score(math.nan, "too_long")
    for index, result in zip(asked, _VERIFICATION.ask(list(asked.values())), strict=True):
        known = result.status == "ok" and result.value is not None
        value = float(result.value) if known else math.nan
        if known or result.status != "ok":
            scores[index] = Score(value, result.status, seconds=result.seconds, cached=result.cached)
    return scores


copied_option.close = thought_disagrees.close = _VERIFICATION.close  # type: ignore[attr-defined]
GUARDS: dict[str, Callable[..., list[Any]]] = {
    f"guard_{guard.__name__}": guard
    for guard in (several_boxes, box_in_thought, empty_thought, copied_option, leaked_gold, thought_disagrees)
}
