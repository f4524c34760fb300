r"""Exact equality of expressions: an answer is given only where it is proven.

Both sides become quotients of polynomials in generators (see `polynomial.py`): variables, pi, e, i, radicals of
primes, and one opaque generator for anything else, such as `\sin 1` or `\sqrt{x+1}`. The difference of the cross
products proves equality if it has no terms, and inequality if it has terms in generators that are proven independent.

Conventions: expressions with variables are equal if they are where both are defined, as rational functions are (x/x is
1, \sqrt{x}\sqrt{y} is \sqrt{xy}); variables are real, and their names are case-sensitive; further conventions are in
`roots.py` and `powers.py`.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import product

from . import bounds
from .functions import canonical
from .polynomial import ONE
from .quotient import Field
from .rational import Arithmetic, Meter, Undecided, is_small
from .tree import CONSTANTS, Expression, Number

MAX_VARIABLES = 3  # of which all signs are tried


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
        has_branches = field.kinds(difference) & {"root", "abs", "ln"}
        return _equal_by_signs(field, left, right) if has_branches and field.signs is None else None
    zero = Number(Fraction(0))
    meter = field.arithmetic.meter
    if not all(bounds.certainly_different(assumption, zero, meter) for assumption in field.assumptions):
        return None
    return not difference


def _equal_by_signs(field: Field, left: Expression, right: Expression) -> bool | None:
    r"""True where both sides are equal for each choice of signs of the variables for which both are real.

    With x = -y for a positive y, the form of \sqrt{x^2} is y and that of |x| is y. Where there are bars, as in \ln |x|,
    negative arguments of logarithms count too, so that \ln x isn't the same.
    """
    has_bars = bounds.contains(left, "abs") or bounds.contains(right, "abs")
    variables = sorted({*bounds.symbols(left), *bounds.symbols(right)} - CONSTANTS)
    if not field.is_real or not 1 <= len(variables) <= MAX_VARIABLES:
        return None
    verdicts = []
    for signs in product((1, -1), repeat=len(variables)):
        orthant = Field(field.arithmetic, dict(zip(variables, signs, strict=True)))
        verdict = _equal_quotients(orthant, left, right)
        if orthant.is_real and (has_bars or not orthant.has_negative_logarithm):
            verdicts.append(verdict)
    return True if verdicts and all(verdicts) else None
