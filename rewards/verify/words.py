"""Short texts, matched in the normal form of visual question answering (VQA), and counts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from . import chinese
from .english import UNITS
from .latex import normalise
from .quantity import Quantity, as_number, as_quantity, same_quantity, uncounted, unlabelled
from .units import PERCENT

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = re.compile(r"[^\w\s.\-+*/^=<>%$€£¥#!]|(?<!\d)\.|\.(?!\d)|!+(?!\w)")  # operators and currencies stay
_DIGITS = {"none": "0", **{word: str(value) for word, value in UNITS.items()}, "twenty": "20"}


def plain(text: str) -> str:
    """VQA's normal form: lower case, digits for number words, no articles and no punctuation.

    A text that is one number in words, such as "two hundred and five", becomes its digits.
    """
    bare = chinese.unframed(normalise(text)).casefold()
    value = as_number(bare) if not any(character.isdigit() for character in bare) else None
    if value is not None and value.denominator == 1:
        return str(value)
    words = _PUNCTUATION.sub(" ", _ARTICLES.sub(" ", bare)).split()
    return " ".join(_DIGITS.get(word, word) for word in words)


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
    right, answer = _counted(str(gold)), _counted(given)
    return float(right is not None and answer is not None and bool(same_quantity(right, answer)))


def count(text: str) -> int | None:
    """The whole number in a text such as "3", "three", "3 apples", "none" or "三个"; None if it isn't exactly one."""
    quantity = _counted(text)
    return int(quantity.value) if quantity else None


def accepted(gold: Any) -> list[str]:
    """The gold answers as texts: one, or a list of them."""
    return [str(text) for text in gold] if isinstance(gold, list | tuple) else [str(gold)]


def _counted(text: str) -> Quantity | None:
    normalised = unlabelled(normalise(text))
    quantity = as_quantity("0" if normalised.casefold() == "none" else normalised)
    if quantity is None or quantity.value.denominator != 1 or quantity.unit == PERCENT:
        return None
    return uncounted(quantity)
