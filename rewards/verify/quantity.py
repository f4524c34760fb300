"""Numbers with units: exact values of literals, English and Chinese number words, scale words and units."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

from . import chinese, english
from .latex import normalise
from .numerals import literal
from .unit_reader import unit as read_unit
from .units import NAMESAKES, NONE, PERCENT, THING, UNITS, Unit

MAX_LENGTH = 400  # characters; longer numbers are left to other rules
_CANONICAL = {
    "\\%": "%", "\\$": "$", "\\cdot": "*", "\\mu": "μ", "\\Omega": "Ω", "\\degree": "°", "\\,": " ", "\\;": " ",
    "\\:": " ", "\\ ": " ", "~": " ", "\\!": "", "µ": "μ", "Ω": "Ω", "⋅": "*", "·": "*", "−": "-", "–": "-", "％": "%",
    "￥": "¥", "{,}": ",", "\\mathrm": " ", "\\rm": " ",
}  # fmt: skip
_REWRITTEN = re.compile(
    r"\^ ?(?:{ ?\\circ ?}|\\circ) ?|\\(?:text|mathrm|textrm|mbox|rm) ?{([^{}]*(?:{[^{}]*}[^{}]*)*)}"
    r"|\\mu(?![a-zA-Z]) ?|\\[a-zA-Z]+|\\[%$,;:! ]|\{,\}"
    "|[~µΩ⋅·−–％￥]"
)
_CURRENCIES = {"$": "dollars", "¥": "yuan", "€": "euros", "£": "GBP", "₹": "rupees", "₩": "KRW", "Rs": "rupees"}
_MONEY = re.compile(r"([+-]?) ?(?:US ?)?([$¥€£₹₩]|Rs(?=[. ])\.?) ?([+-]?)(?=[\d.])")
_RATE = re.compile(r"([^/]*?) ?(?:/|\bper\b) ?([a-z].*)")
_OF_A = re.compile(r" (?:of )?an? (?=[a-z])")
_INTRODUCTION = re.compile(
    r"(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:final |correct )?(?:answer|result|total)(?: is| are|:| =)+ ?"
    r"|there (?:are|is|were|was) |(?:it|they) (?:is|are) |(?:=|\\approx|≈|approximately|approx\.|about|exactly) ?",
    re.IGNORECASE,
)
NO_LABEL = re.compile(
    r"\b(?:not|less|more|fewer|greater|than|most|least|any|all|but|except|under|over|above|below|sin|cos|tan|log|ln"
    r"|half|twice|double|triple|square|root|sqrt|minus|plus|times|never|wrong)\b"
)
_LABEL = re.compile(r"\\?[A-Za-z][A-Za-z ]{0,40}(?:_\{?\w{1,10}\}?)? ?(?:=|:|\\approx|≈) ?(?=[^=≈:]*$)")


@dataclass(frozen=True, slots=True)
class Quantity:
    """An exact number with its unit (None for none); `decimals` counts the digits behind its decimal point."""

    value: Fraction
    unit: Unit | None = None
    decimals: int | None = None


def as_number(normalised: str) -> Fraction | None:
    r"""The exact value of a text that is one number and nothing else; None for any other text.

    Read are the literals of `numerals`, number words of `english` and `chinese`, and scale words behind them:
    `1,234`, `2\frac{1}{2}`, `0.\overline{3}`, "twenty-one", "5 million", 三分之一, 2.5亿. A percentage has a unit.
    """
    quantity = as_quantity(normalised)
    bare = quantity is not None and (quantity.unit is None or quantity.unit.noun == THING)
    return quantity.value if quantity and bare else None


@lru_cache(maxsize=256)  # a part may be compared with many others
def as_quantity(normalised: str) -> Quantity | None:
    """The number and the unit that make up the whole text; None for any other text.

    The vocabulary of `units` is closed. Other words may count things if they look like nouns; see `same_quantity`.
    """
    if not normalised or len(normalised) > MAX_LENGTH:
        return None
    if normalised.isascii() and normalised.isdigit():
        return Quantity(Fraction(normalised))
    text = _canonical(normalised)
    if money := _MONEY.match(text):
        return _money(money, text[money.end() :])
    if text[:1] == "负" and text[1:2] in tuple("0123456789$¥"):
        text = "-" + text[1:]
    if text.startswith(("百分之", "负百分之")):
        text = text.replace("百分之", "", 1) + "%"
    return _read(text)


def same_quantity(gold: Quantity, given: Quantity, *, tolerance: float | Fraction = 0) -> bool | None:
    """Whether two quantities are equal within `tolerance`, relative to the gold one; None if it can't be told.

    - Units of one dimension are converted exactly; other units differ, and so do different nouns.
    - A unit or a noun that only one of the two has is ignored, except a doubtful one (`2m`, "5 blorps"): None.
    - 50 % is 0.5. A gold 50 % may also be answered by 50, without its sign, if the number is above 1. A percent sign in
      the answer alone changes the value: 0.5 % isn't 0.5, and 50 % isn't 50.
    """
    left, right = gold.unit, given.unit
    if left is None or right is None:
        one = left or right
        if one and not one.dimension:
            return _same_share(gold, given, tolerance)
        return None if one and one.doubtful else _close(gold.value, given.value, tolerance)
    if left.dimension != right.dimension:
        return _close(gold.value, given.value, tolerance) if _alike(left, right) else _different(left, right)
    if left.size != right.size and left.doubtful and right.doubtful:
        return None
    return _close(gold.value * left.size, given.value * right.size, tolerance)


def uncounted(quantity: Quantity) -> Quantity:
    """The quantity without its noun, for questions whose answers are no products of variables."""
    return replace(quantity, unit=None) if quantity.unit and quantity.unit.noun else quantity


def check(gold: Any, row: Mapping[str, Any]) -> None:
    """Raise ValueError for a gold answer that isn't a number, with or without a unit."""
    if as_quantity(normalise(str(gold))) is None:
        raise ValueError(f"the gold answer {gold!r} isn't a number, with or without a unit")


