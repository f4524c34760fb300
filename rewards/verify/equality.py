"""Equality of mathematical answers, by rules that decide only what is certain; sympy decides the rest (symbolic.py)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from functools import partial
from typing import Any

from . import chinese, choice, expressions
from .compound import SPACES, is_value, same_compound
from .labels import labelled
from .latex import WORDS, normalise
from .names import same_name
from .numerals import decimal_comma
from .quantity import as_number, as_quantity, same_quantity
from .reader import expression
from .structure import Matrix, Plain, Ratio, Relation, Several, Shape, read
from .tokens import has_words
from .tree import Call, Expression, Number, is_constant
from .unit_reader import unit
from .units import Unit

MAX_DEPTH = 8  # of structures within structures
_BASE = re.compile(r"([0-9A-Za-z]+)_{?(\d+)}?")
_DIGITS = re.compile(r"[0-9A-Fa-f]+")
_FRAME = re.compile(
    r"(?:(?:(?:so|thus|hence|therefore),? )?(?:(?:the )?(?:final )?(?:answer|result) (?:is|equals)|there (?:are|is))"
    r"|answer ?:|approximately|about|exactly|roughly|nearly|\\approx|≈)[: ]+",
    re.IGNORECASE,
)
_TIME = re.compile(r"(\d{1,2}:\d\d(?::\d\d)?) ?([ap])\.?m\.?", re.IGNORECASE)
_NEGATIVE = re.compile(r"^(?:negative|minus) (?=\d)", re.IGNORECASE)
_ASIDE = re.compile(r"(.*\S) \(([^()]*[A-Za-z\u4e00-\u9fff][^()]*)\)", re.DOTALL)
_ARTICLE = re.compile(r"(?:an?|the) (?=\w{3})")
_REALS = frozenset({"all real numbers", "all reals", "\\mathbb{R}", "\\mathbb R", "ℝ", "\\Reals"})
_NO_SOLUTION = frozenset(
    {"no solution", "no solutions", "no real solution", "no real solutions", "empty set", "无解", "没有解"}
)
_ORDERED = frozenset("TFHNSEWIVXLCDM")  # verdicts, coins, compass points, Roman numerals
_SHORT_WORDS = frozenset({"no", "up", "on", "in", "ok"})
_DECIMAL = re.compile(r"[+-]?\d*\.\d+", re.ASCII)
_INFINITIES = frozenset({"\\infty", "-\\infty"})


def quick_equal(gold: str, answer: str) -> bool | None:
    """True or False where equality or difference is certain, else None."""
    return _decide(prepared(gold), prepared(answer))


def prepared(text: str) -> str:
    """A normalised answer without an introduction; "no solution" is the empty set, and "all reals" an interval."""
    text = chinese.unframed(normalise(text))
    if frame := _FRAME.match(text):
        text = text[frame.end() :]
    if time := _TIME.fullmatch(text):
        return f"{time[1]} {time[2].lower()}m"
    text = _NEGATIVE.sub("-", text)
    if text.casefold() in _NO_SOLUTION:
        return "\\emptyset"
    if text in _REALS:
        return "(-\\infty,\\infty)"
    return text


def _decide(left: str, right: str, depth: int = 0) -> bool | None:
    """Whether two prepared texts, or two parts of them, are equal; `left` is the gold one."""
    if SPACES.sub("", left) == SPACES.sub("", right):
        return True
    if not right:
        return False
    if depth > MAX_DEPTH:
        return None
    verdict = _as_quantities(left, right)
    if verdict is not None:
        return verdict
    if (comma := _decimal_comma(left, right)) is not None:
        return comma
    if (verdict := same_name(left, right)) is not None:
        return verdict
    shapes = _shape(left), _shape(right)
    if letters := _letters(left, shapes[0]):
        return not _hedges(shapes[1]) and choice.letters(right.strip("[]"), {}) == letters
    if (aside := _ASIDE.fullmatch(right)) and _decide(left, aside[2], depth + 1) is True:
        return _decide(left, aside[1], depth + 1)  # 7 (seven)
    if isinstance(shapes[0], Plain) and isinstance(shapes[1], Plain):
        texts = shapes[0].text, shapes[1].text
        return _plain(*texts) if texts == (left, right) else _decide(*texts, depth + 1)  # (5) is 5
    return same_compound(left, right, shapes, partial(_decide, depth=depth + 1))


def _as_quantities(left: str, right: str) -> bool | None:
    """Compare two numbers, with or without units; None if a text is neither."""
    numbers = as_number(left), as_number(right)
    if numbers[0] is not None and numbers[1] is not None:
        return _same_number(numbers[0], numbers[1], left, right)
    quantities = as_quantity(left), as_quantity(right)
    return same_quantity(quantities[0], quantities[1]) if quantities[0] and quantities[1] else None


def _same_number(x: Fraction, y: Fraction, left: str, right: str) -> bool | None:
    if x == y or abs(x - y) * 10**4 > abs(x):
        return x == y
    trees = expression(left), expression(right)  # 0.333333 may stand for 1/3
    return expressions.compare(trees[0], trees[1]) if trees[0] and trees[1] else False


def _decimal_comma(gold: str, answer: str) -> bool | None:
    """Whether "1,5" is the gold decimal 1.5; the other way round, only `0,5` is certainly no list. None for others."""
    if _DECIMAL.fullmatch(answer) and gold.lstrip("+-").startswith("0,"):
        gold, answer = answer, gold
    if not _DECIMAL.fullmatch(gold) or (value := decimal_comma(answer)) is None:
        return None
    return value == as_number(gold)


def _shape(text: str) -> Shape:
    return Plain(text) if as_quantity(text) else read(text)  # commas may separate thousands


def _letters(text: str, shape: Shape) -> frozenset[str]:
    """The letters of a gold answer that consists of option letters from A to H; empty for any other."""
    items = shape.items if isinstance(shape, Several) and not shape.choice else (text,)
    return frozenset(items) if all(len(item) == 1 and "A" <= item <= "H" for item in items) else frozenset()


def _hedges(shape: Shape) -> bool:
    return isinstance(shape, Several) and shape.choice


def _plain(left: str, right: str) -> bool | None:
    """Compare two texts without structure: letters, words, numerals of a base, and expressions."""
    if (verdict := _same_in_base(left, right)) is not None:
        return verdict
    if len(left) == 2 and set(left + right) <= _ORDERED:
        return False  # TF isn't FT, IX isn't XI
    if len(left) > 2 and WORDS.fullmatch(left) and WORDS.fullmatch(right):  # as products, cat would be act
        return _ARTICLE.sub("", left.casefold()) == _ARTICLE.sub("", right.casefold())
    if left.casefold() in _SHORT_WORDS or right.casefold() in _SHORT_WORDS:
        return left.casefold() == right.casefold()
    if len(left) > 2 and WORDS.fullmatch(left) and set("eiou") & set(left):
        return False
    gold, given = _measured(left), _measured(right)
    if gold and given:
        return _same_measure(*gold, *given)
    if chinese.is_chinese(left) or (gold is not None and (has_words(right) or chinese.is_chinese(right))):
        return False  # words that nothing reads could say anything
    if left in _INFINITIES or right in _INFINITIES:
        return left == right.removeprefix("+") or left.removeprefix("+") == right
    return None


def _measured(text: str) -> tuple[Expression, Unit | None] | None:
    r"""An expression with its unit, as in `2\sqrt{3} cm`; a single letter is a unit behind a constant only."""
    degrees = "^\\circ" in text  # an angle compares with radians
    if not degrees and (number := as_quantity(text)) and not (number.unit and number.unit.doubtful):
        return Number(number.value, number.decimals), number.unit
    for space in [match.start() for match in re.finditer(" ", text)][-4:]:
        found, tree = unit(text[space:], attached=False, one=False), expression(text[:space])
        if found and not found.doubtful and tree and (len(text) > space + 2 or is_constant(tree)):
            return tree, found
    tree = expression(text)
    return None if tree is None else (tree, None)


def _same_measure(gold: Expression, gold_unit: Unit | None, given: Expression, given_unit: Unit | None) -> bool | None:
    """Compare expressions with units; a unit that only one has is ignored."""
    if any(one and not one.dimension for one in (gold_unit, given_unit)):  # percent
        gold, given = _scaled(gold, gold_unit), _scaled(given, given_unit)
    elif gold_unit and given_unit:
        if gold_unit.dimension != given_unit.dimension:
            return False
        gold, given = _scaled(gold, gold_unit), _scaled(given, given_unit)
    verdict = expressions.compare(gold, given)
    if verdict is False and not is_constant(gold) and (gold_unit or given_unit):
        return None  # `2\\pi hr` isn't in hours
    return verdict


def _scaled(tree: Expression, size: Unit | None) -> Expression:
    return Call("*", (Number(size.size), tree)) if size else tree


def _same_in_base(left: str, right: str) -> bool | None:
    """Compare numerals with a subscript that names their base; a numeral without one has base 10."""
    found = [_BASE.fullmatch(text) for text in (left, right)]
    numerals = [
        (match[1], match[2]) if match else (text, "10") for match, text in zip(found, (left, right), strict=True)
    ]
    if not any(found) or not all(_DIGITS.fullmatch(digits) for digits, _ in numerals):
        return None
    return numerals[0] == numerals[1]


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
    """Whether the rules here read a gold answer whole; otherwise sympy must read it."""
    return _readable(prepared(gold))


def _readable(text: str) -> bool:
    shape = read(text)
    if isinstance(shape, Plain):
        words = WORDS.fullmatch(text) or chinese.is_chinese(text) or text in _INFINITIES
        return bool(words) or is_value(shape) or same_name(text, text) is not None
    if isinstance(shape, Relation):
        found = labelled(shape)
        return bool(found and found.label) and _readable(found.value if found else "")
    parts = shape.terms if isinstance(shape, Ratio) else getattr(shape, "items", ())
    if isinstance(shape, Matrix):
        parts = tuple(cell for row in shape.rows for cell in row)
    return all(_readable(part) for part in parts)


def score(gold: Any, given: str, row: Mapping[str, Any]) -> float | None:
    """1 or 0, or None where sympy must decide."""
    verdict = quick_equal(str(gold), given)
    return None if verdict is None else float(verdict)
