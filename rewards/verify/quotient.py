"""Quotients of two polynomials over one ring, and the expressions that must not be zero for them to have a value."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from .polynomial import (
    ONE,
    Key,
    Monomial,
    Polynomial,
    Ring,
    as_rational,
    constant,
    content,
    freeze,
    plain,
    scaled,
    sign,
)
from .rational import Arithmetic, Rational, Undecided
from .tree import Expression

MAX_CONJUGATES = 4
MAX_DIVISOR = 12
CONSTANTS = frozenset({"i", "pi", "e", "prime", "huge"})  # kinds of generators
PROVEN_INDEPENDENT = frozenset({"i", "variable", "prime"})  # kinds of generators; also one of pi and e


@dataclass(frozen=True, slots=True)
class Quotient:
    """top / bottom; `bottom` isn't the zero polynomial."""

    top: Polynomial
    bottom: Polynomial

    @property
    def rational(self) -> Rational | None:
        """The value of a rational constant."""
        return as_rational(self.top) if self.bottom == ONE else None


class Field:
    """The operations on quotients; `assumptions` lists expressions that must not be zero, where that isn't proven.

    With `signs`, a variable stands for its sign times a positive number.
    """

    def __init__(self, arithmetic: Arithmetic, signs: Mapping[str, int] | None = None) -> None:
        self.arithmetic = arithmetic
        self.signs = signs
        self.ring = Ring(arithmetic.meter)
        self.assumptions: list[Expression] = []
        self.unfrozen: dict[Hashable, Quotient] = {}
        self._units: dict[Monomial, int] = {}
        self.units_changed = False  # so that forms made before should be made again
        self.is_real = True  # whether no root of a negative number, and no i, was seen
        self.has_negative_logarithm = False

    def number(self, value: Rational) -> Quotient:
        """A rational number."""
        return Quotient(constant(value), ONE)

    def generator(self, key: Key, exponent: Rational = 1, relation: tuple[int, Polynomial] | None = None) -> Quotient:
        """A power of the generator of a key."""
        return Quotient(self.ring.power_of(self.ring.generator(key, relation), exponent), ONE)

    def total(self, values: list[Quotient]) -> Quotient:
        """The sum, in time linear in the terms where the values are polynomials."""
        if all(value.bottom is ONE for value in values):
            return Quotient(self.ring.total([value.top for value in values]), ONE)
        result = values[0]
        for value in values[1:]:
            result = self.add(result, value)
        return result

    def add(self, left: Quotient, right: Quotient) -> Quotient:
        """left + right."""
        if left.bottom == right.bottom:
            return Quotient(self.ring.add(left.top, right.top), left.bottom)
        first = self.ring.multiply(left.top, right.bottom)
        second = self.ring.multiply(right.top, left.bottom)
        return self.divided(self.ring.add(first, second), self.ring.multiply(left.bottom, right.bottom))

    def multiply(self, left: Quotient, right: Quotient) -> Quotient:
        """left x right."""
        top = self.ring.multiply(left.top, right.top)
        if left.bottom is ONE and right.bottom is ONE:
            return Quotient(top, ONE)
        return self.divided(top, self.ring.multiply(left.bottom, right.bottom))

    def divide(self, left: Quotient, right: Quotient, divisor: Expression) -> Quotient:
        """left / right, where `divisor` is the expression of `right`; raises Undecided for a zero divisor."""
        self.assume_not_zero(right, divisor)
        top = self.ring.multiply(left.top, right.bottom)
        return self.divided(top, self.ring.multiply(left.bottom, right.top))

    def negative(self, value: Quotient) -> Quotient:
        """-value."""
        return Quotient(scaled(value.top, -1), value.bottom)

    def power(self, base: Quotient, exponent: int, expression: Expression) -> Quotient:
        """base^exponent, where `expression` is that of the base; raises Undecided for 0^0 and 1/0."""
        if exponent <= 0:
            self.assume_not_zero(base, expression)
        if exponent < 0:
            base = self.divided(base.bottom, base.top)
        size = abs(exponent)
        return self.divided(self.ring.power(base.top, size), self.ring.power(base.bottom, size))

    def divided(self, top: Polynomial, bottom: Polynomial) -> Quotient:
        """top / bottom in the form that `key` relies on: proportional polynomials cancel, `bottom` is primitive."""
        if len(bottom) > 1:
            top, bottom = self._rationalised(top, bottom)
        inverse, bottom = self.ring.split(bottom)
        top = self.ring.multiply(top, inverse)
        if bottom is ONE or not top:
            return Quotient(top, ONE)
        factor = content(bottom) * sign(bottom)
        bottom = scaled(bottom, plain(1 / Fraction(factor)))
        top = scaled(top, plain(1 / Fraction(factor)))
        if top.keys() == bottom.keys():
            ratio = plain(Fraction(top[min(top)]) / bottom[min(bottom)])
            if top == scaled(bottom, ratio):
                return self.number(ratio)
        return Quotient(top, bottom)

    def _rationalised(self, top: Polynomial, bottom: Polynomial) -> tuple[Polynomial, Polynomial]:
        """The quotient without i and up to MAX_CONJUGATES square roots of primes in a constant denominator."""
        if self.kinds(bottom) - {"i", "prime"}:
            return top, bottom
        for _ in range(MAX_CONJUGATES):
            powers = {item for monomial in bottom for item in monomial}
            if not powers or any(power != 1 and power != Fraction(1, 2) for _, power in powers):
                break
            last = max(generator for generator, _ in powers)
            conjugate = {
                monomial: -coefficient if any(generator == last for generator, _ in monomial) else coefficient
                for monomial, coefficient in bottom.items()
            }
            top, bottom = self.ring.multiply(top, conjugate), self.ring.multiply(bottom, conjugate)
        return top, bottom

    def key(self, value: Quotient) -> Hashable:
        """A key that is shared by equal quotients only."""
        key = freeze(value.top), freeze(value.bottom)
        self.unfrozen[key] = value
        return key

    def assume_not_zero(self, value: Quotient, expression: Expression) -> None:
        """Record that an expression must not be zero, where that isn't proven; raises Undecided where it is zero."""
        if not value.top:
            raise Undecided
        if not self.is_independent(value.top):
            self.assumptions.append(expression)

    def unit(self, monomial: Monomial, denominator: int) -> int:
        """The divisor d of the unit angle monomial / d, of which angles are multiples; it grows with what was seen."""
        known = self._units.setdefault(monomial, denominator)
        common = math.lcm(known, denominator)
        if common != known and common <= MAX_DIVISOR:
            self._units[monomial] = common
            self.units_changed = True
        return known if known % denominator == 0 else denominator

    def is_constant(self, value: Quotient) -> bool:
        """Whether all generators are constants; opaque generators may hold variables."""
        generators = {generator for side in (value.top, value.bottom) for monomial in side for generator, _ in monomial}
        keys = [self.ring.keys[generator] for generator in generators]
        return all(key[0] in CONSTANTS or (key[0] == "ln" and isinstance(key[1], int | str)) for key in keys)

    def is_positive(self, generator: int) -> bool:
        """Whether a generator is a positive real number, or a real power of one."""
        key = self.ring.keys[generator]
        if key[0] == "variable":
            return self.signs is not None
        return key[0] in ("prime", "huge", "pi", "e") or key[:2] == ("power", "real")

    def kinds(self, polynomial: Polynomial) -> set[Hashable]:
        """The kinds of generators in a polynomial."""
        return {self.ring.keys[generator][0] for monomial in polynomial for generator, _ in monomial}

    def is_independent(self, polynomial: Polynomial) -> bool:
        """Whether the generators are proven independent, so that a polynomial with terms isn't zero."""
        kinds = self.kinds(polynomial) - PROVEN_INDEPENDENT
        return kinds <= {"pi"} or kinds <= {"e"}
