"""Absolute values and whole parts in canonical form: of constants, by certified bounds of their values."""

from __future__ import annotations

from fractions import Fraction

from . import intervals
from .enclosure import Enclosure
from .intervals import Interval
from .polynomial import IMAGINARY, ONE, Polynomial, constant, content, scaled, sign
from .quotient import Field, Quotient
from .rational import Undecided, absolute, plain
from .roots import root
from .tree import Call, Expression

PRECISIONS = (53, 200)  # bits


def absolute_value(field: Field, value: Quotient, argument: Expression) -> Quotient:
    """|c u| = c |u| = c |-u| for c > 0; the sign of a real constant, and |a + bi|, are known."""
    if not value.top:
        return value
    if value.bottom == ONE and len(value.top) > 1 and field.kinds(value.top) <= {"i", "prime", "pi", "e"}:
        real = {monomial: number for monomial, number in value.top.items() if (IMAGINARY, 1) not in monomial}
        if len(real) < len(value.top):
            return _modulus(field, value.top, real)
    for precision in PRECISIONS:
        enclosed = _enclosed(field, argument, precision)
        if enclosed and intervals.sign(enclosed):
            return value if intervals.sign(enclosed) > 0 else field.negative(value)
    factor = content(value.top) * sign(value.top)
    outside, kept = constant(absolute(factor)), scaled(value.top, plain(1 / Fraction(factor)))
    if len(kept) == 1:
        ((monomial, _),) = kept.items()
        unsigned = [item for item in monomial if field.is_positive(item[0]) or item[0] == IMAGINARY]
        outside = {tuple(item for item in unsigned if item[0] != IMAGINARY): absolute(factor)}
        kept = {tuple(item for item in monomial if item not in unsigned): 1}
        if kept == ONE and value.bottom == ONE:
            return Quotient(outside, ONE)
    opaque = field.generator(("abs", field.key(Quotient(kept, value.bottom))))
    return field.multiply(Quotient(outside, ONE), opaque)


def _modulus(field: Field, value: Polynomial, real: Polynomial) -> Quotient:
    """The root of a^2 + b^2."""
    imaginary = {monomial: number for monomial, number in value.items() if monomial not in real}
    squares = field.ring.add(field.ring.power(real, 2), scaled(field.ring.power(imaginary, 2), -1))
    return root(field, Quotient(squares, ONE), 2)


def certain_floor(field: Field, call: Call) -> int | None:
    """The floor or ceiling of a constant; None where the bounds of the constant hold a whole number."""
    for precision in PRECISIONS:
        enclosed = _enclosed(field, call, precision)
        if enclosed and enclosed[0] == enclosed[1]:
            return int(intervals.as_fractions(enclosed)[0])
    return None


def _enclosed(field: Field, expression: Expression, precision: int) -> Interval | None:
    """The interval of a constant; None where it isn't a real constant."""
    try:
        return Enclosure(field.arithmetic, precision).interval(expression)
    except Undecided:
        return None
