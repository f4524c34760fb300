"""Exact values of rational constant expressions, with limits that hold before a number is computed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

from .tree import Call, Expression, Number, Symbol

MAX_BITS = 20_000  # of a numerator or denominator
MAX_NODES, MAX_DEPTH = 4_000, 100  # of a tree

MAX_WORK = 12_000  # of one comparison, in units of about a microsecond

Rational = int | Fraction


class Undecided(Exception):  # noqa: N818 — control flow, not an error
    """The value is undefined, too large to compute, or not of the kind that is asked for."""


class Meter:
    """Counts work; raises Undecided beyond MAX_WORK."""

    def __init__(self) -> None:
        self.work = 0

    def charge(self, work: int) -> None:
        """Count work of about so many microseconds."""
        self.work += work
        if self.work > MAX_WORK:
            raise Undecided


def cost(value: Rational) -> int:
    """The work of one operation, for a fraction that of the greatest common divisor."""
    if isinstance(value, int):
        return 1 + (value.bit_length() // 1000) ** 2
    return 1 + (bits(value) // 400) ** 2


def is_small(expression: Expression) -> bool:
    """Whether a tree has at most MAX_NODES nodes and MAX_DEPTH levels, so that recursion over it is safe."""
    level, nodes = [expression], 0
    for _ in range(MAX_DEPTH):
        nodes += len(level)
        if not level or nodes > MAX_NODES:
            break
        level = [argument for node in level if isinstance(node, Call) for argument in node.arguments]
    return not level and nodes <= MAX_NODES


def bits(value: Rational) -> int:
    """The bits of the longer of numerator and denominator."""
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def absolute(value: Rational) -> Rational:
    """|value|."""
    return -value if value < 0 else value


def plain(value: Rational) -> Rational:
    """The value as an int where it is whole; raises Undecided beyond MAX_BITS."""
    if isinstance(value, int):
        if value.bit_length() > MAX_BITS:
            raise Undecided
        return value
    if bits(value) > MAX_BITS:
        raise Undecided
    return value.numerator if value.denominator == 1 else value


def integer_power(base: Rational, exponent: int) -> Rational:
    """base^exponent; raises Undecided for 0^0 and 1/0, and beyond MAX_BITS."""
    if base == 0 and exponent <= 0:
        raise Undecided
    if abs(base) == 1:
        return base if exponent % 2 else 1
    if (bits(base) - 1) * abs(exponent) > MAX_BITS:
        raise Undecided
    return plain(Fraction(base) ** exponent)


def factorial(value: Rational) -> int:
    """value! of a natural number; raises Undecided for others, and beyond MAX_BITS."""
    if value.denominator != 1 or value < 0 or value > MAX_BITS or math.lgamma(int(value) + 1) > MAX_BITS * math.log(2):
        raise Undecided
    return math.factorial(int(value))


def binomial(above: Rational, below: Rational) -> int:
    """above choose below, of natural numbers; 0 where below > above."""
    if above.denominator != 1 or below.denominator != 1 or above < 0 or below < 0:
        raise Undecided
    if below > above:
        return 0
    fewer = min(int(below), int(above - below))
    if fewer and (int(above).bit_length() > MAX_BITS or fewer * _bits_of_factor(int(above), fewer) > MAX_BITS // 2):
        raise Undecided
    return math.comb(int(above), fewer)


def _bits_of_factor(above: int, fewer: int) -> int:
    """An upper bound of log2(e x above / fewer); `above choose fewer` is at most (e x above / fewer)^fewer."""
    return (3 * above // fewer).bit_length()


class Arithmetic:
    """The exact values of the rational nodes of trees, each computed once, for given values of the variables."""

    def __init__(self, meter: Meter, variables: Mapping[str, Rational] | None = None) -> None:
        self.meter = meter
        self._variables = variables or {}
        self._known: dict[int, tuple[Expression, Rational | None]] = {}  # keeps the nodes, whose ids are the keys

    def rational(self, expression: Expression) -> Rational | None:
        """The exact value; None where there are symbols or irrational parts, where it is undefined, or too large."""
        if isinstance(expression, Number):
            value = expression.value
            return None if bits(value) > MAX_BITS else (value.numerator if value.denominator == 1 else value)
        if isinstance(expression, Symbol):
            return self._variables.get(expression.name)
        known = self._known.get(id(expression))
        if known is None:
            known = self._known[id(expression)] = expression, self._value(expression)
        return known[1]

    def _value(self, call: Call) -> Rational | None:
        values = [self.rational(argument) for argument in call.arguments]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return None
        self.meter.charge(sum(map(cost, known)))
        try:
            value = operate(call.name, known)
            if call.name in ("!", "binomial"):
                self.meter.charge(bits(value) // 8)
            return value
        except Undecided:
            return None


def operate(name: str, values: list[Rational]) -> Rational:
    """The value of an operation on rational numbers; raises Undecided where it is irrational or undefined."""
    match name:
        case "+":
            return plain(_total(values))
        case "*":
            product: Rational = 1
            for value in values:
                product = plain(product * value)
            return product
        case "-":
            return -values[0]
        case "/" if values[1]:
            return plain(Fraction(values[0]) / values[1])
        case "^" if values[1].denominator == 1:
            return integer_power(values[0], int(values[1]))
        case "!":
            return factorial(values[0])
        case "binomial":
            return binomial(values[0], values[1])
        case "abs":
            return absolute(values[0])
        case "floor":
            return math.floor(values[0])
        case "ceil":
            return math.ceil(values[0])
    raise Undecided


def _total(values: list[Rational]) -> Rational:
    """The sum, over one common denominator."""
    if all(isinstance(value, int) for value in values):
        return sum(values)
    denominator = 1
    for value in values:
        denominator = math.lcm(denominator, value.denominator)
        plain(denominator)
    return Fraction(sum(value.numerator * (denominator // value.denominator) for value in values), denominator)