def score(gold: Any, given: str, row: Mapping[str, Any]) -> float:
    """1 for the same quantity within the row's relative `tolerance` (1e-4 by default), else 0.

    See `unlabelled` for what may stand before the answer.
    """
    right, answer = as_quantity(normalise(str(gold))), as_quantity(unlabelled(normalise(given)))
    assert right is not None, "checked when the data was loaded"
    if answer is None:
        return 0.0
    if answer.unit is None or right.unit is None:
        right, answer = uncounted(right), uncounted(answer)
    tolerance = row.get("tolerance")
    return float(bool(same_quantity(right, answer, tolerance=1e-4 if tolerance is None else tolerance)))


def unlabelled(normalised: str) -> str:
    """The answer without one label ("x = 5", "area: 5 cm^2") and without introductions ("there are 5", "about 5")."""
    if len(normalised) > MAX_LENGTH:
        return normalised
    text = normalised
    for pattern in (_INTRODUCTION, _LABEL, _INTRODUCTION):
        if (match := pattern.match(text)) and not NO_LABEL.search(match[0]):
            text = text[match.end() :]
    return text


def _canonical(text: str) -> str:
    text = " ".join(_REWRITTEN.sub(_rewrite, text).split())
    text = chinese.unframed(text.replace("° C", "°C").replace("° F", "°F").replace(" sq. ", " sq "))
    text = text.removesuffix(" in total").removesuffix(" altogether").removesuffix(" in all")
    if text.count("$") == 2 and text[0] == text[-1] == "$":
        text = text[1:-1]
    return text if text.endswith("..") else text.removesuffix(".").strip()


def _rewrite(match: re.Match[str]) -> str:
    if match[1] is not None:
        return f" {_REWRITTEN.sub(_rewrite, match[1])} "
    return "°" if match[0].startswith("^") else _CANONICAL.get(match[0].rstrip() or " ", match[0])


