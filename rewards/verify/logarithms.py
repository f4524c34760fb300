"""Logarithms in canonical form: of positive constants as sums over primes, so that exact powers cancel."""

from __future__ import annotations

from collections.abc import Hashable
from fractions import Fraction

from .polynomial import ONE, Polynomial, constant, content, scaled, sign
from .powers import factored
from .quotient import Field, Quotient
from .rational import Undecided, plain


def logarithm(field: Field, value: Quotient) -> Quotient:
    r"""The natural logarithm; ln(x^3) is 3 ln(x), since both need x > 0, but ln(x^2) isn't 2 ln(x)."""
    if value.bottom != ONE:
        return field.generator(("ln", field.key(value)))
    if not value.top:
        raise Undecided
    factor = content(value.top)
    result: Polynomial = {}
    for number, times in factored(factor):
        result = field.ring.add(result, scaled(_of_name(field, number), times))
    rest = scaled(value.top, plain(1 / Fraction(factor)))
    if sign(rest) < 0 and all(field.is_positive(generator) for monomial in rest for generator, _ in monomial):
        field.has_negative_logarithm = True
    if len(rest) > 1 or sign(rest) < 0:
        return Quotient(field.ring.add(result, _opaque(field, rest)), ONE)
    ((monomial, _),) = rest.items()
    kept = []
    for generator, exponent in monomial:
        known = _of_generator(field, generator, len(monomial) == 1 and exponent.numerator % 2 == 1)
        if known is None:
            kept.append((generator, exponent))
        else:
            result = field.ring.add(result, scaled(known, exponent))
    return Quotient(field.ring.add(result, _opaque(field, {tuple(kept): 1})) if kept else result, ONE)


def _opaque(field: Field, value: Polynomial) -> Polynomial:
    return field.generator(("ln", field.key(Quotient(value, ONE)))).top


def _of_name(field: Field, name: Hashable) -> Polynomial:
    """The logarithm of e, of pi, or of a prime."""
    return constant(1) if name == "e" else field.generator(("ln", name)).top


def _of_generator(field: Field, generator: int, only_odd: bool) -> Polynomial | None:
    """The logarithm of a positive generator, or of a variable that must be positive; None for others."""
    key = field.ring.keys[generator]
    if key[:2] == ("power", "real"):
        return field.ring.multiply(_of_name(field, key[2]), {key[3]: 1})  # type: ignore[dict-item]
    if field.is_positive(generator):
        return _of_name(field, key[-1])
    if key[0] == "variable" and only_odd:
        return _opaque(field, field.ring.power_of(generator))
    return None
