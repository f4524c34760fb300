"""Expressions in canonical form: one function for each kind of node of the tree."""

from __future__ import annotations

import math
from fractions import Fraction

from .logarithms import logarithm
from .parts import absolute_value, certain_floor
from .polynomial import ONE, PI
from .powers import power, rational_power
from .quotient import Field, Quotient
from .rational import Undecided, plain
from .tree import CONSTANTS, Call, Expression, Number, Symbol
from .trigonometry import arccosine, arcsine, arctangent, cosine_and_sine

PRICES = {"+": 5, "*": 5, "-": 5, "/": 20, "arccos": 500, "arcsin": 500}  # microseconds beside the arithmetic
MAX_FACTORS = 10  # of n (n - 1) ... that a binomial or factorial with symbols is expanded to


def canonical(field: Field, expression: Expression) -> Quotient:
    """The canonical form; raises Undecided where there is none within the limits, or no value."""
    if isinstance(expression, Number):
        return field.number(plain(expression.value))
    if isinstance(expression, Symbol):
        name = expression.name
        if name == "i":
            field.is_real = False
        if name in CONSTANTS:
            return field.generator((name,))
        variable = field.generator(("variable", name))
        return field.negative(variable) if field.signs and field.signs[name] < 0 else variable
    known = field.arithmetic.rational(expression)
    if known is not None:
        return field.number(known)
    field.arithmetic.meter.charge(PRICES.get(expression.name, 100))
    values = [canonical(field, argument) for argument in expression.arguments]
    if expression.name in ("!", "binomial") and all(value.rational is not None for value in values):
        return _too_large(field, expression.name, values)
    return _operate(field, expression, values)


def _operate(field: Field, call: Call, values: list[Quotient]) -> Quotient:
    first = values[0]
    match call.name:
        case "+":
            return field.total(values)
        case "*":
            for value in values[1:]:
                first = field.multiply(first, value)
            return first
        case "-":
            return field.negative(first)
        case "/":
            return field.divide(first, values[1], call.arguments[1])
        case "^":
            return power(field, first, values[1], call.arguments[0])
        case "root":
            degree = values[1].rational
            if degree is None or degree < 1:
                raise Undecided
            return rational_power(field, first, plain(1 / Fraction(degree)), call.arguments[0])
        case "log":
            above = _logarithm(field, first, call.arguments[0])
            below = _logarithm(field, values[1], call.arguments[1])
            return field.divide(above, below, Call("log", (call.arguments[1], Symbol("e"))))
        case "degrees":
            return field.multiply(first, Quotient({((PI, 1),): Fraction(1, 180)}, ONE))
        case "!":
            return _factorial(field, first)
        case "binomial":
            return _binomial(field, first, values[1])
        case "abs":
            return absolute_value(field, first, call.arguments[0])
        case "floor" | "ceil":
            known = certain_floor(field, call)
            return _opaque(field, call.name, first) if known is None else field.number(known)
    return _transcendental(field, call.name, first, call.arguments[0])


def _transcendental(field: Field, name: str, value: Quotient, argument: Expression) -> Quotient:
    match name:
        case "arccos":
            return arccosine(field, value)
        case "arcsin":
            return arcsine(field, value)
        case "arctan":
            return arctangent(field, value)
        case "sinh" | "cosh" | "tanh":
            return _hyperbolic(field, name, value)
    cosine, sine = cosine_and_sine(field, value)
    match name:
        case "sin":
            return sine
        case "cos":
            return cosine
        case "tan":
            return field.divide(sine, cosine, Call("cos", (argument,)))
        case "sec":
            return field.divide(field.number(1), cosine, Call("cos", (argument,)))
        case "cot":
            return field.divide(cosine, sine, Call("sin", (argument,)))
        case "csc":
            return field.divide(field.number(1), sine, Call("sin", (argument,)))
    raise Undecided


def _opaque(field: Field, name: str, *values: Quotient) -> Quotient:
    return field.generator((name, *(field.key(value) for value in values)))


def _too_large(field: Field, name: str, values: list[Quotient]) -> Quotient:
    """A factorial or binomial of natural numbers, with too many digits; raises Undecided for other arguments."""
    rationals = [value.rational for value in values]
    if any(value is None or value.denominator > 1 or value < 0 for value in rationals):
        raise Undecided
    return _opaque(field, name, *values)


def _logarithm(field: Field, value: Quotient, argument: Expression) -> Quotient:
    field.assume_not_zero(value, argument)
    if (value.rational or 1) < 0:
        raise Undecided
    return logarithm(field, value)


def _factorial(field: Field, value: Quotient) -> Quotient:
    """(n + 2)! = n! (n + 1) (n + 2)."""
    shift = math.floor(value.top.get((), 0)) if value.bottom == ONE else 0
    if not 0 < abs(shift) <= MAX_FACTORS:
        return _opaque(field, "!", value)
    base = field.add(value, field.number(-shift))
    result = _opaque(field, "!", base)
    for step in range(min(shift, 0) + 1, max(shift, 0) + 1):
        factor = field.add(base, field.number(step))
        if shift < 0:
            factor = field.divided(factor.bottom, factor.top)
        result = field.multiply(result, factor)
    return result


def _binomial(field: Field, above: Quotient, below: Quotient) -> Quotient:
    count = below.rational
    if count is None or count.denominator > 1 or not 0 <= count <= MAX_FACTORS:
        return _opaque(field, "binomial", above, below)
    result = field.number(Fraction(1, math.factorial(int(count))))
    for step in range(int(count)):
        result = field.multiply(result, field.add(above, field.number(-step)))
    return result


def _hyperbolic(field: Field, name: str, value: Quotient) -> Quotient:
    """By the exponential function."""
    euler = field.generator(("e",))
    growing = power(field, euler, value, Symbol("e"))
    falling = power(field, euler, field.negative(value), Symbol("e"))
    sine = field.multiply(field.add(growing, field.negative(falling)), field.number(Fraction(1, 2)))
    cosine = field.multiply(field.add(growing, falling), field.number(Fraction(1, 2)))
    if name == "tanh":
        return field.divide(sine, cosine, Number(Fraction(1)))  # the hyperbolic cosine is at least 1
    return sine if name == "sinh" else cosine
