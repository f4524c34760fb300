r"""Sines, cosines and their inverses in canonical form: exact at the usual angles, and reduced by their symmetries."""

from __future__ import annotations

from fractions import Fraction

from .polynomial import ONE, PI, Monomial, Polynomial, constant, scaled, sign
from .quotient import Field, Quotient
from .rational import Rational, absolute
from .roots import root

_Pairs = tuple[tuple[Rational, int], ...]
_PI_ONLY = ((PI, 1),)
MAX_SUMMANDS, MAX_MULTIPLE = 4, 8  # of an angle that the formulas are applied to
_HALF = Fraction(1, 2)
# cos(q pi) for q in [0, 1/2] is the sum of c \sqrt{r} over these pairs (c, r), or in the second table its square root.
_COSINES: dict[Fraction, _Pairs] = {
    Fraction(0): ((1, 1),),
    Fraction(1, 12): ((Fraction(1, 4), 6), (Fraction(1, 4), 2)),
    Fraction(1, 6): ((_HALF, 3),),
    Fraction(1, 5): ((Fraction(1, 4), 1), (Fraction(1, 4), 5)),
    Fraction(1, 4): ((_HALF, 2),),
    Fraction(1, 3): ((_HALF, 1),),
    Fraction(2, 5): ((Fraction(-1, 4), 1), (Fraction(1, 4), 5)),
    Fraction(5, 12): ((Fraction(1, 4), 6), (Fraction(-1, 4), 2)),
    _HALF: (),
}
_SQUARED_COSINES: dict[Fraction, _Pairs] = {
    Fraction(1, 10): ((Fraction(5, 8), 1), (Fraction(1, 8), 5)),
    Fraction(1, 8): ((_HALF, 1), (Fraction(1, 4), 2)),
    Fraction(3, 10): ((Fraction(5, 8), 1), (Fraction(-1, 8), 5)),
    Fraction(3, 8): ((_HALF, 1), (Fraction(-1, 4), 2)),
}
_TANGENTS: dict[Fraction, _Pairs] = {
    Fraction(0): (),
    Fraction(1, 12): ((2, 1), (-1, 3)),
    Fraction(1, 8): ((1, 2), (-1, 1)),
    Fraction(1, 6): ((Fraction(1, 3), 3),),
    Fraction(1, 4): ((1, 1),),
    Fraction(1, 3): ((1, 3),),
    Fraction(3, 8): ((1, 2), (1, 1)),
    Fraction(5, 12): ((2, 1), (1, 3)),
}


def circle(field: Field, turns: Fraction) -> tuple[Quotient, Quotient]:
    """The cosine and the sine of `turns` x pi."""
    return _cosine(field, turns), _cosine(field, turns - _HALF)


def _cosine(field: Field, turns: Fraction) -> Quotient:
    turns %= 2
    turns = min(turns, 2 - turns)
    if turns > _HALF:
        return field.negative(_cosine(field, 1 - turns))
    if turns in _COSINES:
        return _radicals(field, _COSINES[turns])
    if turns in _SQUARED_COSINES:
        return root(field, _radicals(field, _SQUARED_COSINES[turns]), 2)
    return field.generator(("cos", field.key(_angle(turns))))


def _radicals(field: Field, pairs: _Pairs) -> Quotient:
    total: Polynomial = {}
    for factor, radicand in pairs:
        total = field.ring.add(total, scaled(root(field, field.number(radicand), 2).top, factor))
    return Quotient(total, ONE)


def _angle(turns: Rational) -> Quotient:
    return Quotient({_PI_ONLY: turns} if turns else {}, ONE)


def cosine_and_sine(field: Field, angle: Quotient) -> tuple[Quotient, Quotient]:
    """The cosine and the sine of an angle in radians, by the sum and multiple angle formulas."""
    if angle.bottom != ONE or len(angle.top) > MAX_SUMMANDS:
        return _opaque(field, angle)
    rest = dict(angle.top)
    cosine, sine = circle(field, Fraction(rest.pop(_PI_ONLY, 0)))
    for monomial, coefficient in rest.items():
        cosine, sine = _sum_of_angles(field, (cosine, sine), _multiple(field, monomial, coefficient))
    return cosine, sine


def _multiple(field: Field, monomial: Monomial, coefficient: Rational) -> tuple[Quotient, Quotient]:
    """The cosine and the sine of a multiple of the unit angle that `field` keeps for a monomial."""
    divisor = field.unit(monomial, coefficient.denominator)
    times = absolute(coefficient * divisor)
    if times > MAX_MULTIPLE:
        cosine, sine = _opaque(field, Quotient({monomial: absolute(coefficient)}, ONE))
    else:
        single = _opaque(field, Quotient({monomial: Fraction(1, divisor)}, ONE))
        cosine, sine = single
        for _ in range(int(times) - 1):
            cosine, sine = _sum_of_angles(field, (cosine, sine), single)
    return cosine, sine if coefficient > 0 else field.negative(sine)


def _sum_of_angles(
    field: Field, left: tuple[Quotient, Quotient], right: tuple[Quotient, Quotient]
) -> tuple[Quotient, Quotient]:
    cosines, sines = field.multiply(left[0], right[0]), field.multiply(left[1], right[1])
    first, second = field.multiply(left[1], right[0]), field.multiply(left[0], right[1])
    return field.add(cosines, field.negative(sines)), field.add(first, second)


def _opaque(field: Field, angle: Quotient) -> tuple[Quotient, Quotient]:
    """Two generators with sin^2 = 1 - cos^2."""
    if sign(angle.top) < 0:
        cosine, sine = _opaque(field, field.negative(angle))
        return cosine, field.negative(sine)
    key = field.key(angle)
    cosine = field.generator(("cos", key))
    square = field.ring.multiply(cosine.top, cosine.top)
    return cosine, field.generator(("sin", key), 1, (2, field.ring.add(constant(1), scaled(square, -1))))


def arccosine(field: Field, value: Quotient) -> Quotient:
    """The angle in [0, pi]."""
    usual = _COSINES | _SQUARED_COSINES if field.kinds(value.top) <= {"prime", "root"} else {}
    for turns in usual:
        cosine = _cosine(field, turns)
        if value == cosine:
            return _angle(turns)
        if value == field.negative(cosine):
            return _angle(1 - turns)
    if value.top and sign(value.top) < 0:
        return field.add(_angle(1), field.negative(arccosine(field, field.negative(value))))
    return field.generator(("arccos", field.key(value)))


def arcsine(field: Field, value: Quotient) -> Quotient:
    """The angle in [-pi/2, pi/2]."""
    return field.add(_angle(_HALF), field.negative(arccosine(field, value)))


def arctangent(field: Field, value: Quotient) -> Quotient:
    """The angle in (-pi/2, pi/2)."""
    if value.top and sign(value.top) < 0:
        return field.negative(arctangent(field, field.negative(value)))
    for turns, pairs in _TANGENTS.items():
        tangent = _radicals(field, pairs)
        if value == tangent:
            return _angle(turns)
        if value == field.negative(tangent):
            return _angle(-turns)
    return field.generator(("arctan", field.key(value)))
