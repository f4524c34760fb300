"""Equality of the answers that no quick rule decides: math-verify's parser reads them, and values decide."""

from __future__ import annotations

import re

from .algebra.agreement import Agreement
from .algebra.forms import Form, read
from .algebra.labelled import FalseLink
from .algebra.notation import prepared, without_unit
from .algebra.translation import Unreadable
from .latex import WORDS

_WARM_UP = (
    r"\frac{-1+\sqrt{x^2+1}}{2}", r"x^{-1}(n+1)+\sqrt[3]{2}", r"\sin^2 x\cos 2x+\log_{2}8", r"\binom{4}{2}\pi e^{2x}",
    r"\begin{pmatrix}1&2\\3&-4\end{pmatrix}", r"|x-1|", r"f(x)+2(3)", r"x_{n+1}!", r"\ln x",
)  # fmt: skip
_SPACES = re.compile(r"(?<!\d) | (?!\d)")  # the space in `1 2` matters
_POINT, _COMMA = re.compile(r"[+-]?\d*\.\d+", re.ASCII), re.compile(r"[+-]?\d+,\d+", re.ASCII)


class SymbolicEquality:
    """Whether two answers are equal; use it in a killable process, as sympy can take for ever.

    math-verify's parser, with some readings mended, makes sympy objects of the expressions in both answers. They are
    equal if they have the same kind and structure, and the same values at random points to 60 digits; math-verify
    itself decides infinite sums, limits and integrals without such values. What can't be read is equal only to the same
    text.
    """

    def __init__(self) -> None:
        for text in _WARM_UP:  # the parser caches its decisions: these must not count towards an item's time limit
            self(text, text + "+0")

    def __call__(self, gold: str, answer: str | None) -> bool:
        """Whether two answers are equal; with no answer, whether the gold one parses as mathematics."""
        if answer is None:
            return _form(prepared(without_unit(gold)[0]).replace("\\ldots", "x")) is not None
        (gold, unit), (answer, other) = without_unit(gold), without_unit(answer)
        left, right = _decimal_comma(prepared(gold), prepared(answer))
        if (unit or other) and (left.endswith(("%", "\\circ")) or right.endswith(("%", "\\circ"))):
            return False
        if unit and other and (unit.size, unit.dimension) != (other.size, other.dimension):
            return False
        if _SPACES.sub("", left) == _SPACES.sub("", right):
            return True
        if WORDS.fullmatch(left) and len(left) > 1:  # as products of letters, "cat" and "act" would be equal
            return left.casefold() == right.casefold()
        expected, given = _form(left), _form(right)
        if expected is None or given is None:
            return False
        try:
            return Agreement(f"{left}={right}").same(expected, given)
        except (FalseLink, Unreadable):
            return False


def _decimal_comma(gold: str, answer: str) -> tuple[str, str]:
    """Both texts with points, if one has a point and the other a comma; of gold answers, only `0,5` is no list."""
    if _POINT.fullmatch(gold) and _COMMA.fullmatch(answer):
        return gold, answer.replace(",", ".")
    if _POINT.fullmatch(answer) and _COMMA.fullmatch(gold) and gold.lstrip("+-").startswith("0,"):
        return gold.replace(",", "."), answer
    return gold, answer


def _form(text: str) -> Form | None:
    try:
        return read(text)
    except Unreadable:
        return None
