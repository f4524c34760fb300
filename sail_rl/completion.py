"""The one parser of completions: text, thought, answer, boxes. Every reward that needs one of these calls it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from sail_rl.messages import text_of

THINK_START, THINK_END = "<think>", "</think>"
_TOKEN = re.compile(r"(?P<box>\\(?:boxed|fbox)\s*{)|\\.|(?P<brace>[{}])", re.DOTALL)  # `\\.`: an escaped character


@dataclass(frozen=True, slots=True)
class Parsed:
    """A completion in its two parts; None where a part isn't there."""

    thought: str | None
    answer: str | None


def completion_text(completion: str | list[dict[str, Any]]) -> str:
    """Text of a completion in TRL's forms: a string, or messages whose contents are strings or lists of parts."""
    if isinstance(completion, str):
        return completion
    return "".join(text_of(message["content"]) for message in completion)


def split_thought(text: str, *, prefilled: bool = False) -> Parsed:
    """Split at the last `</think>`: the answer is only what comes after the thought.

    A template may have prefilled `<think>`, so that the completion has only the closing tag. A thought that never ends
    has no answer, nor has a completion that opens another thought after it. A completion without tags is all answer,
    or all thought if `prefilled` says that it started inside one.
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
    opened: list[re.Match[str]] = []
    found: list[tuple[re.Match[str], re.Match[str]]] = []
    for token in _TOKEN.finditer(text):
        if token["box"] or token["brace"] == "{":
            opened.append(token)
        elif token["brace"] and opened and (opening := opened.pop())["box"]:
            while found and found[-1][0].start() > opening.start():
                found.pop()  # this box was inside the one that ends here
            found.append((opening, token))
    return [(start.start(), end.end(), text[start.end() : end.start()].strip()) for start, end in found]


def box_count(text: str) -> int:
    r"""How many times `\boxed{` is opened, closed or not."""
    return sum(bool(token["box"]) for token in _TOKEN.finditer(text))


def final_answer(text: str, *, prefilled: bool = False) -> str | None:
    r"""What the last `\boxed{…}` after the thought holds, or None."""
    answer = split_thought(text, prefilled=prefilled).answer
    found = boxes(answer) if answer else []
    return found[-1] if found else None
