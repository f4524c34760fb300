"""Equality of mathematical answers: fast rules decide most pairs, math-verify and sympy the others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from . import chinese, choice
from .arithmetic import constant, out_of_reach, same_expression
from .latex import WORDS, normalise
from .magnitude import compare
from .quantity import as_number, as_quantity, same_quantity
from .structure import parts_of, same_parts
from .words import NUMBER_WORDS

_CLOSE = Fraction(1, 10**5)
_SPACES = re.compile(r"(?<!\d) | (?!\d)")  # the space in `1 2` matters
_LABEL = re.compile(r"\\?[A-Za-z](?:_{?\w+}?)?'*(?:\([a-z](?:,[a-z])*\))?\s*(?:=|\\in(?![a-z]))\s*")


def quick_equal(gold: str, answer: str) -> bool | None:
    """Decide without sympy where possible; None if no rule decides.

    The rules in order: equal texts; two plain numbers (if they differ only in the sixth digit, as 1/3 and 0.333333 do,
    math-verify's rounding decides); quantities with units; option letters; words, which must match as text (as products
    of letters, "cat" and "act" would be equal); tuples, sets and matrices part by part; the magnitudes of constants;
    and the values of expressions with variables at a few points.
    """
    return _decide(_in_digits(chinese.unframed(normalise(gold))), _in_digits(chinese.unframed(normalise(answer))))


def _in_digits(text: str) -> str:
    """`seven` becomes 7, but `none` stays a word: it may say that there is no solution."""
    word = text.casefold()
    return text if word == "none" else NUMBER_WORDS.get(word, text)


def _decide(left: str, right: str) -> bool | None:
    if _SPACES.sub("", left) == _SPACES.sub("", right):
        return True
    if not right:
        return False
    x, y = as_number(left), as_number(right)
    if x is not None and y is not None:
        return True if x == y else (None if abs(x - y) <= _CLOSE * abs(x) else False)
    if _LABEL.match(left) or _LABEL.match(right):
        return _decide_labelled(left, right)
    quantities = as_quantity(left), as_quantity(right)
    if quantities[0] and quantities[1]:
        return same_quantity(quantities[0], quantities[1])
    if choice.is_letters(left.upper()):
        return choice.letters(right, {}) == {left.upper()}
    if WORDS.fullmatch(left) and (len(left) > 1 or WORDS.fullmatch(right)):
        return left.casefold() == right.casefold()
    if chinese.is_chinese(left) and as_quantity(left) is None:
        return False
    return _decide_mathematics(left, right)


def _decide_labelled(left: str, right: str) -> bool | None:
    r"""Compare the values behind labels such as `x =` and `x \in`; None for two different labels."""
    labels = _LABEL.match(left), _LABEL.match(right)
    if labels[0] and labels[1] and labels[0][0].split() != labels[1][0].split():
        return None
    bare = left[labels[0].end() :] if labels[0] else left, right[labels[1].end() :] if labels[1] else right
    if parts_of(bare[0]) or parts_of(bare[1]):  # x = 1 or x = 2
        parts = parts_of(left), parts_of(right)
        if parts[0] and parts[1]:
            return same_parts(parts[0], parts[1], _decide)
    return _decide(bare[0], bare[1].rpartition("=")[2].strip())


def _decide_mathematics(left: str, right: str) -> bool | None:
    parts = parts_of(left), parts_of(right)
    if parts[0] and parts[1]:
        return same_parts(parts[0], parts[1], _decide)
    if (parts[0] or parts[1]) and not any(
        "<" in text or ">" in text or "\\l" in text or "\\g" in text for text in (left, right)
    ):
        known = constant(left), constant(right)
        return False if known != (None, None) else None
    values = constant(left), constant(right)
    if values[0] is not None and values[1] is not None:
        return compare(values[0], values[1])
    if any(values) and any(parts):  # one number against several
        return False
    if (verdict := same_expression(left, right)) is not None:
        return verdict
    return False if out_of_reach(right) and not out_of_reach(left) else None


def check(gold: Any, row: Mapping[str, Any]) -> None:
    """Raise ValueError for a gold answer with unbalanced braces, with its box, or in Chinese sentences."""
    text = str(gold)
    if chinese.is_prose(text):
        raise ValueError(f"the gold answer {text!r} is a solution in sentences; give its result only")
    if text.replace("\\{", "").count("{") != text.replace("\\}", "").count("}"):
        raise ValueError(f"the gold answer {text!r} has unbalanced braces")
    if "\\boxed" in text:
        raise ValueError(f"the gold answer {text!r} has a box; give the box's content only")


def understood(gold: str) -> bool:
    """Whether the rules here understand a gold answer; otherwise math-verify must parse it."""
    text = chinese.unframed(normalise(gold))
    text = text[label.end() :] if (label := _LABEL.match(text)) else text
    if WORDS.fullmatch(text) or chinese.is_chinese(text) or as_quantity(text) or constant(text) is not None:
        return True
    parts = parts_of(text)
    return parts is not None and all(understood(part) for part in parts[1])


def score(gold: Any, given: str, row: Mapping[str, Any]) -> float | None:
    """1 or 0, or None where sympy must decide."""
    verdict = quick_equal(str(gold), given)
    return None if verdict is None else float(verdict)
