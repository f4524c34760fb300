"""Values of sympy expressions at rational points, with enough digits to tell any two answers apart."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import mpmath
import sympy
from math_verify import verify

DIGITS = 60  # of agreement, at least, beyond the largest and the smallest number of an expression
MAX_EXTENT = 7_000  # decimal digits of the largest number that is evaluated
MAX_TERMS = 10_000  # of a sum or product that is added term by term
POINTS, ENOUGH = 16, 6  # points that are tried, and those that suffice
PIECES = 12  # times as many where a function has pieces: x^2 - 3x + 2 and its absolute value differ in [1, 2] only
_SPREADS = ((0, 1), (1, 3), (2, 9), (9, 60))  # of the points: arcsin needs small ones, the root of x - 5 large ones
_PIECEWISE = (sympy.Abs, sympy.Max, sympy.Min, sympy.floor, sympy.ceiling, sympy.sign)
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sin": mpmath.sin, "cos": mpmath.cos, "tan": mpmath.tan, "cot": mpmath.cot, "sec": mpmath.sec, "csc": mpmath.csc,
    "asin": mpmath.asin, "acos": mpmath.acos, "atan": mpmath.atan, "acot": mpmath.acot, "asec": mpmath.asec,
    "acsc": mpmath.acsc, "sinh": mpmath.sinh, "cosh": mpmath.cosh, "tanh": mpmath.tanh, "asinh": mpmath.asinh,
    "acosh": mpmath.acosh, "atanh": mpmath.atanh, "coth": mpmath.coth, "sech": mpmath.sech, "csch": mpmath.csch,
    "exp": mpmath.exp, "Abs": mpmath.fabs, "factorial": mpmath.factorial, "binomial": mpmath.binomial,
    "gamma": mpmath.gamma, "erf": mpmath.erf, "re": mpmath.re, "im": mpmath.im, "conjugate": mpmath.conj,
    "arg": mpmath.arg, "sign": mpmath.sign, "UnevaluatedExpr": lambda value: value, "zeta": mpmath.zeta,
    "log": lambda value, base=None: mpmath.log(value) if base is None else mpmath.log(value) / mpmath.log(base),
    "Max": max, "Min": min, "Mod": lambda value, divisor: value - divisor * mpmath.floor(value / divisor),
}  # fmt: skip
_CONSTANTS = {
    sympy.pi: lambda: +mpmath.pi,
    sympy.E: lambda: +mpmath.e,
    sympy.I: lambda: mpmath.mpc(0, 1),
    sympy.EulerGamma: lambda: +mpmath.euler,
    sympy.GoldenRatio: lambda: +mpmath.phi,
}
CALCULUS = (sympy.Integral, sympy.Limit, sympy.Derivative, sympy.Sum, sympy.Product)
_GROWING = (sympy.factorial, sympy.binomial, sympy.gamma, sympy.exp, sympy.sinh, sympy.cosh)
Point = Mapping[str, Fraction]


class Undecided(Exception):  # noqa: N818 — control flow, not an error
    """An expression has no value at a point, or none that is found."""


@dataclass(slots=True)
class _Evaluator:
    """Evaluates expressions at one point, and remembers the size of every number that it met."""

    point: dict[str, Any]
    complex_numbers: bool
    smallest: Any = field(default_factory=lambda: mpmath.mpf(1))
    largest: Any = field(default_factory=lambda: mpmath.mpf(1))
    real: bool = True

    def __call__(self, node: Any) -> Any:
        """The value of an expression; Undecided if it isn't a finite number."""
        value = self._value(node)
        if not mpmath.isfinite(value):
            raise Undecided
        if isinstance(value, mpmath.mpc) and value.imag == 0:
            value = value.real
        self.real = self.real and not isinstance(value, mpmath.mpc)
        size = abs(value)
        if size:
            self.smallest, self.largest = min(self.smallest, size), max(self.largest, size)
        return value

    def _value(self, node: Any) -> Any:
        if node.is_Rational:
            return mpmath.mpf(node.p) / node.q
        if node in _CONSTANTS:
            return _CONSTANTS[node]()
        if node.is_Symbol or isinstance(node, sympy.core.function.AppliedUndef):
            return self.point[str(node)]
        if node.is_Add:
            return mpmath.fsum(self(argument) for argument in node.args)
        if node.is_Mul:
            return mpmath.fprod(self(argument) for argument in node.args)
        if node.is_Pow:
            return self._power(*node.args)
        if isinstance(node, sympy.floor | sympy.ceiling):
            return self._rounded(node)
        if isinstance(node, CALCULUS):
            return self._calculus(node)
        if function := _FUNCTIONS.get(type(node).__name__):
            arguments = [self(argument) for argument in node.args]
            if isinstance(node, _GROWING) and any(abs(argument) > MAX_EXTENT for argument in arguments):
                raise Undecided
            return function(*arguments)
        raise Undecided

    def _power(self, base: Any, exponent: Any) -> Any:
        value = self(base)
        if exponent.is_Integer and abs(exponent) < 1000:
            return mpmath.power(value, int(exponent))
        if exponent.is_Rational and exponent.q % 2 and not self.complex_numbers and value < 0:
            root = mpmath.power(-value, self(exponent))  # the cube root of -8 is -2, unless the answer is complex
            return -root if exponent.p % 2 else root
        power = self(exponent)
        if value and abs(power) * abs(mpmath.log10(abs(value))) > MAX_EXTENT:
            raise Undecided
        return mpmath.power(value, power)

    def _rounded(self, node: Any) -> Any:
        value = self(node.args[0])
        nearest = mpmath.nint(value)
        if value != nearest and abs(value - nearest) < mpmath.mpf(10) ** (-DIGITS // 2):
            raise Undecided
        return mpmath.floor(value) if isinstance(node, sympy.floor) else mpmath.ceil(value)

    def _calculus(self, node: Any) -> Any:
        if isinstance(node, sympy.Sum | sympy.Product) and len(node.limits) == 1:
            index, *bounds = node.limits[0]
            first, last = (self(bound) if bound.is_finite is not False else None for bound in bounds)
            if first is not None and last is not None and first == int(first) and last == int(last):
                return self._terms(node, str(index), first, last)
        done = rebuilt(node).doit()
        if done.has(*CALCULUS):
            raise Undecided
        return self(done)

    def _terms(self, node: Any, index: str, first: Any, last: Any) -> Any:
        if not -1 <= last - first <= MAX_TERMS:
            raise Undecided
        outside, values = self.point.get(index), []
        for number in range(int(first), int(last) + 1):
            self.point[index] = mpmath.mpf(number)
            values.append(self(node.function))
        self.point[index] = outside
        return mpmath.fsum(values) if isinstance(node, sympy.Sum) else mpmath.fprod(values)


def rebuilt(node: Any) -> Any:
    """An expression in sympy's own order, so that `ab` and `ba` are one."""
    return node.func(*map(rebuilt, node.args)) if node.args else node


def variables(*expressions: Any) -> list[str]:
    """The names of the free symbols and of the undefined functions, sorted."""
    found = {str(symbol) for expression in expressions for symbol in expression.free_symbols}
    applied = {str(call) for expression in expressions for call in expression.atoms(sympy.core.function.AppliedUndef)}
    return sorted(found | applied)


def points(
    names: list[str], seed: str, count: int = POINTS, reach: Fraction = Fraction(0)
) -> Iterator[dict[str, Fraction]]:
    """Random points, the same for the same seed: positive and signed ones in turn, near to zero and far from it.

    Some lie between `reach`, the largest number in the expressions, and three times it: there pieces of functions meet.
    """
    source = random.Random(seed)
    spreads = (_SPREADS[0], (reach, 3 * reach), *_SPREADS[1:]) if reach > 1 else _SPREADS
    for number in range(count if names else 1):
        low, high = spreads[number // 2 % len(spreads)]
        point = {}
        for name in names:
            value = low + (high - low) * Fraction(source.randrange(1, 9973), 9973)
            if count > POINTS and source.random() < 0.3:  # where floors jump
                value = Fraction(round(value))
            point[name] = -value if number % 2 and source.random() < 0.6 else value
        yield point


def _has_root(expression: Any) -> bool:
    return any(not power.exp.is_Integer for power in expression.atoms(sympy.Pow))


def _reach(left: Any, right: Any) -> Fraction:
    """The largest absolute value of a number in two expressions; numbers beyond a million count as that."""
    numbers = [
        abs(Fraction(int(number.p), int(number.q)))
        for number in (left.atoms(sympy.Rational) | right.atoms(sympy.Rational))
    ]
    return min(max(numbers, default=Fraction(0)), Fraction(10**6))


def equal(left: Any, right: Any, seed: str) -> bool:
    """Whether two expressions have the same values at random points.

    Each point lies in both domains: no number on the way to the values may be complex, unless an answer contains the
    imaginary unit, or has no real value anywhere. A difference at one point decides, and so does equality at ENOUGH.
    """
    names = variables(left, right)
    factor = PIECES if left.has(*_PIECEWISE) or right.has(*_PIECEWISE) else 1
    reach = _reach(left, right) if factor > 1 or _has_root(left) or _has_root(right) else Fraction(0)
    for complex_numbers in (False, True):
        if not complex_numbers and (left.has(sympy.I) or right.has(sympy.I)):
            continue
        agreed = 0
        for point in points(names, seed, POINTS * factor, reach):
            with suppress(Undecided):
                (x, y), resolution, real = _precise(left, right, point, complex_numbers)
                if real or complex_numbers:
                    if abs(x - y) > resolution * max(1, abs(x), abs(y)):
                        return False
                    agreed += 1
            if agreed == ENOUGH * factor:
                break
        if agreed >= (ENOUGH // 2 if names else 1):
            return True
    return _by_transformation(left, right)


def _by_transformation(left: Any, right: Any) -> bool:
    """math-verify's verdict where sums, integrals and limits have no values that numbers find, such as infinite sums.

    It transforms the two expressions with sympy, and compares floats to 30 digits. A finite sum of very many terms
    isn't tried: no person would give it as an answer, and sympy may add up its terms.
    """
    if not any(
        side.has(sympy.Integral, sympy.Limit) or (side.has(*CALCULUS) and side.has(sympy.oo)) for side in (left, right)
    ):
        return False
    return bool(verify(left, right, float_rounding=30, numeric_precision=DIGITS, timeout_seconds=None))


def proportional(left: Any, right: Any, seed: str) -> Any | None:
    """The constant factor between two expressions that aren't 0 everywhere, or None."""
    names = variables(left, right)
    factor, agreed = None, 0
    for point in points(names, seed):
        with suppress(Undecided):
            (x, y), resolution, _ = _precise(left, right, point, True)
            if abs(x) <= resolution or abs(y) <= resolution:
                if abs(x - y) > resolution:
                    return None
                continue
            with mpmath.workdps(DIGITS):
                factor = x / y if factor is None else factor
                if abs(x - factor * y) > mpmath.mpf(10) ** (-DIGITS // 2) * abs(x):
                    return None
            agreed += 1
    return factor if agreed >= ENOUGH and not isinstance(factor, mpmath.mpc) else None


def number(expression: Any) -> Any:
    """The real value of a constant expression to DIGITS digits, also if it is infinite; Undecided if it has none."""
    if expression in (sympy.oo, -sympy.oo):
        return mpmath.inf if expression == sympy.oo else -mpmath.inf
    if variables(expression):
        raise Undecided
    (value, _), _, real = _precise(expression, sympy.S.Zero, {}, False)
    if not real:
        raise Undecided
    return value


def _precise(left: Any, right: Any, point: Point, complex_numbers: bool) -> tuple[tuple[Any, Any], Any, bool]:
    """Two values, the relative difference that their digits resolve, and whether only real numbers led to them.

    The digits follow from the largest and the smallest number on the way, so that 2^990 - 1 and 2^990 differ.
    """
    with mpmath.workdps(30):
        evaluator = _evaluate(left, right, point, complex_numbers)[1]
        if not (evaluator.real or complex_numbers):
            return (0, 0), 0, False
        extent = int(max(mpmath.log10(evaluator.largest), -mpmath.log10(evaluator.smallest), 0)) + 1
    if extent > MAX_EXTENT:
        raise Undecided
    with mpmath.workdps(DIGITS + 40 + 4 * extent):
        found, evaluator = _evaluate(left, right, point, complex_numbers)
        return found, mpmath.mpf(10) ** (-DIGITS - 2 * extent), evaluator.real


def _evaluate(left: Any, right: Any, point: Point, complex_numbers: bool) -> tuple[tuple[Any, Any], _Evaluator]:
    exact = {name: mpmath.mpf(value.numerator) / value.denominator for name, value in point.items()}
    evaluator = _Evaluator(exact, complex_numbers)
    try:
        return (evaluator(left), evaluator(right)), evaluator
    except (ArithmeticError, ValueError, TypeError, KeyError, NotImplementedError, mpmath.libmp.NoConvergence):
        raise Undecided from None
