"""Intervals that certainly hold the values of expressions, at a given precision."""

from __future__ import annotations

from fractions import Fraction

from . import intervals
from .intervals import MAX_EXPONENT_BITS, Interval, add, divide, from_rational, multiply, negative, sign
from .rational import Arithmetic, Rational, Undecided, factorial
from .tree import Call, Expression, Number, Symbol

STIRLING_FROM = 1_000  # smaller factorials are computed exactly
SQUARED = 1_000  # largest exponent of repeated squaring
# B_{2k} / (2k (2k - 1)) for k = 1, 2, ...: the coefficients of 1 / n^{2k - 1} in Stirling's series
_STIRLING = tuple(
    map(Fraction, ["1/12", "-1/360", "1/1260", "-1/1680", "1/1188", "-691/360360", "1/156", "-3617/122400"])
)


class Enclosure:
    """Encloses the values of expressions; `arithmetic` holds the values of the variables."""

    def __init__(self, arithmetic: Arithmetic, precision: int) -> None:
        self._arithmetic = arithmetic
        self._precision = precision
        self._price = 40 + precision // 5  # of an elementary function, in microseconds

    def interval(self, expression: Expression) -> Interval:
        """The interval; raises Undecided where the expression may have no real value."""
        self._arithmetic.meter.charge(10)
        known = self._arithmetic.rational(expression)
        if known is not None:
            return from_rational(known, self._precision)
        if isinstance(expression, Number):
            return from_rational(expression.value, self._precision)
        if isinstance(expression, Symbol):
            return self._symbol(expression.name)
        self._arithmetic.meter.charge(self._price)
        if expression.name in ("^", "root"):
            return self._power(expression)
        return self._operate(expression, [self.interval(argument) for argument in expression.arguments])

    def _symbol(self, name: str) -> Interval:
        if name == "pi":
            return intervals.pi(self._precision)
        if name == "e":
            return intervals.exponential(intervals.ONE, self._precision)
        raise Undecided

    def _operate(self, call: Call, values: list[Interval]) -> Interval:
        precision, first = self._precision, values[0]
        match call.name:
            case "+":
                for value in values[1:]:
                    first = add(first, value, precision)
                return first
            case "*":
                for value in values[1:]:
                    first = multiply(first, value, precision)
                return first
            case "-":
                return negative(first)
            case "/":
                return divide(first, values[1], precision)
            case "log":
                above = intervals.logarithm(first, precision)
                return divide(above, intervals.logarithm(values[1], precision), precision)
            case "degrees":
                return divide(multiply(first, intervals.pi(precision), precision), self._whole(180), precision)
            case "!":
                return intervals.exponential(self._log_factorial(call.arguments[0]), precision)
            case "binomial":
                return intervals.exponential(self._log_binomial(*call.arguments), precision)
            case "abs":
                return intervals.absolute(first)
            case "floor":
                return intervals.floor(first)
            case "ceil":
                return negative(intervals.floor(negative(first)))
        return self._transcendental(call.name, first)

    def _whole(self, value: int) -> Interval:
        return from_rational(value, self._precision)

    def _transcendental(self, name: str, value: Interval) -> Interval:
        precision = self._precision
        self._arithmetic.meter.charge(4 * self._price)
        match name:
            case "arctan":
                return intervals.arctangent(value, precision)
            case "arccos":
                return intervals.arccosine(value, precision)
            case "arcsin":
                right_angle = divide(intervals.pi(precision), self._whole(2), precision)
                return add(right_angle, negative(intervals.arccosine(value, precision)), precision)
            case "sinh" | "cosh" | "tanh":
                return self._hyperbolic(name, value)
        cosine, sine = intervals.cosine_and_sine(value, precision)
        match name:
            case "sin":
                return sine
            case "cos":
                return cosine
            case "tan":
                return divide(sine, cosine, precision)
            case "cot":
                return divide(cosine, sine, precision)
            case "sec":
                return divide(intervals.ONE, cosine, precision)
            case "csc":
                return divide(intervals.ONE, sine, precision)
        raise Undecided

    def _hyperbolic(self, name: str, value: Interval) -> Interval:
        precision = self._precision
        growing = intervals.exponential(value, precision)
        falling = intervals.exponential(negative(value), precision)
        if name == "tanh":  # 1 - 2 / (e^{2x} + 1)
            square = add(multiply(growing, growing, precision), intervals.ONE, precision)
            return add(intervals.ONE, negative(divide(self._whole(2), square, precision)), precision)
        total = add(growing, falling if name == "cosh" else negative(falling), precision)
        return divide(total, self._whole(2), precision)

    def _power(self, call: Call) -> Interval:
        """base^exponent; by convention an odd root of a negative number is real."""
        exponent = self._arithmetic.rational(call.arguments[1])
        base = self.interval(call.arguments[0])
        if call.name == "root":
            if not exponent or exponent < 0:
                raise Undecided
            exponent = Fraction(1) / exponent
        if exponent is None:
            return self._exponential(base, self.interval(call.arguments[1]))
        if exponent.denominator == 1:
            return self._whole_power(base, exponent.numerator)
        if exponent == Fraction(1, 2):
            return intervals.square_root(base, self._precision)
        if sign(base) < 0 and exponent.denominator % 2:
            power = self._rational_power(negative(base), exponent)
            return negative(power) if exponent.numerator % 2 else power
        return self._rational_power(base, exponent)

    def _whole_power(self, base: Interval, exponent: int) -> Interval:
        if exponent < 0:
            return divide(intervals.ONE, self._whole_power(base, -exponent), self._precision)
        if exponent == 0 and not sign(base):
            raise Undecided
        if exponent <= SQUARED:
            self._arithmetic.meter.charge(10 * exponent.bit_length())
            return intervals.whole_power(base, exponent, self._precision)
        size = self._rational_power(intervals.absolute(base), exponent)
        return negative(size) if exponent % 2 and sign(base) < 0 else size

    def _rational_power(self, base: Interval, exponent: Rational) -> Interval:
        return self._exponential(base, from_rational(exponent, self._precision + MAX_EXPONENT_BITS))

    def _exponential(self, base: Interval, exponent: Interval) -> Interval:
        """base^exponent of a positive base; the digits before the point of the exponent need further precision."""
        precision = self._precision + intervals.whole_bits(exponent)
        self._arithmetic.meter.charge(20 + precision // 2)
        logarithm = intervals.logarithm(base, precision)
        return intervals.exponential(multiply(exponent, logarithm, precision), self._precision)

    def _log_factorial(self, expression: Expression) -> Interval:
        """ln n! by Stirling's series, each of whose partial sums errs by less than the next term, with its sign."""
        known = self._arithmetic.rational(expression)
        if known is not None and (known.denominator > 1 or known < 0):
            raise Undecided
        wide = self._precision + MAX_EXPONENT_BITS
        value = self.interval(expression) if known is None else from_rational(known, wide)
        precision = self._precision + intervals.whole_bits(value)
        if known is not None and known < STIRLING_FROM:
            return intervals.logarithm(from_rational(factorial(known), precision), precision)
        if not sign(add(value, self._whole(-STIRLING_FROM), precision)) > 0:
            raise Undecided
        self._arithmetic.meter.charge(10 * self._price)
        half = from_rational(Fraction(1, 2), precision)
        total = multiply(add(value, half, precision), intervals.logarithm(value, precision), precision)
        total = add(total, negative(value), precision)
        circle = multiply(self._whole(2), intervals.pi(precision), precision)
        total = add(total, multiply(half, intervals.logarithm(circle, precision), precision), precision)
        square = multiply(value, value, precision)
        for coefficient in _STIRLING:
            term = divide(from_rational(coefficient, precision), value, precision)
            value = multiply(value, square, precision)
            total = add(total, term if coefficient is not _STIRLING[-1] else intervals.with_zero(term), precision)
        return total

    def _log_binomial(self, above: Expression, below: Expression) -> Interval:
        first, second = self._arithmetic.rational(above), self._arithmetic.rational(below)
        if first is None or second is None or not 0 <= second <= first:
            raise Undecided
        parts = [self._log_factorial(Number(Fraction(value))) for value in (first, second, first - second)]
        fewer = add(parts[1], parts[2], self._precision + MAX_EXPONENT_BITS)
        return add(parts[0], negative(fewer), self._precision)
