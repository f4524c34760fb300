r"""Arithmetic with numbers of any magnitude: floats, or the sign and log10 of numbers beyond floats."""

from __future__ import annotations

import math
from dataclasses import dataclass

HUGE = 300.0  # log10 above which a float would overflow
EQUAL, DIFFERENT = 1e-9, 1e-6  # relative differences; between the two, only exact arithmetic can tell


@dataclass(frozen=True, slots=True)
class Huge:
    """A number beyond floats, as its sign and log10; log10 is infinite if it is beyond floats, too."""

    sign: int
    log10: float


Value = float | Huge


class NotConstant(Exception):  # noqa: N818 — control flow, not an error
    """The text isn't a constant expression, or floats can't represent its value safely."""


def compare(left: Value, right: Value) -> bool | None:
    """Whether two values are equal; None if floats can't tell."""
    if isinstance(left, Huge) and isinstance(right, Huge):
        if left.sign != right.sign:
            return False
        if math.isinf(left.log10) or math.isinf(right.log10):
            return None if left.log10 == right.log10 else False
        return None if abs(left.log10 - right.log10) <= EQUAL * max(left.log10, right.log10) else False
    if isinstance(left, Huge) or isinstance(right, Huge):
        return False
    gap, size = abs(left - right), max(abs(left), abs(right))
    return True if gap <= EQUAL * size else (None if gap <= DIFFERENT * size else False)


def number(text: str) -> Value:
    """The value of a decimal literal."""
    value = float(text)
    return Huge(1, len(text.partition(".")[0])) if math.isinf(value) else value


def _log10(value: Value) -> float:
    return value.log10 if isinstance(value, Huge) else math.log10(abs(value))


def _sign(value: Value) -> int:
    return value.sign if isinstance(value, Huge) else (value > 0) - (value < 0)


def _from_log(sign: int, log10: float) -> Value:
    if math.isnan(log10) or log10 < -HUGE:
        raise NotConstant
    return sign * 10.0**log10 if log10 < HUGE else Huge(sign, log10)


def add(left: Value, right: Value) -> Value:
    """left + right; raises NotConstant if the result would be rounding error only."""
    if isinstance(left, Huge) or isinstance(right, Huge):
        big, small = sorted((left, right), key=lambda value: _log10(value) if _sign(value) else -1.0, reverse=True)
        if _sign(small) and not _log10(big) - _log10(small) >= 16:  # also true for inf - inf, which is NaN
            raise NotConstant
        return big
    total = left + right
    exact = left.is_integer() and right.is_integer() and max(abs(left), abs(right)) < 2.0**53
    if not exact and left and right and abs(total) < DIFFERENT * max(abs(left), abs(right)):
        raise NotConstant  # the total is rounding error
    return total


def times(left: Value, right: Value) -> Value:
    """left x right."""
    sign = _sign(left) * _sign(right)
    if sign == 0:
        return 0.0
    if not isinstance(left, Huge) and not isinstance(right, Huge) and abs(_log10(left) + _log10(right)) < HUGE:
        return left * right
    return _from_log(sign, _log10(left) + _log10(right))


def over(left: Value, right: Value) -> Value:
    """left / right."""
    if isinstance(left, float) and isinstance(right, float):
        return left / right
    return _from_log(_sign(left) * _sign(right), _log10(left) - _log10(right))


def power(base: Value, exponent: Value) -> Value:
    """base^exponent for a positive base, or for a positive integer exponent up to 99."""
    if _sign(exponent) == 0:
        return 1.0
    if _sign(base) <= 0:
        if isinstance(base, float) and isinstance(exponent, float) and exponent.is_integer() and 0 < exponent <= 99:
            return times(power(abs(base), exponent), -1.0 if exponent % 2 else 1.0) if base else 0.0
        raise NotConstant
    if base == 1.0:
        return 1.0
    raised = exponent if isinstance(exponent, float) else (exponent.sign * math.inf)
    log10 = raised * _log10(base)
    if isinstance(base, float) and isinstance(exponent, float) and abs(log10) < HUGE:
        return base**exponent
    return _from_log(1, log10)


def factorial(value: Value) -> Value:
    """value!"""
    if isinstance(value, Huge):
        return Huge(1, math.inf) if value.sign > 0 else _refuse()
    if value < 0 or not value.is_integer():
        raise NotConstant
    return float(math.factorial(int(value))) if value < 160 else _from_log(1, math.lgamma(value + 1) / math.log(10))


def binomial(above: Value, below: Value) -> Value:
    """above choose below."""
    if isinstance(above, Huge) or isinstance(below, Huge) or not (above.is_integer() and below.is_integer()):
        raise NotConstant
    if not 0 <= below <= above:
        raise NotConstant
    if above < 500:
        return float(math.comb(int(above), int(below)))
    log = math.lgamma(above + 1) - math.lgamma(below + 1) - math.lgamma(above - below + 1)
    if log / math.log(10) < HUGE:  # lgamma's rounding would show
        raise NotConstant
    return _from_log(1, log / math.log(10))


def _refuse() -> Value:
    raise NotConstant
