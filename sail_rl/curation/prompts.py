"""Cleans prompts of system messages, and of hints that contradict the format that training teaches."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sail_rl.messages import text_of

from .outcome import Outcome, Row, each

_REST = r"(?:[^.:?!\n]|\.(?=\d))*"
"""The rest of a sentence; it stops at a colon or question mark, because a question may follow."""
HINTS = tuple(
    hint.replace("…", _REST)
    for hint in (
        r"answer (?:the question )?(?:with|using) "
        r"(?:a single word|(?:a )?(?:short )?phrase|one word|the option'?s letter)…",
        r"(?:please )?(?:directly )?answer (?:directly )?with (?:only )?the (?:correct )?(?:option|choice|letter)…",
        r"please answer the (?:following )?question (?:with|using) (?:a single|one|a short|only)…",
        r"(?:please )?(?:select|choose) the (?:correct|best) (?:answer|option) from the (?:given |following )?"
        r"(?:choices|options)…",
        r"hint: please …(?:\.|$)",
        r"(?:let'?s |please )?(?:think|reason)(?: about it)? step[- ]by[- ]step"
        r"(?:,? and (?:then )?(?:put|write|give|provide) …)?",
        r"(?:please )?(?:put|write|enclose|place) (?:your|the) (?:final )?answer (?:in|within|inside) "
        r"(?:\\boxed(?:\{[^{}\n]*\})?|<answer>…)…",
        r"(?:please )?(?:first )?output the thinking process in <think>[^\n]*",
        r"you (?:should )?first think about the reasoning process[^\n]*",
        r"(?:please )?(?:give|provide) (?:a )?(?:short|brief|concise) answer…",
        r"(?:do not|don'?t) (?:explain|give any explanation|show your reasoning)…",
        r"请(?:直接)?用[^。\n:：?？什几哪]*(?:选项|字母|单词|短语)[^。\n:：?？什几哪]*",
        r"请?(?:让我们)?一步一步(?:地)?(?:思考|推理)[^。\n:]*",
    )
)
"""Patterns of answer instructions in datasets, each a sentence or a line of its own. Instructions that change the
answer (units, rounding, "as a fraction") don't match."""
_SENTENCE = r"(?:(?<=[.?!。？！])\s*|^[^\S\n]*)(?:{})(?:[.!。]+(?=\s|$)|(?=\s*$))"
"""Matches complete sentences only, up to their end or the end of the line."""


_RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹"


def strip_prompts(rows: Iterable[Row], *, hints: Sequence[str] = HINTS) -> Outcome:
    """Remove system messages, and hints in user messages; drop rows whose question consists of hints only."""
    pattern = re.compile(_SENTENCE.format("|".join(f"(?:{hint})" for hint in hints)), re.IGNORECASE | re.MULTILINE)

    def change(row: Row) -> Row | str:
        prompt = row["prompt"]
        if not isinstance(prompt, str):
            prompt = [message for message in prompt if message["role"] != "system"]
        prompt = with_text(prompt, lambda text: _tidy(pattern.sub("", text)))
        return row | {"prompt": prompt} if question_of(prompt).strip() else "nothing but hints"

    return each(rows, change)


def question_of(prompt: str | Sequence[dict[str, Any]]) -> str:
    """The text of all user messages."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(text_of(message["content"]) for message in prompt if message["role"] == "user")


def with_text(prompt: str | Sequence[dict[str, Any]], change: Callable[[str], str]) -> Any:
    """The prompt with `change` applied to every text of its user messages; pictures keep their positions."""
    if isinstance(prompt, str):
        return change(prompt)
    return [message | {"content": _changed(message["content"], change)} if message["role"] == "user" else message
            for message in prompt]  # fmt: skip


def normalised(question: str) -> str:
    """A question's words, numbers and mathematical signs, without spacing, case and punctuation."""
    text = "".join(f"^{unicodedata.normalize('NFKC', c)}" if c in _RAISED else c for c in question)
    text = unicodedata.normalize("NFKC", text).casefold().replace("\u2212", "-")
    signs = "".join(re.escape(c) for c in sorted({c for c in text if unicodedata.category(c) in ("Sm", "Sc", "So")}))
    return " ".join(re.findall(rf"\d+(?:\.\d+)*|[^\W\d]\w*|[-*/^%!\\{{}}_°{signs}]", text))


def _changed(content: str | Sequence[dict[str, Any]], change: Callable[[str], str]) -> Any:
    if isinstance(content, str):
        return change(content)
    return [part | {"text": change(part["text"])} if part["type"] == "text" else part for part in content]


def _tidy(text: str) -> str:
    """The text without trailing blanks and repeated empty lines."""
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"(?<![ \t])[ \t]+(?=\n|$)", "", text)).strip()
