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
from .polynomial import ONE
from .quotient import Field
from .rational import Arithmetic, Meter, Undecided, is_small
from .tree import Expression, Number


def equal(left: Expression, right: Expression) -> bool | None:
    """True where equality is proven, False where a difference is proven, None otherwise; takes at most about 50 ms."""
    if isinstance(left, Number) and isinstance(right, Number):
        return left.value == right.value
    if not (is_small(left) and is_small(right)):
        return None
    arithmetic = Arithmetic(Meter())
    try:
        known = arithmetic.rational(left), arithmetic.rational(right)
        if known[0] is not None and known[1] is not None:
            return known[0] == known[1]
        return _equal_quotients(Field(arithmetic), left, right)
    except Undecided:
        return None


def is_constant(expression: Expression) -> bool | None:
    """True where the value is proven not to depend on the variables, False where it is proven to, None otherwise."""
    if not is_small(expression):
        return None
    field = Field(Arithmetic(Meter()))
    try:
        value = canonical(field, expression)
        if field.units_changed:
            value = canonical(field, expression)
    except Undecided:
        return None
    if field.is_constant(value):
        return True
    return False if value.bottom == ONE and field.is_independent(value.top) else None


def _equal_quotients(field: Field, left: Expression, right: Expression) -> bool | None:
    first, second = canonical(field, left), canonical(field, right)
    if field.units_changed:
        first, second = canonical(field, left), canonical(field, right)
    difference = field.ring.multiply(first.top, second.bottom)
    negative = field.ring.multiply(second.top, first.bottom)
    difference = field.ring.add(difference, {monomial: -value for monomial, value in negative.items()})
    if difference and not field.is_independent(difference):
        return None
    zero = Number(Fraction(0))
    meter = field.arithmetic.meter
    if not all(bounds.certainly_different(assumption, zero, meter) for assumption in field.assumptions):
        return None
    return not difference
