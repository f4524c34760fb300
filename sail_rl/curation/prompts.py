"""Prompts: without system messages and without hints that contradict the format that is taught."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .outcome import Outcome, Row, each

HINTS = (
    r"answer (?:the question )?(?:with|using) (?:a single word or (?:short )?phrase|one word|the option'?s letter)"
    r"[^.\n]*\.?",
    r"(?:please )?(?:directly )?answer (?:directly )?with (?:only )?the (?:correct )?(?:option|choice|letter)"
    r"[^.\n]*\.?",
    r"(?:please )?(?:select|choose) the (?:correct|best) (?:answer|option)[^.\n]*(?:letter|choices)[^.\n]*\.?",
    r"hint:[^\n]*",
    r"(?:let'?s |please )?(?:think|reason)(?: about it)? step[- ]by[- ]step[^.\n]*\.?",
    r"(?:please )?(?:put|write|give|provide|place)[^.\n]*final answer[^.\n]*(?:\\boxed(?:\{[^{}\n]*\})?)?[^.\n]*\.?",
    r"(?:please )?(?:first )?output the thinking process in <think>[^\n]*",
    r"(?:please )?(?:give|provide) (?:a )?(?:short|brief|concise) answer[^.\n]*\.?",
    r"(?:do not|don'?t|without) (?:explain|explanation|any explanation|reasoning)[^.\n]*\.?",
    r"请(?:直接)?(?:用[^。\n]*)?(?:回答|给出|选出)[^。\n]*(?:选项|字母|单词|短语|最终答案)[^。\n]*。?",
    r"请?(?:让我们)?一步一步(?:地)?(?:思考|推理)[^。\n]*。?",
)
"""Instructions on how to answer that datasets carry along; each is a sentence, or a line, of its own."""
_SENTENCE = r"(?:(?<=^)|(?<=[.?!。？！\n:])\s*)(?:{})"  # only from where a sentence begins


def strip_prompts(rows: Iterable[Row], *, hints: Sequence[str] = HINTS) -> Outcome:
    """Drop system messages, and hints from the user's; a row whose question was nothing else goes."""
    pattern = re.compile(_SENTENCE.format("|".join(f"(?:{hint})" for hint in hints)), re.IGNORECASE | re.MULTILINE)

    def change(row: Row) -> Row | str:
        prompt = row["prompt"]
        if not isinstance(prompt, str):
            prompt = [message for message in prompt if message["role"] != "system"]
        prompt = with_text(prompt, lambda text: _tidy(pattern.sub("", text)))
        return row | {"prompt": prompt} if question_of(prompt).strip() else "nothing but hints"

    return each(rows, change)


def question_of(prompt: str | Sequence[dict[str, Any]]) -> str:
    """All text of the user's messages."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(_text(message["content"]) for message in prompt if message["role"] == "user")


def with_text(prompt: str | Sequence[dict[str, Any]], change: Callable[[str], str]) -> Any:
    """The prompt with every text of the user's messages changed; pictures stay where they are."""
    if isinstance(prompt, str):
        return change(prompt)
    return [message | {"content": _changed(message["content"], change)} if message["role"] == "user" else message
            for message in prompt]  # fmt: skip


def normalised(question: str) -> str:
    """A question's words, so that spacing, case, punctuation and width of letters don't tell two apart."""
    text = unicodedata.normalize("NFKC", question).casefold()
    return " ".join(re.findall(r"\w+|[+\-*/=<>^%]", text))


def _changed(content: str | Sequence[dict[str, Any]], change: Callable[[str], str]) -> Any:
    if isinstance(content, str):
        return change(content)
    return [part | {"text": change(part["text"])} if part["type"] == "text" else part for part in content]


def _text(content: str | Sequence[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else "".join(p["text"] for p in content if p["type"] == "text")


def _tidy(text: str) -> str:
    """Without the blanks that something taken out leaves behind."""
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+(?=\n|$)", "", text)).strip()
