"""Short texts, matched in the normal form of visual question answering (VQA), and counts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from . import chinese
from .latex import normalise
from .quantity import as_quantity

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = re.compile(r"[^\w\s.\-]|(?<!\d)\.|\.(?!\d)")
NUMBER_WORDS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "thirteen": "13", "fourteen": "14",
    "fifteen": "15", "sixteen": "16", "seventeen": "17", "eighteen": "18", "nineteen": "19", "twenty": "20",
}  # fmt: skip


def plain(text: str) -> str:
    """VQA's normal form: lower case, digits for number words, no articles and no punctuation."""
    words = _PUNCTUATION.sub(" ", _ARTICLES.sub(" ", chinese.unframed(normalise(text)).casefold())).split()
    return " ".join(NUMBER_WORDS.get(word, word) for word in words)


def check(gold: Any, row: Mapping[str, Any]) -> None:
    """Raise ValueError for a gold answer that is empty in normal form."""
    for text in accepted(gold):
        if not plain(text):
            raise ValueError(f"the gold answer {text!r} has neither a letter nor a digit")


def score(gold: Any, given: str, row: Mapping[str, Any]) -> float:
    """1 if the answer matches any of the gold answers, else 0."""
    return float(plain(given) in {plain(text) for text in accepted(gold)})


def check_count(gold: Any, row: Mapping[str, Any]) -> None:
    """Raise ValueError for a gold answer that isn't a whole number."""
    if count(str(gold)) is None:
        raise ValueError(f"the gold answer {gold!r} isn't a count")


def score_count(gold: Any, given: str, row: Mapping[str, Any]) -> float:
    """1 for the same whole number, in digits or in words, with or without a noun; else 0."""
    return float(count(given) == count(str(gold)))


def count(text: str) -> int | None:
    """The whole number in a text such as "3", "three", "3 apples" or "三个"; None if it has none, or several."""
    bare = chinese.unframed(normalise(text)).casefold()
    first = bare.split()[0] if bare else ""
    quantity = as_quantity(bare.replace(first, NUMBER_WORDS.get(first, first), 1))
    return int(quantity[0]) if quantity and quantity[0].denominator == 1 else None


def accepted(gold: Any) -> list[str]:
    """The gold answers as texts: one, or a list of them."""
    return [str(text) for text in gold] if isinstance(gold, list | tuple) else [str(gold)]
