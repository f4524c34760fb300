"""Parses completions: text, thought, answer and boxes. Rewards, data and reports all use this parser."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sail_rl.messages import text_of

THINK_START, THINK_END = "<think>", "</think>"
BOXES = "\\boxed", "\\fbox"
_TOKEN = re.compile(  # `\\.` is an escaped character
    r"(?P<box>\\(?:boxed|fbox)\s*{)|\\.|(?P<opening>{)|(?P<closing>})", re.DOTALL
)
_BOX = re.compile(r"(?<!\\)(?:\\\\)*\\(?:boxed|fbox)\s*{")


@dataclass(frozen=True, slots=True)
class Parsed:
    """The two parts of a completion; None where a part is missing."""

    thought: str | None
    answer: str | None


Prefilled = bool | Sequence[bool]
"""Whether the chat template has already written `<think>`, so that completions start inside the thought; one value for
all completions, or one for each, as a run passes them."""


def parse_all(completions: Sequence[Any], prefilled: Prefilled = False) -> list[Parsed]:
    """Each completion, in one of TRL's forms, split into thought and answer."""
    return [
        split_thought(completion_text(completion), prefilled=inside)
        for completion, inside in zip(completions, each_prefilled(prefilled, len(completions)), strict=True)
    ]


def each_prefilled(prefilled: Prefilled, count: int) -> Sequence[bool]:
    """`prefilled` for each of `count` completions."""
    return [prefilled] * count if isinstance(prefilled, bool) else prefilled


def completion_text(completion: str | list[dict[str, Any]]) -> str:
    """The text of a completion in one of TRL's forms: a string, or messages with strings or parts as contents."""
    if isinstance(completion, str):
        return completion
    return "".join(text_of(message["content"]) for message in completion)


def split_thought(text: str, *, prefilled: bool = False) -> Parsed:
    """Split at the last `</think>`: the answer is the text after the thought.

    The opening tag is optional, because a template may have prefilled it. There is no answer if the thought never ends,
    or if another thought opens after it. A completion without tags is all answer, or all thought if it is `prefilled`.
    """
    thought, end, answer = text.rpartition(THINK_END)
    if end:
        return Parsed(thought.replace(THINK_START, "", 1).strip(), None if THINK_START in answer else answer.strip())
    if THINK_START in text:
        return Parsed(text.partition(THINK_START)[2].strip(), None)
    return Parsed(text.strip(), None) if prefilled else Parsed(None, text.strip())


def boxes(text: str) -> list[str]:
    r"""The content of every complete, outermost `\boxed{…}` in order; see `box_spans`."""
    return [content for _, _, content in box_spans(text)]


def box_spans(text: str) -> list[tuple[int, int, str]]:
    r"""Start, end and content of every complete, outermost `\boxed{…}` in order.

    Braces are matched, and `\{` and `\}` don't count. A box that is never closed hides none after it. The text is read
    once, as rollouts can be long and full of open braces.
    """
    return [(start.start(), end.end(), text[start.end() : end.start()].strip()) for start, end in _boxes(text)]


def _boxes(text: str) -> list[tuple[re.Match[str], re.Match[str]]]:
    """The opening and the closing of every complete, outermost box in order."""
    opened: list[re.Match[str]] = []
    found: list[tuple[re.Match[str], re.Match[str]]] = []
    for token in _tokens(text):
        kind = token.lastgroup
        if kind in ("box", "opening"):
            opened.append(token)
        elif kind == "closing" and opened and (opening := opened.pop()).lastgroup == "box":
            while found and found[-1][0].start() > opening.start():
                found.pop()  # this box was inside the one that ends here
            found.append((opening, token))
    return found


def _tokens(text: str) -> Iterator[re.Match[str]]:
    """Boxes, braces and escaped characters from the first box on, as no brace before it matters."""
    first = min((start for name in BOXES if (start := text.find(name)) >= 0), default=len(text))
    while first and text[first - 1] == "\\":
        first -= 1
    return _TOKEN.finditer(text, first)


def box_count(text: str) -> int:
    r"""The number of `\boxed{` in the text, whether closed or not."""
    return sum(1 for _ in _BOX.finditer(text))


def final_answer(text: str, *, prefilled: bool = False) -> str | None:
    r"""The content of the last `\boxed{…}` after the thought, or None."""
    answer = split_thought(text, prefilled=prefilled).answer
    found = _boxes(answer) if answer else []
    return answer[found[-1][0].end() : found[-1][1].start()].strip() if answer and found else None
