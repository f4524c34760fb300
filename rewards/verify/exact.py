r"""Exact equality of expressions: an answer is given only where it is proven.

Both sides become quotients of polynomials in generators (see `polynomial.py`): variables, pi, e, i, radicals of
primes, and one opaque generator for anything else, such as `\sin 1` or `\sqrt{x+1}`. The difference of the cross
products proves equality if it has no terms, and inequality if it has terms in generators that are proven independent.

Conventions: expressions with variables are equal if they are where both are defined, as rational functions are (x/x is
1); variables are real, and their names are case-sensitive; further conventions are in `roots.py` and `powers.py`.
"""

from __future__ import annotations

from fractions import Fraction

from . import bounds
from .functions import canonical
from .quotient import Field
from .rational import Rational, Undecided, is_small, rational
from .tree import Expression, Number


def equal(left: Expression, right: Expression) -> bool | None:
    """True where equality is proven, False where a difference is proven, None otherwise; takes at most about 50 ms."""
    if isinstance(left, Number) and isinstance(right, Number):
        return left.value == right.value
    if not (is_small(left) and is_small(right)):
        return None
    known = _rational_or_none(left), _rational_or_none(right)
    if known[0] is not None and known[1] is not None:
        return known[0] == known[1]
    try:
        return _equal_quotients(left, right)
    except Undecided:
        return None


def _rational_or_none(expression: Expression) -> Rational | None:
    try:
        return rational(expression)
    except Undecided:
        return None


def _equal_quotients(left: Expression, right: Expression) -> bool | None:
    field = Field()
    first, second = canonical(field, left), canonical(field, right)
    difference = field.ring.multiply(first.top, second.bottom)
    negative = field.ring.multiply(second.top, first.bottom)
    difference = field.ring.add(difference, {monomial: -value for monomial, value in negative.items()})
    if difference and not field.is_independent(difference):
        return None
    zero = Number(Fraction(0))
    if not all(bounds.different(assumption, zero) for assumption in field.assumptions):
        return None
    return not difference
