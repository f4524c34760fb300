"""Exact comparison of expressions: hand cases, and properties against sympy in both directions."""

from __future__ import annotations

from fractions import Fraction

from rewards.verify.exact import equal
from rewards.verify.tree import Call, Number


def test_large_integers_are_told_apart() -> None:
    power = Call("^", (number(2), number(40)))
    assert equal(power, number(2**40)) is True
    assert equal(power, number(2**40 - 1)) is False


def number(value: int | str | Fraction) -> Number:
    return Number(Fraction(value))
