"""Multiple choice: an answer is a letter, the option's text or both, or several letters if several are right."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sail_rl.completion import completion_text

from . import chinese
from .latex import normalise

_ONE = r"\(?([A-Z])\)?"
_LETTER = re.compile(
    rf"(?:(?:the )?(?:answer|option|choice)s?(?: is)?:? *)?{_ONE}(?:[.:)、]|$)\s*(.*)", re.IGNORECASE | re.DOTALL
)
_SEVERAL = re.compile(r"\(?[A-Z]\)?(?:\s*(?:,|and|&|和|\s)\s*\(?[A-Z]\)?)+", re.IGNORECASE)
_OPTION = re.compile(r"^\s*(?:\(([A-Z])\)|([A-Z])[.:)、．：）])\s*(.+?)\s*$", re.MULTILINE)
LETTERS = re.compile(r"[A-Z]")


def is_letters(text: str) -> bool:
    """Whether a gold answer is one capital letter."""
    return bool(LETTERS.fullmatch(text))


def as_letters(gold: str) -> frozenset[str]:
    """The letters of a gold answer: "B", "(B)", "ACD", "A, C"."""
    bare = re.sub(r"[^A-Za-z]", "", gold).upper()
    return frozenset(bare)


def options_of(row: Mapping[str, Any]) -> dict[str, str]:
    """The normalised options by letter: the row's `options` (a list or a mapping), or the lines of its prompt."""
    given = row.get("options")
    if isinstance(given, Mapping):
        return {str(letter).upper(): normalise(str(text)) for letter, text in given.items() if text is not None}
    if given:
        return {chr(ord("A") + number): normalise(str(text)) for number, text in enumerate(given)}
    prompt = row.get("prompts") or row.get("prompt")
    text = completion_text(prompt) if prompt else ""
    return {match[1] or match[2]: normalise(match[3]) for match in _OPTION.finditer(text)}


def letters(answer: str, options: Mapping[str, str]) -> frozenset[str]:
    """The letters that an answer chooses; empty if the choice is unclear.

    A text beside a letter must agree with that letter's option; a text without a letter must equal one option.
    """
    text = chinese.unframed(normalise(answer)).strip("()* ")
    by_text = frozenset(letter for letter, option in options.items() if option.casefold() == text.casefold())
    if len(by_text) == 1:
        return by_text
    if _SEVERAL.fullmatch(text):
        return frozenset(re.findall(r"\b[A-Z]\b", text.upper().replace("AND", " ")))
    if re.fullmatch(r"[A-Z]{2,6}", text.upper()) and options and set(text.upper()) <= set(options):
        return frozenset(text.upper())
    match = _LETTER.fullmatch(text)
    if not match:
        return frozenset()
    letter, said = match[1].upper(), match[2].strip()
    if said and options.get(letter, said).casefold() != said.casefold():
        return frozenset()
    return frozenset(letter)


def check(gold: Any, row: Mapping[str, Any]) -> None:
    """Raise ValueError for a gold answer that is neither an option's letter nor its text."""
    options = options_of(row)
    if not _gold_letters(str(gold), options):
        raise ValueError(
            f"the gold answer {gold!r} is neither a letter nor the text of one of {list(options.values())}"
        )


def score(gold: Any, given: str, row: Mapping[str, Any]) -> float:
    """1 if the answer has exactly the right letters, or the right option's text; else 0."""
    options = options_of(row)
    return float(letters(given, options) == _gold_letters(str(gold), options))


def _gold_letters(gold: str, options: Mapping[str, str]) -> frozenset[str]:
    text = normalise(gold).casefold()
    if named := frozenset(letter for letter, option in options.items() if option.casefold() == text):
        return named
    if re.fullmatch(r"\(?[A-Z]\)?(?:[,\s]*\(?[A-Z]\)?)*\.?", gold.strip()) and len(gold.strip()) <= 20:
        chosen = as_letters(gold)
        return chosen if not options or chosen <= set(options) else frozenset()
    return frozenset()
