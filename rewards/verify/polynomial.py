r"""Polynomials over the rational numbers in generators with relations, such as i^2 = -1 and (2^{1/2})^2 = 2.

A monomial is a sorted tuple of (generator, exponent); a polynomial is a dict from monomials to coefficients that aren't
zero. A generator is an integer that the ring hands out for a key, so that equal keys are one generator. Exponents may
be negative or fractional; those of a generator with a relation g^n = p lie in [0, n).

Products of distinct radicals p^{k/n}, 0 < k/n < 1, of primes are linearly independent over the rational numbers
(Besicovitch 1940, "On the linear independence of fractional powers of integers"), and i is independent of these real
numbers. Therefore a polynomial in variables, radicals of primes, i, and at most one of pi and e (both transcendental:
Hermite 1873, Lindemann 1882) is zero only if it has no terms.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from fractions import Fraction

from .rational import Meter, Rational, Undecided, cost, integer_power, plain

MAX_TERMS = 300

Monomial = tuple[tuple[int, Rational], ...]
Polynomial = dict[Monomial, Rational]
Key = tuple[Hashable, ...]

IMAGINARY, PI = 0, 1  # i and pi
ONE: Polynomial = {(): 1}


def constant(value: Rational) -> Polynomial:
    """A rational number as a polynomial."""
    return {(): value} if value else {}


def as_rational(polynomial: Polynomial) -> Rational | None:
    """The value of a polynomial that is a rational number."""
    if not polynomial:
        return 0
    return polynomial.get(()) if len(polynomial) == 1 else None


def scaled(polynomial: Polynomial, factor: Rational) -> Polynomial:
    """The product with a rational number that isn't zero."""
    if factor == 1:
        return polynomial
    return {monomial: plain(coefficient * factor) for monomial, coefficient in polynomial.items()}


def content(polynomial: Polynomial) -> Rational:
    """The positive rational number c for which polynomial / c has whole coefficients without a common factor."""
    above = math.gcd(*(coefficient.numerator for coefficient in polynomial.values()))
    below = math.lcm(*(coefficient.denominator for coefficient in polynomial.values()))
    return plain(Fraction(above, below))


def sign(polynomial: Polynomial) -> int:
    """The sign of the first coefficient, in the order of monomials: a way to choose between p and -p."""
    return 1 if polynomial[min(polynomial)] > 0 else -1


def freeze(polynomial: Polynomial) -> Hashable:
    """A key that equal polynomials share."""
    return frozenset(polynomial.items())


class Ring:
    """The generators of one comparison and their relations."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.keys: list[Key] = [("i",), ("pi",), ("e",)]
        self._ids: dict[Key, int] = {key: number for number, key in enumerate(self.keys)}
        self._relations: dict[int, tuple[int, Polynomial]] = {IMAGINARY: (2, {(): -1})}

    def generator(self, key: Key, relation: tuple[int, Polynomial] | None = None) -> int:
        """The generator of a key; with a relation (n, p), its n-th power is p."""
        known = self._ids.get(key)
        if known is None:
            known = self._ids[key] = len(self.keys)
            self.keys.append(key)
            if relation:
                self._relations[known] = relation
        return known

    def power_of(self, generator: int, exponent: Rational = 1) -> Polynomial:
        """generator^exponent."""
        return self._reduced([(generator, exponent)], 1) if exponent else ONE

    def add(self, left: Polynomial, right: Polynomial) -> Polynomial:
        """left + right."""
        return self.total([left, right])

    def total(self, polynomials: list[Polynomial]) -> Polynomial:
        """The sum of all."""
        total = dict(polynomials[0])
        for polynomial in polynomials[1:]:
            self._meter.charge(2 * len(polynomial))
            for monomial, coefficient in polynomial.items():
                self._accumulate(total, monomial, coefficient)
        return total

    def multiply(self, left: Polynomial, right: Polynomial) -> Polynomial:
        """left x right."""
        if left is ONE:
            return right
        if right is ONE:
            return left
        total: Polynomial = {}
        for first, scale in left.items():
            self._meter.charge((8 if first else 3) * len(right) * cost(scale))
            for second, coefficient in right.items():
                value = scale * coefficient
                if not second or not first:
                    self._accumulate(total, first or second, value)
                    continue
                for monomial, part in self._reduced([*first, *second], value).items():
                    self._accumulate(total, monomial, part)
        return total

    def power(self, base: Polynomial, exponent: int) -> Polynomial:
        """base^exponent for exponent >= 0, by repeated squaring."""
        if len(base) == 1:
            ((monomial, coefficient),) = base.items()
            value = integer_power(coefficient, exponent)
            return self._reduced([(generator, power * exponent) for generator, power in monomial], value)
        if exponent > MAX_TERMS:
            raise Undecided
        result = ONE
        for digit in bin(exponent)[2:]:
            result = self.multiply(result, result)
            if digit == "1":
                result = self.multiply(result, base)
        return result

    def split(self, polynomial: Polynomial) -> tuple[Polynomial, Polynomial]:
        """(u, v) with 1 / polynomial = u / v: a single term is inverted, except for generators without an inverse."""
        if len(polynomial) != 1:
            return ONE, polynomial
        ((monomial, coefficient),) = polynomial.items()
        kept = [(generator, power) for generator, power in monomial if self._has_no_inverse(generator)]
        inverse = [(generator, -power) for generator, power in monomial if not self._has_no_inverse(generator)]
        return self._reduced(inverse, plain(1 / Fraction(coefficient))), {tuple(kept): 1} if kept else ONE

    def _has_no_inverse(self, generator: int) -> bool:
        relation = self._relations.get(generator)
        return relation is not None and as_rational(relation[1]) is None

    def _reduced(self, powers: list[tuple[int, Rational]], coefficient: Rational) -> Polynomial:
        """The product of powers of generators, by their relations, as a polynomial."""
        exponents: dict[int, Rational] = {}
        for generator, power in powers:
            exponents[generator] = exponents.get(generator, 0) + power
        factors = []
        for generator, power in exponents.items():
            relation = self._relations.get(generator)
            if relation is None:
                plain(power)
                continue
            times = power // relation[0]
            if times:
                exponents[generator] = power - times * relation[0]
                number = as_rational(relation[1])
                if number is None and times < 0:
                    raise Undecided
                if number is None:
                    factors.append(self.power(relation[1], times))
                else:
                    coefficient *= integer_power(number, times)
        monomial = tuple(sorted([item for item in exponents.items() if item[1]]))
        result: Polynomial = {monomial: plain(coefficient)}
        for factor in factors:
            result = self.multiply(result, factor)
        return result

    def _accumulate(self, total: Polynomial, monomial: Monomial, coefficient: Rational) -> None:
        value = total.get(monomial, 0) + coefficient
        if value:
            total[monomial] = plain(value)
            if len(total) > MAX_TERMS:
                raise Undecided
        else:
            del total[monomial]
