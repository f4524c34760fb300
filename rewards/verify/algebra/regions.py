"""Subsets of the real line: intervals, points, their unions, intersections and differences, and inequalities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import mpmath
import sympy

from .evaluation import DIGITS, Undecided, number

_CLOSE = mpmath.mpf(10) ** (-DIGITS // 2)  # endpoints within this relative distance are one


@dataclass(frozen=True, slots=True)
class Region:
    """A set of real numbers that is constant between its finite `edges`; `contains` tells membership."""

    edges: tuple[Any, ...]
    contains: Callable[[Any], bool]

    def same(self, other: Region) -> bool:
        """Whether two regions have the same elements."""
        edges = sorted((*self.edges, *other.edges))
        with mpmath.workdps(DIGITS):
            between = [(left + right) / 2 for left, right in pairwise(edges) if not close(left, right)]
        beyond = [edges[0] - 1 - abs(edges[0]), edges[-1] + 1 + abs(edges[-1])] if edges else [mpmath.mpf(0)]
        return all(self.contains(point) == other.contains(point) for point in [*edges, *between, *beyond])

    def union(self, other: Region) -> Region:
        """The numbers in either."""
        return Region(self.edges + other.edges, lambda x: self.contains(x) or other.contains(x))

    def intersection(self, other: Region) -> Region:
        """The numbers in both."""
        return Region(self.edges + other.edges, lambda x: self.contains(x) and other.contains(x))

    def complement(self) -> Region:
        """The other real numbers."""
        return Region(self.edges, lambda x: not self.contains(x))


REALS = Region((), lambda x: True)
NOTHING = Region((), lambda x: False)


def close(left: Any, right: Any) -> bool:
    """Whether two numbers are one endpoint."""
    return bool(abs(left - right) <= _CLOSE * max(1, abs(left)))


def ray(edge: Any, sign: str) -> Region:
    """The numbers x for which `x sign edge` holds; the sign is <, <=, >, >=, = or !=."""
    if mpmath.isinf(edge):
        holds = sign == "!=" or (edge > 0 and sign in ("<", "<=")) or (edge < 0 and sign in (">", ">="))
        return REALS if holds else NOTHING

    def contains(x: Any) -> bool:
        if close(x, edge):
            return sign in ("<=", ">=", "=")
        return sign == "!=" or (sign in ("<", "<=") and x < edge) or (sign in (">", ">=") and x > edge)

    return Region((edge,), contains)


def interval(left: Any, right: Any, kind: str) -> Region:
    """The numbers between two expressions; `kind` is a pair of brackets. Undecided if they aren't in order."""
    low, high = number(left), number(right)
    if not low < high and not (kind == "[]" and low == high):
        raise Undecided
    return ray(low, ">=" if kind[0] == "[" else ">").intersection(ray(high, "<=" if kind[1] == "]" else "<"))


def solutions(left: Any, sign: str, right: Any) -> Region:
    """The real numbers for which a relation of expressions with one variable holds; Undecided if sympy can't tell."""
    symbols = (left - right).free_symbols
    if len(symbols) != 1:
        raise Undecided
    (symbol,) = symbols
    for subject, side, mirrored in ((left, right, sign), (right, left, sign.translate(str.maketrans("<>", "><")))):
        if side.free_symbols:
            continue
        if subject == symbol:
            return ray(number(side), mirrored)
        if isinstance(subject, sympy.Abs) and subject.args[0] == symbol:
            return _of_magnitude(ray(number(side), mirrored))
    real = sympy.Symbol(symbol.name, real=True)
    relation = sympy.Rel((left - right).subs(symbol, real), 0, {"=": "==", "!=": "!="}.get(sign, sign))
    try:
        return _from_sympy(relation.as_set())
    except (NotImplementedError, ValueError, TypeError, AttributeError):
        raise Undecided from None


def _of_magnitude(region: Region) -> Region:
    """The numbers whose absolute values are in a region."""
    return Region((*region.edges, *(-edge for edge in region.edges), mpmath.mpf(0)), lambda x: region.contains(abs(x)))


def _from_sympy(found: Any) -> Region:
    match found:
        case sympy.Interval():
            left = ray(number(found.start), ">" if found.left_open else ">=")
            return left.intersection(ray(number(found.end), "<" if found.right_open else "<="))
        case sympy.FiniteSet() | sympy.Union():
            total = NOTHING
            for part in found.args:
                total = total.union(_from_sympy(part) if isinstance(part, sympy.Set) else ray(number(part), "="))
            return total
        case sympy.S.EmptySet:
            return NOTHING
        case sympy.S.Reals:
            return REALS
    raise Undecided
