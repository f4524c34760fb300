"""The one parser of completions: text, thought, answer, boxes. Every reward that needs one of these calls it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

THINK_START, THINK_END = "<think>", "</think>"
_BOX = re.compile(r"\\(?:boxed|fbox)\s*{")


@dataclass(frozen=True, slots=True)
class Parsed:
    """A completion in its two parts; None where a part isn't there."""

    thought: str | None
    answer: str | None


def completion_text(completion: str | list[dict[str, Any]]) -> str:
    """Text of a completion in TRL's forms: a string, or messages whose contents are strings or lists of parts."""
    if isinstance(completion, str):
        return completion
    contents = [message["content"] for message in completion]
    return "".join(
        content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)
        for content in contents
    )


def split_thought(text: str) -> Parsed:
    """Split at the last `</think>`: the answer is only what comes after the thought.

    A template may have prefilled `<think>`, so that the completion has only the closing tag. A thought that never ends
    has no answer; a completion without tags is all answer.
    """
    thought, end, answer = text.rpartition(THINK_END)
    if end:
        return Parsed(thought.replace(THINK_START, "", 1).strip(), answer.strip())
    if THINK_START in text:
        return Parsed(text.partition(THINK_START)[2].strip(), None)
    return Parsed(None, text.strip())


def boxes(text: str) -> list[str]:
    r"""Contents of every complete `\boxed{…}` in order, braces matched (`\{` and `\}` don't count)."""
    found, position = [], 0
    while match := _BOX.search(text, position):
        end = _closing_brace(text, match.end())
        if end is None:
            break
        found.append(text[match.end() : end].strip())
        position = end + 1
    return found


def final_answer(text: str) -> str | None:
    r"""What the last `\boxed{…}` after the thought holds, or None."""
    answer = split_thought(text).answer
    found = boxes(answer) if answer else []
    return found[-1] if found else None


def _closing_brace(text: str, start: int) -> int | None:
    """Index of the brace that closes the one just before `start`."""
    depth, position = 1, start
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 1  # skip the escaped character
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return position
        position += 1
    return None
