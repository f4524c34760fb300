r"""Compares what has a fixed form and no value: angles, triangles, dates, numerals with a prefix, inverse functions."""

from __future__ import annotations

import re

_FIGURE = re.compile(r"\\(angle|triangle|overrightarrow|overline|widehat) ?{?([A-Z]{2,4})}?")
_DATE = re.compile(r"(\d{4})[-/](\d{1,2})[-/](\d{1,2})|(\d{1,2})/(\d{1,2})/(\d{4})|(\d{4})-(\d{4})", re.ASCII)
_CODED = re.compile(r"0[xX][0-9A-Fa-f]+|0[bB][01]+|0[oO][0-7]+")
_INVERSE = re.compile(r"(?<![A-Za-z])[fghFGH]\^{?-1}?\(")
_VECTOR = re.compile(r"\\vec(?![A-Za-z]).*(?:\\times|\*)|\\nabla|\\partial")
_DERIVATIVE = re.compile(r"\\frac ?{(?:d|\\Delta) ?[A-Za-z]+}")
_NEGATED = re.compile(r"\\not(?![A-Za-z])")
_APPLIED = re.compile(r"(?<![A-Za-z])(?:E|D|Var|O|T)\(")


def same_name(gold: str, answer: str) -> bool | None:
    r"""Whether two names mean the same; None if neither text is such a name.

    `\angle ABC` is `\angle CBA`, a triangle and a segment have their points in any order, and a ray hasn't. Products
    of vectors, derivatives, expected values and inverse functions are equal to the same text only.
    """
    figures = _FIGURE.fullmatch(gold), _FIGURE.fullmatch(answer)
    if figures[0] and figures[1]:
        return _same_figure(figures[0], figures[1])
    dates = _DATE.fullmatch(gold), _DATE.fullmatch(answer)
    if dates[0] or dates[1]:
        left, right = ([part and int(part) for part in date.groups()] if date else None for date in dates)
        return left == right
    numerals = _CODED.fullmatch(gold), _CODED.fullmatch(answer)
    if numerals[0] or numerals[1]:
        values = [int(numeral[0], 0) if numeral else None for numeral in numerals]
        return values[0] == values[1]
    fixed = (_INVERSE, _VECTOR, _DERIVATIVE, _APPLIED, _NEGATED)
    return False if any(pattern.search(text) for pattern in fixed for text in (gold, answer)) else None


def _same_figure(gold: re.Match[str], answer: re.Match[str]) -> bool:
    kind, points, others = gold[1], gold[2], answer[2]
    if kind != answer[1]:
        return False
    if kind == "triangle":
        return sorted(points) == sorted(others)
    return points == others or (kind != "overrightarrow" and points == others[::-1])
