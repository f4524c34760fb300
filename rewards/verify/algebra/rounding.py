"""Decimal numbers that stand for irrational or repeating ones."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import mpmath

from .evaluation import Undecided, number
from .forms import Value

MIN_DECIMALS, MIN_DIGITS = 6, 4  # digits behind the point, and digits without leading zeros


def rounds(decimal: Value, exact: Value) -> bool:
    """Whether a decimal number is an irrational or repeating one, correct to all of its MIN_DECIMALS or more digits."""
    digits = decimal.text.strip("+-% ").replace(".", "").lstrip("0")
    if (decimal.decimals or 0) < MIN_DECIMALS or len(digits) < MIN_DIGITS or exact.decimals is not None:
        return False
    with suppress(Undecided):
        value, rounded = number(exact.expression), number(decimal.expression)
        places = min(decimal.decimals or 0, 12) + (
            2 if decimal.text.endswith("%") else 0
        )  # floats have noise after that
        cut = abs(rounded) < abs(value)  # a number may be rounded, or cut off
        close = abs(value - rounded) * (1 if cut else 2) <= mpmath.mpf(10) ** -places
        return bool(close) and not _terminates(exact.expression)
    return False


def _terminates(constant: Any) -> bool:
    """Whether a constant is a decimal fraction such as 3/8."""
    value = constant.doit()
    if not value.is_Rational:
        return False
    rest = value.q
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return bool(rest == 1)
