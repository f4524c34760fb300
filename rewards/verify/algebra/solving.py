"""Intervals, sets and inequalities as sets of real numbers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import sympy

from . import regions
from .evaluation import Undecided, number
from .forms import Chain, Combined, Label, Named, Parts, Value
from .labelled import Labelled, Resolved, as_value
from .translation import Unreadable

ORDERED = frozenset(["<", ">", "<=", ">="])


def same_region(gold: Resolved, given: Resolved) -> bool:
    """Whether two forms are the same set of real numbers; False if one is none."""
    names = [found for form in (gold, given) if (found := _names(form))]
    if any(len(found) > 1 or found != names[0] for found in names):
        return False
    try:
        left, right = region(gold), region(given)
    except (Undecided, Unreadable):
        return False
    return left.same(right)


def _names(form: Resolved) -> set[str]:
    """The unknowns of inequalities."""
    if isinstance(form, Chain):
        return {term.text for term in form.terms if isinstance(term, Label)}
    if isinstance(form, Labelled):
        return {form.labels[0]}
    return set().union(*map(_names, form.items)) if isinstance(form, Parts) else set()


def region(form: Resolved) -> regions.Region:
    """The set of real numbers that an interval, a set, a combination of these, or an inequality stands for.

    Raises:
        Undecided: if the form is something else.
    """
    match form:
        case Named("R"):
            return regions.REALS
        case Named("empty"):
            return regions.NOTHING
        case Labelled():
            return region(form.value)
        case Combined():
            total = region(form.items[0])
            for operator, item in zip(form.operators, form.items[1:], strict=True):
                other = region(item)
                if operator == "\\cup":
                    total = total.union(other)
                else:
                    total = total.intersection(other if operator == "\\cap" else other.complement())
            return total
        case Parts(kind, (Value() as low, Value() as high)) if kind in ("()", "[]", "(]", "[)"):
            return regions.interval(low.expression, high.expression, kind)
        case Parts("{}", items):
            return _joined([_point(item) for item in items], union=True)
        case Parts(kind, items) if all(isinstance(item, Chain) for item in items):
            found = [region(item) for item in items]
            return _joined(found, union=kind == "or")
        case Chain():
            return _inequality(form)
    raise Undecided


def _point(item: Resolved) -> regions.Region:
    if not isinstance(item, Value):
        raise Undecided
    return regions.ray(number(item.expression), "=")


def _joined(found: list[regions.Region], *, union: bool) -> regions.Region:
    total, *rest = found
    for other in rest:
        total = total.union(other) if union else total.intersection(other)
    return total


def _inequality(chain: Chain) -> regions.Region:
    r"""The solutions of inequalities in one variable, or in one name such as f(x)."""
    if not set(chain.signs) <= {*ORDERED, "!="}:
        raise Undecided
    names = {term.text for term in chain.terms if isinstance(term, Label)}
    if len(names) == 1:
        sides = [
            sympy.Symbol("x") if isinstance(term, Label) else term.expression
            for term in chain.terms
            if isinstance(term, Label | Value)
        ]
    else:
        sides = expressions_of(chain)
    if len(sides) != len(chain.terms) or len(set().union(*(side.free_symbols for side in sides))) != 1:
        raise Undecided
    found = [
        regions.solutions(left, sign, right)
        for (left, right), sign in zip(pairwise(sides), chain.signs, strict=True)
        if left.free_symbols | right.free_symbols
    ]
    return _joined(found, union=False)


def expressions_of(chain: Chain) -> list[Any]:
    """The expressions of a chain's terms; empty if one of them is something else."""
    try:
        values = [as_value(term) for term in chain.terms]
    except Unreadable:
        return []
    return (
        [value.expression for value in values if isinstance(value, Value)]
        if all(isinstance(value, Value) for value in values)
        else []
    )
