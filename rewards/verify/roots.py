r"""Roots in canonical form.

Conventions, for real variables: with an odd n, x^{1/n} is the real root, so that (-8)^{1/3} is -2; with an even n it is
the root that isn't negative, and i\sqrt{|x|} for n = 2 and a negative constant.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

from .polynomial import ONE, Monomial, Polynomial, as_rational, constant, content, scaled, sign
from .quotient import Field, Quotient
from .rational import Rational, Undecided, plain

MAX_DEGREE = 1_000  # of a root
MAX_ROOT_BITS = 512  # of a factor without small primes that may be a perfect power
_HALF = Fraction(1, 2)
LARGEST_DIVISOR = 2_000  # of trial division


_PRIMES = tuple(n for n in range(2, LARGEST_DIVISOR) if all(n % divisor for divisor in range(2, math.isqrt(n) + 1)))
_PRODUCT = math.prod(_PRIMES)


@lru_cache(maxsize=1024)
def factors(number: int) -> tuple[dict[int, int], int]:
    """The primes found by trial division, with their exponents, and the cofactor, 1 where it is factored completely."""
    found: dict[int, int] = {}
    shared = math.gcd(number, _PRODUCT)
    for prime in _PRIMES:
        if shared == 1:
            break
        if shared % prime == 0:
            shared //= prime
            found[prime], number = _without(number, prime)
    if 1 < number < LARGEST_DIVISOR**2:
        found[number] = 1
        number = 1
    return found, number


def _without(number: int, prime: int) -> tuple[int, int]:
    """The exponent of a prime, and the rest of the number; by squares of powers, since 3^10000 has many factors."""
    powers, exponent = [prime], 0
    while number % powers[-1] == 0:
        number //= powers[-1]
        exponent += 1 << (len(powers) - 1)
        powers.append(powers[-1] ** 2)
    for index in reversed(range(len(powers))):
        if number % powers[index] == 0:
            number //= powers[index]
            exponent += 1 << index
    return exponent, number


def root(field: Field, value: Quotient, degree: int) -> Quotient:
    """The root by the convention above."""
    if degree > MAX_DEGREE:
        raise Undecided
    if degree == 1 or not value.top:
        return value
    if value.bottom != ONE:
        return opaque_root(field, value, degree)
    number = as_rational(value.top)
    if number is not None and number > 0:
        return _root_of_rational(field, number, degree)
    factor = content(value.top)
    rest = scaled(value.top, plain(1 / Fraction(factor)))
    result = _root_of_rational(field, factor, degree)
    if sign(rest) < 0:
        opposite = scaled(rest, -1)
        if degree % 2 and (field.is_real or _is_positive(field, opposite)):
            rest, result = opposite, field.negative(result)
        elif _is_positive(field, opposite):
            field.is_real = False
            if degree == 2:
                rest, result = opposite, field.multiply(result, field.generator(("i",)))
    if degree == 2 and len(rest) == 2 and (square_root := _denested(field, rest)):
        return field.multiply(result, square_root)
    if len(rest) > 1 or sign(rest) < 0:
        return field.multiply(result, opaque_root(field, Quotient(rest, ONE), degree))
    return field.multiply(result, _root_of_monomial(field, min(rest), degree))


def _root_of_monomial(field: Field, monomial: Monomial, degree: int) -> Quotient:
    r"""\sqrt{x^3} is x^{3/2}, since both need x \ge 0; \sqrt{x^2} isn't x, and \sqrt{xy} isn't \sqrt{x}\sqrt{y}."""
    result, kept = ONE, []
    alone = sum(not field.is_positive(generator) for generator, _ in monomial) == 1
    for generator, exponent in monomial:
        real = field.ring.keys[generator][0] == "variable" and (alone or (degree % 2 and field.is_real))
        if field.is_positive(generator) or (real and (degree % 2 or exponent.numerator % 2)):
            result = field.ring.multiply(result, field.ring.power_of(generator, Fraction(exponent) / degree))
        else:
            kept.append((generator, exponent))
    if not kept:
        return Quotient(result, ONE)
    return field.multiply(Quotient(result, ONE), opaque_root(field, Quotient({tuple(kept): 1}, ONE), degree))


def _denested(field: Field, radicand: Polynomial) -> Quotient | None:
    r"""\sqrt{a + b\sqrt{m}} as the sum or difference of the roots of (a + t)/2 and (a - t)/2 with t^2 = a^2 - m b^2."""
    whole = radicand.get((), 0)
    if whole <= 0:
        return None
    ((monomial, coefficient),) = [item for item in radicand.items() if item[0]]
    if any(power != _HALF or field.ring.keys[number][0] != "prime" for number, power in monomial):
        return None
    square = whole**2 - (as_rational(field.ring.power({monomial: coefficient}, 2)) or 0)
    if square < 0 or square.denominator != 1 or math.isqrt(int(square)) ** 2 != square:
        return None
    first = _root_of_rational(field, Fraction(whole + math.isqrt(int(square))) / 2, 2)
    second = _root_of_rational(field, Fraction(whole - math.isqrt(int(square))) / 2, 2)
    return field.add(first, second if coefficient > 0 else field.negative(second))


def _is_positive(field: Field, polynomial: Polynomial) -> bool:
    """Whether a polynomial is one product of positive numbers."""
    if len(polynomial) > 1 or sign(polynomial) < 0:
        return False
    return all(field.is_positive(generator) for monomial in polynomial for generator, _ in monomial)


def opaque_root(field: Field, radicand: Quotient, degree: int) -> Quotient:
    """A generator whose power is the radicand."""
    if degree % 2 == 0 and "variable" not in field.kinds(radicand.top):
        field.is_real = False  # perhaps; it only matters to odd roots of negative numbers
    relation = (degree, radicand.top) if radicand.bottom == ONE else None
    return field.generator(("root", field.key(radicand), degree), 1, relation)


def _root_of_rational(field: Field, value: Rational, degree: int) -> Quotient:
    """The root of a positive rational number, as a product of radicals of primes."""
    result = ONE
    for number, direction in ((value.numerator, 1), (value.denominator, -1)):
        primes, cofactor = factors(number)
        for prime, exponent in primes.items():
            radical = prime_power(field, prime, Fraction(direction * exponent, degree))
            result = field.ring.multiply(result, radical.top)
        if cofactor > 1:
            result = field.ring.multiply(result, _root_of_cofactor(field, cofactor, degree, direction))
    return Quotient(result, ONE)


def _root_of_cofactor(field: Field, number: int, degree: int, direction: int) -> Polynomial:
    whole = _whole_root(number, degree)
    if whole is not None:
        return constant(whole if direction > 0 else Fraction(1, whole))
    radical = opaque_root(field, Quotient(constant(number), ONE), degree).top
    if direction > 0:
        return radical
    return scaled(field.ring.power(radical, degree - 1), Fraction(1, number))


def _whole_root(number: int, degree: int) -> int | None:
    if not degree < number.bit_length() <= MAX_ROOT_BITS:
        return None
    if degree == 2:
        whole = math.isqrt(number)
        return whole if whole**2 == number else None
    low, high = 1, 1 << (number.bit_length() // degree + 1)
    while low < high:  # the smallest whole number whose power isn't below `number`
        middle = (low + high) // 2
        low, high = (middle + 1, high) if middle**degree < number else (low, middle)
    return low if low**degree == number else None


def prime_power(field: Field, prime: int, exponent: Rational) -> Quotient:
    """A rational power of a prime."""
    return field.generator(("prime", prime), exponent, (1, constant(prime)))
