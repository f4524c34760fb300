r"""Powers in canonical form.

Conventions: a fractional power is the root that `roots.py` describes; with symbols in the exponent, powers of one base
are additive in the exponent, as they are for a positive base: x^{n+1} = x x^n and 4^x = 2^{2x}.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from fractions import Fraction

from .polynomial import IMAGINARY, ONE, PI, Monomial, Polynomial
from .quotient import Field, Quotient
from .rational import MAX_BITS, Rational, Undecided, absolute, bits
from .roots import factors, root
from .tree import Expression, Symbol
from .trigonometry import circle

MAX_EXPANDED = 100  # terms of the power of a sum; longer ones aren't expanded
REAL = frozenset({"variable", "prime", "pi", "e", "huge"})  # kinds of generators


def power(field: Field, base: Quotient, exponent: Quotient, expression: Expression) -> Quotient:
    """base^exponent, where `expression` is that of the base."""
    value = exponent.rational
    if value is None:
        return _symbolic_power(field, base, exponent, expression)
    return rational_power(field, base, value, expression)


def rational_power(field: Field, base: Quotient, exponent: Rational, expression: Expression) -> Quotient:
    """The power with a rational exponent; raises Undecided for 0^0 and 1/0."""
    if exponent <= 0:
        field.assume_not_zero(base, expression)
    if exponent.denominator > 1:
        base = root(field, base, exponent.denominator)
    times = exponent.numerator
    if times == 1:
        return base
    if base.bottom == ONE and len(base.top) == 1:
        ((monomial, coefficient),) = base.top.items()
        return field.multiply(_number_power(field, coefficient, times), _monomial_power(field, monomial, times))
    if _is_long(field, base, abs(times)):
        return _unexpanded(field, ("sum", field.key(base)), times)
    return field.power(base, times, expression)


def _is_long(field: Field, base: Quotient, exponent: int) -> bool:
    """Whether the expanded power has too many terms; powers of radicals stay short."""
    terms = max(len(base.top), len(base.bottom))
    if not (field.kinds(base.top) | field.kinds(base.bottom)) - {"i", "prime"}:
        return False
    return exponent > MAX_EXPANDED or math.comb(exponent + terms - 1, exponent) > MAX_EXPANDED


def _unexpanded(field: Field, key: tuple[Hashable, ...], exponent: int) -> Quotient:
    if bits(exponent) > MAX_BITS:
        raise Undecided
    return field.generator(key, exponent)


def _monomial_power(field: Field, monomial: Monomial, exponent: int) -> Quotient:
    powers: Polynomial = {monomial: 1}
    if exponent >= 0:
        return Quotient(field.ring.power(powers, exponent), ONE)
    return field.divided(ONE, field.ring.power(powers, -exponent))


def _number_power(field: Field, base: Rational, exponent: int) -> Quotient:
    """A power of a rational number; huge ones stay powers of primes."""
    if (bits(base) - 1) * abs(exponent) <= MAX_BITS:
        return field.number(Fraction(base) ** exponent)
    result = field.number(-1 if base < 0 and exponent % 2 else 1)
    for factor, times in factored(absolute(base)):
        result = field.multiply(result, _unexpanded(field, ("huge", factor), times * exponent))
    return result


def factored(number: Rational) -> list[tuple[int, int]]:
    """Primes, and maybe one composite factor, of a positive rational number, with exponents."""
    result = []
    for value, direction in ((number.numerator, 1), (number.denominator, -1)):
        primes, cofactor = factors(value)
        result += [(prime, direction * times) for prime, times in primes.items()]
        result += [(cofactor, direction)] if cofactor > 1 else []
    return result


def _symbolic_power(field: Field, base: Quotient, exponent: Quotient, expression: Expression) -> Quotient:
    if not base.top:
        raise Undecided
    rest = dict(exponent.top)
    fixed = rest.pop((), 0)
    bases = _bases(field, base)
    if exponent.bottom != ONE or (fixed.denominator > 1 and (-1, 1) in bases):
        return field.generator(("power", "quotient", field.key(base), field.key(exponent)))
    result = rational_power(field, base, fixed, expression) if fixed else field.number(1)
    for monomial, coefficient in rest.items():
        for name, times in bases:
            result = field.multiply(result, _generator_power(field, name, monomial, coefficient * times))
    return result


def _bases(field: Field, base: Quotient) -> list[tuple[Hashable, Rational]]:
    """The base as a product of powers: -1, primes, pi, e and variables; or the base itself."""
    if base.bottom != ONE or len(base.top) > 1:
        return [(("sum", field.key(base)), 1)]
    ((monomial, coefficient),) = base.top.items()
    names = {generator: field.ring.keys[generator] for generator, _ in monomial}
    if not all(key[0] in ("prime", "pi", "e", "variable") for key in names.values()):
        return [(("sum", field.key(base)), 1)]
    negative: list[tuple[Hashable, Rational]] = [(-1, 1)] if coefficient < 0 else []
    radicals: list[tuple[Hashable, Rational]] = [
        (key if key[0] == "variable" else key[-1], exponent)
        for key, exponent in ((names[generator], exponent) for generator, exponent in monomial)
    ]
    return [*negative, *factored(absolute(coefficient)), *radicals]


def _without_logarithm(field: Field, base: Hashable, monomial: Monomial) -> tuple[Quotient, Monomial] | None:
    """(u, m) with base^monomial = u^m, where the monomial has the logarithm of u to this base as a factor."""
    keys = {item: field.ring.keys[item[0]] for item in monomial}
    divisor = [item for item in monomial if item[1] == -1 and keys[item] == ("ln", base)]
    if base != "e" and not divisor:
        return None
    for item in monomial:
        if item[1] == 1 and keys[item][0] == "ln":
            rest = tuple(other for other in monomial if other not in (item, *divisor))
            name = keys[item][1]
            if name in field.unfrozen:
                return field.unfrozen[name], rest
            return field.number(name) if isinstance(name, int) else field.generator((name,)), rest
    return None


def _generator_power(field: Field, base: Hashable, monomial: Monomial, coefficient: Rational) -> Quotient:
    """base^{coefficient x monomial}; e^{i pi q} is a point of the unit circle."""
    if base == "e" and monomial == ((IMAGINARY, 1), (PI, 1)):
        cosine, sine = circle(field, Fraction(coefficient))
        return field.add(cosine, field.multiply(sine, field.generator(("i",))))
    shorter = _without_logarithm(field, base, monomial)
    if shorter is not None:
        return power(field, shorter[0], Quotient({shorter[1]: coefficient}, ONE), Symbol("e"))
    kinds = {field.ring.keys[generator][0] for generator, _ in monomial}
    real = base != -1 and not isinstance(base, tuple) and kinds <= REAL
    return field.generator(("power", "real" if real else "complex", base, monomial), coefficient)
