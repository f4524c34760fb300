"""Intervals of real numbers that certainly hold a value: mpmath's numbers as ends, rounded outwards.

mpmath rounds sums, products, quotients and square roots correctly. Its other functions aren't proven to: they are asked
for GUARD_BITS more than needed, and their values are widened by far more than their errors. An end may be infinite.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

from mpmath import libmp

from .rational import MAX_BITS, Rational, Undecided

End = Any  # mpmath's (sign, mantissa, exponent, bits)
Interval = tuple[End, End]

GUARD_BITS = 30
MAX_EXPONENT_BITS = 1_000  # larger numbers are only known to be larger than _LARGE
_LARGE = (0, libmp.MPZ(1), 1 << (MAX_EXPONENT_BITS - 1), 1)  # 2^(2^999)
_SMALL = (0, libmp.MPZ(1), -(1 << (MAX_EXPONENT_BITS - 1)), 1)
ZERO: Interval = (libmp.fzero, libmp.fzero)
ONE: Interval = (libmp.fone, libmp.fone)


def from_rational(value: Rational, precision: int) -> Interval:
    """The interval around a rational number."""
    above, below = libmp.from_int(value.numerator), libmp.from_int(value.denominator)
    return libmp.mpf_div(above, below, precision, "f"), libmp.mpf_div(above, below, precision, "c")


def sign(value: Interval) -> int:
    """1 or -1 where the whole interval is positive or negative, 0 otherwise."""
    return 1 if _positive(value[0]) else (-1 if _positive(libmp.mpf_neg(value[1])) else 0)


def _positive(end: End) -> bool:
    return bool(libmp.mpf_sign(end) > 0)


def disjoint(left: Interval, right: Interval) -> bool:
    """Whether two intervals have no common number."""
    return bool(libmp.mpf_lt(left[1], right[0]) or libmp.mpf_lt(right[1], left[0]))


def is_extreme(value: Interval) -> bool:
    """Whether an end of positive numbers is beyond the range of intervals."""
    return bool(value[1] == libmp.finf or (value[0] == libmp.fzero and value[1] == _SMALL))


def bounded(value: Interval) -> Interval:
    """The interval with ends beyond about 2^(2^1000) made infinite, and those below its inverse made zero."""
    low, high = value
    if libmp.fnan in (low, high):
        raise Undecided
    return _low(low), libmp.mpf_neg(_low(libmp.mpf_neg(high)))


def _low(end: End) -> End:
    """A lower bound of moderate exponent for a lower end."""
    sign, mantissa, exponent, size = end
    if not mantissa or abs(exponent + size).bit_length() <= MAX_EXPONENT_BITS:
        return end
    if exponent > 0:
        return libmp.fninf if sign else _LARGE
    return libmp.mpf_neg(_SMALL) if sign else libmp.fzero


def add(left: Interval, right: Interval, precision: int) -> Interval:
    """left + right."""
    return bounded(libmp.mpi_add(left, right, precision))


def multiply(left: Interval, right: Interval, precision: int) -> Interval:
    """left x right."""
    return bounded(libmp.mpi_mul(left, right, precision))


def divide(left: Interval, right: Interval, precision: int) -> Interval:
    """left / right; raises Undecided where the divisor may be zero."""
    if not sign(right):
        raise Undecided
    return bounded(libmp.mpi_div(left, right, precision))


def negative(value: Interval) -> Interval:
    """-value."""
    return libmp.mpf_neg(value[1]), libmp.mpf_neg(value[0])


def with_zero(value: Interval) -> Interval:
    """The interval from zero to a value."""
    return (libmp.fzero, value[1]) if sign(value) > 0 else (value[0], libmp.fzero)


def whole_bits(value: Interval) -> int:
    """An upper bound of the bits before the binary point, within the limit of exponents."""
    if libmp.finf in value or libmp.fninf in value:
        return MAX_EXPONENT_BITS
    return max(0, min(MAX_EXPONENT_BITS, max(end[2] + end[3] for end in value))) + GUARD_BITS // 3


def absolute(value: Interval) -> Interval:
    """|value|."""
    if sign(value) > 0:
        return value
    if sign(value) < 0:
        return negative(value)
    return libmp.fzero, _larger(libmp.mpf_neg(value[0]), value[1])


def _larger(left: End, right: End) -> End:
    return right if libmp.mpf_lt(left, right) else left


def whole_power(base: Interval, exponent: int, precision: int) -> Interval:
    """base^exponent for exponent >= 0, by repeated squaring."""
    if not exponent % 2:
        base = absolute(base)
    elif libmp.mpf_sign(base[0]) < 0 < libmp.mpf_sign(base[1]):  # odd powers grow with their base
        low = whole_power((libmp.fzero, libmp.mpf_neg(base[0])), exponent, precision)[1]
        return libmp.mpf_neg(low), whole_power((libmp.fzero, base[1]), exponent, precision)[1]
    result = ONE
    for digit in bin(exponent)[2:]:
        result = multiply(result, result, precision)
        if digit == "1":
            result = multiply(result, base, precision)
    return result


def square_root(value: Interval, precision: int) -> Interval:
    """The square root; raises Undecided where the radicand may be negative."""
    if libmp.mpf_sign(value[0]) < 0:
        raise Undecided
    return bounded(libmp.mpi_sqrt(value, precision))


def widened(end: End, function: Callable[..., End], precision: int) -> Interval:
    """An interval that holds function(end), for one of mpmath's functions of relative error below 2^(-precision)."""
    value = function(end, precision + GUARD_BITS)
    error = libmp.mpf_shift(libmp.mpf_abs(value), -precision - GUARD_BITS // 3)
    precision += GUARD_BITS
    return libmp.mpf_sub(value, error, precision, "f"), libmp.mpf_add(value, error, precision, "c")


def _growing(value: Interval, function: Callable[..., End], precision: int) -> Interval:
    """The interval of an increasing function."""
    return widened(value[0], function, precision)[0], widened(value[1], function, precision)[1]


def exponential(value: Interval, precision: int) -> Interval:
    """e^value."""
    low, high = value
    return _exponential_end(low, precision)[0], _exponential_end(high, precision)[1]


def _exponential_end(end: End, precision: int) -> Interval:
    if end == libmp.fninf or end == libmp.finf or end[2] + end[3] >= MAX_EXPONENT_BITS:
        below_one = end == libmp.fninf or end[0]
        return (libmp.fzero, _SMALL) if below_one else (_LARGE, libmp.finf)
    if end[2] + end[3] < GUARD_BITS:
        return widened(end, libmp.mpf_exp, precision)
    wide = precision + end[2] + end[3] + GUARD_BITS  # 2^n e^(end - n ln 2), since mpmath is slow for large integers
    logarithm = widened(libmp.fone, lambda _, bits: libmp.mpf_ln2(bits), wide)
    exponent = libmp.to_int(libmp.mpf_div(end, logarithm[0], wide, "n"))
    rest = libmp.mpi_sub((end, end), libmp.mpi_mul(logarithm, from_rational(exponent, wide), wide), wide)
    low, high = _growing(rest, libmp.mpf_exp, precision)
    return bounded((libmp.mpf_shift(low, exponent), libmp.mpf_shift(high, exponent)))


def logarithm(value: Interval, precision: int) -> Interval:
    """The natural logarithm; raises Undecided where the argument may be zero or negative."""
    if sign(value) < 1:
        raise Undecided
    high = libmp.finf if value[1] == libmp.finf else widened(value[1], libmp.mpf_log, precision)[1]
    return widened(value[0], libmp.mpf_log, precision)[0], high


def arctangent(value: Interval, precision: int) -> Interval:
    """The angle in (-pi/2, pi/2)."""
    return _growing(value, libmp.mpf_atan, precision)


def arccosine(value: Interval, precision: int) -> Interval:
    """The angle in [0, pi]; raises Undecided where the argument may be outside [-1, 1]."""
    if libmp.mpf_lt(value[0], libmp.fnone) or libmp.mpf_lt(libmp.fone, value[1]):
        raise Undecided
    return widened(value[1], libmp.mpf_acos, precision)[0], widened(value[0], libmp.mpf_acos, precision)[1]


def cosine_and_sine(value: Interval, precision: int) -> tuple[Interval, Interval]:
    """The cosine and the sine: those of the middle, widened by half the interval, since their slopes are at most 1."""
    unit = libmp.fnone, libmp.fone
    if libmp.finf in value or libmp.fninf in value or max(end[2] + end[3] for end in value) > MAX_EXPONENT_BITS:
        return unit, unit
    precision += whole_bits(value)
    middle = libmp.mpf_shift(libmp.mpf_add(*value, precision, "n"), -1)
    radius = _larger(
        libmp.mpf_sub(value[1], middle, precision, "c"),
        libmp.mpf_sub(middle, value[0], precision, "c"),
    )
    absolute_error = libmp.mpf_shift(libmp.fone, -precision)  # a small cosine has a larger relative error
    radius = libmp.mpf_add(radius, absolute_error, precision, "c")
    return (
        _around(widened(middle, libmp.mpf_cos, precision), radius, precision),
        _around(widened(middle, libmp.mpf_sin, precision), radius, precision),
    )


def _around(value: Interval, radius: End, precision: int) -> Interval:
    """The interval widened by a radius, within [-1, 1]."""
    low = libmp.mpf_sub(value[0], radius, precision, "f")
    high = libmp.mpf_add(value[1], radius, precision, "c")
    return _larger(low, libmp.fnone), libmp.mpf_neg(_larger(libmp.mpf_neg(high), libmp.fnone))


def pi(precision: int) -> Interval:
    """The interval around pi."""
    return widened(libmp.fone, lambda _, bits: libmp.mpf_pi(bits), precision)


def floor(value: Interval) -> Interval:
    """The interval of the largest whole numbers that aren't above."""
    if libmp.finf in value or libmp.fninf in value:
        raise Undecided
    return libmp.mpf_floor(value[0]), libmp.mpf_floor(value[1])


def as_fractions(value: Interval) -> tuple[Fraction, Fraction]:
    """The ends as exact numbers; raises Undecided where they are very large or small."""
    if libmp.finf in value or libmp.fninf in value or max(abs(end[2]) for end in value) > MAX_BITS:
        raise Undecided
    low, high = (Fraction(int(end[1]) * (-1) ** end[0]) * Fraction(2) ** end[2] for end in value)
    return low, high