def _read(text: str) -> Quantity | None:
    """The number at the start of a text, its scale words, and a unit that fills the rest."""
    start = _number(text)
    if start is None:
        return None
    value, decimals, end = start
    if end == len(text):
        return Quantity(value, None, decimals)
    if text.startswith(" and ", end) and (more := english.part(text[end:])) and value.denominator == 1 and value > 0:
        value, end = value + more[0], end + more[1]  # 2 and a half
    if value.denominator == 1 and (below := english.parts(text[end:], int(value)))[1]:
        value, end = value / below[0], end + below[1]
    scale = (english if text[end : end + 1].isascii() else chinese).scale(text[end:])
    if scale[1]:
        value, end, decimals = value * scale[0], end + scale[1], None
    if value.denominator > 1 and (words := _OF_A.match(text, end)):  # half an hour
        end = words.end() - 1
    rest = text[end:]
    if not rest.strip():
        return Quantity(value, None, decimals)
    attached = rest[0] != " " or text[0] == "\\" or text[1:2] == "\\"  # spaces mean nothing in `\frac12 mg`
    unit = read_unit(rest, attached=attached, one=abs(value) == 1)
    return None if unit is None else Quantity(value, unit if unit != NONE else None, decimals)


def _money(sign: re.Match[str], amount: str) -> Quantity | None:
    """The quantity behind a currency's sign: "5", "5 million", "5 USD", "5 per hour"."""
    if sign[1] and sign[3]:
        return None
    name = _CURRENCIES[sign[2].rstrip(".")]
    if rate := _RATE.fullmatch(amount):
        amount = f"{rate[1]} {name} per {rate[2]}"
    found = _read(sign[1] + sign[3] + amount)
    if found is None or found.unit is None:
        return found and replace(found, unit=UNITS[name])
    return found if rate or found.unit == UNITS[name] else None


def _number(text: str) -> tuple[Fraction, int | None, int] | None:
    """The number at the start of a text, its decimals, and where it ends."""
    if text[:1].isascii():
        if text[:1].isalpha():
            words = english.number_words(text)
            return (words[0], None, words[1]) if words else None
        if not text.isascii() and (mixed := chinese.with_digits(text)):
            return Fraction(mixed[0]), None, mixed[1]
        if text[:1] == "-" and (numeral := chinese.numeral(text[1:])):
            return -numeral[0], None, numeral[1] + 1
        digits = literal(text)
        return (digits.value, digits.decimals, digits.end) if digits else None
    numeral = chinese.numeral(text)
    return (numeral[0], None, numeral[1]) if numeral else None


def _same_share(gold: Quantity, given: Quantity, tolerance: float | Fraction) -> bool:
    left, right = (quantity.value * (quantity.unit or NONE).size for quantity in (gold, given))
    bare = gold.unit == PERCENT and abs(given.value) > 1 and _close(gold.value, given.value, tolerance)
    return bare or _close(left, right, tolerance)


def _alike(left: Unit, right: Unit) -> bool:
    """Whether two units are written alike (£ and pounds), or one noun is the other without its adjectives."""
    if left.noun and right.noun:
        if THING in (left.noun, right.noun):
            return True
        names = f" {left.noun}", f" {right.noun}"
        return not (left.doubtful or right.doubtful) and (names[0].endswith(names[1]) or names[1].endswith(names[0]))
    return {left, right} in NAMESAKES


def _different(left: Unit, right: Unit) -> bool | None:
    """False for units that differ; None for words that are the same product of letters, such as "2 abs" and "2 bas"."""
    if left.noun and right.noun:
        letters = sorted(left.noun), sorted(right.noun)
        return None if letters[0] == letters[1] and left.doubtful else False
    return None if left.doubtful and right.doubtful else False


def _close(gold: Fraction, given: Fraction, tolerance: float | Fraction) -> bool:
    return abs(gold - given) <= Fraction(tolerance) * abs(gold) if tolerance else gold == given
