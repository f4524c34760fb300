r"""Certified differences: two expressions differ where intervals that certainly hold their values don't overlap.

Variables take a few rational values; one certified difference where both expressions are defined proves that they
differ as functions. Variables such as n are whole numbers by convention, since answers say $\cos n\pi = (-1)^n$, and
the variables of expressions with roots are positive, since answers say $\sqrt{l/g} = \sqrt{gl}/g$.
Numbers too large for an interval are compared by their logarithms.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from .enclosure import Enclosure
from .intervals import Interval, disjoint, is_extreme
from .rational import Arithmetic, Meter, Rational, Undecided, is_small
from .tree import CONSTANTS, Call, Expression, Number, Symbol

PRECISIONS = (53, 200, 1000)  # bits
POINTS = 4
WHOLE = frozenset("klmnKLMN")  # first letters of variables that are whole numbers by convention
MAX_LOGARITHMS = 3  # taken in turn, of towers of powers


def different(left: Expression, right: Expression) -> bool:
    """True only where the values of constants, or of expressions with variables at some point, certainly differ."""
    return certainly_different(left, right, Meter())


def certainly_different(left: Expression, right: Expression, meter: Meter) -> bool:
    """The same as `different` with a meter of one's own; False where its limit is reached."""
    if not (is_small(left) and is_small(right)):
        return False
    known = [Arithmetic(meter, point) for point in _points(Call("+", (left, right)))]
    lowest, *higher = PRECISIONS
    return any(_differ(left, right, arithmetic, lowest) for arithmetic in known) or any(
        _differ(left, right, known[0], precision) for precision in higher
    )


def varies(expression: Expression) -> bool:
    """True only where an expression with variables certainly has different values at two points."""
    if not is_small(expression):
        return False
    meter, found = Meter(), []
    for point in _points(expression):
        try:
            found.append(Enclosure(Arithmetic(meter, point), PRECISIONS[0]).interval(expression))
        except Undecided:
            continue
    return any(disjoint(found[0], other) for other in found[1:])


def enclose(expression: Expression, precision: int) -> Interval:
    """An interval that certainly holds the value of a constant; raises Undecided where there is none."""
    if not is_small(expression):
        raise Undecided
    return Enclosure(Arithmetic(Meter()), precision).interval(expression)


def contains(expression: Expression, name: str) -> bool:
    """Whether there is a call of this name."""
    if not isinstance(expression, Call):
        return False
    return expression.name == name or any(contains(argument, name) for argument in expression.arguments)


def symbols(expression: Expression) -> Iterator[str]:
    if isinstance(expression, Symbol):
        yield expression.name
    elif isinstance(expression, Call):
        for argument in expression.arguments:
            yield from symbols(argument)


def _points(expression: Expression) -> list[dict[str, Rational]]:
    """Values of the variables: moderate positive ones, ones below 1, natural numbers, and negative ones."""
    variables = sorted(set(symbols(expression)) - CONSTANTS)
    points = 1 if not variables else POINTS - 1 if _has_roots(expression) else POINTS
    return [_point(variables, number) for number in range(points)]


def _has_roots(expression: Expression) -> bool:
    """Whether there are roots, whose variables are positive by convention."""
    match expression:
        case Call("root") | Call("^", (_, Call("/"))):
            return True
        case Call("^", (_, Number(value))) if value.denominator > 1:
            return True
        case Call(_, arguments):
            return any(map(_has_roots, arguments))
    return False


def _point(variables: list[str], number: int) -> dict[str, Rational]:
    values: dict[str, Rational] = {}
    for index, name in enumerate(variables):
        size = 5 + 37 * (index + 1) * (number + 2) % 89
        if number == 2 or name.lstrip("\\")[0] in WHOLE:
            values[name] = 2 + size % 9
        else:
            values[name] = (Fraction(size, 23), Fraction(size, 97), 0, Fraction(-size, 23))[number]
    return values


def _differ(left: Expression, right: Expression, arithmetic: Arithmetic, precision: int) -> bool:
    enclosure = Enclosure(arithmetic, precision)
    for _ in range(MAX_LOGARITHMS):
        try:
            first, second = enclosure.interval(left), enclosure.interval(right)
        except Undecided:
            return False
        if disjoint(first, second):
            return True
        if not (is_extreme(first) and is_extreme(second)):
            return False
        left, right = _logarithm(left), _logarithm(right)
    return False


def _logarithm(expression: Expression) -> Expression:
    """The natural logarithm, taken into products and powers of positive numbers, whose values are too large."""
    match expression:
        case Call("^", (base, exponent)):
            return Call("*", (exponent, _logarithm(base)))
        case Call("*", factors):
            return Call("+", tuple(map(_logarithm, factors)))
        case Call("/", (above, below)):
            return Call("+", (_logarithm(above), Call("-", (_logarithm(below),))))
    return Call("log", (expression, Symbol("e")))
