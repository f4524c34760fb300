"""Certified bounds, decimals beside exact values, and antiderivatives: hand cases, properties, and hostile trees."""

from __future__ import annotations

import time
from collections.abc import Callable
from fractions import Fraction
from functools import reduce

import mpmath
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from trees import expressions, integer, tree, value

from rewards.verify.bounds import different, enclose
from rewards.verify.exact import equal
from rewards.verify.expressions import approximates, compare
from rewards.verify.intervals import as_fractions
from rewards.verify.rational import Undecided
from rewards.verify.tree import Call, Expression, Number, Symbol

QUICK = settings(max_examples=150, deadline=None, derandomize=True)

DIFFERENT = """
9**9**9**9 = 9**9**9**8
9**9**9**9 = 10**100
9**9**9 = 9**9**8
1/9**9**9**9 = 1/9**9**9**8
factorial(10**9) = factorial(10**9 - 1)
binomial(10**9, 5*10**8) = binomial(10**9, 5*10**8 - 1)
binomial(10**9, 5*10**8) = 4
e**pi = pi**e
e**(pi*sqrt(163)) = 262537412640768744
sqrt(2) + sqrt(3) = sqrt(5 + 2*sqrt(6)) + 10**(-200)
sin(1) = cos(1)
sin(10**200) = 0
sin(x) = x
abs(x) = x
x**x = x**(x + 1)
n*(n + 1)/2 = n*(n - 1)/2
ln(x) = log(x, 10)
arctan(1/3) + arctan(1/2) = pi/4 + 10**(-20)
"""

UNDECIDED = """
9**9**9**9 = 9**9**9**9 + 1
factorial(10**9) = factorial(10**9)
sin(n*pi) = 0
cos(n*pi) = (-1)**n
cos(2*pi*k) = 1
ln(x) = ln(-x)
sqrt(2*h/g) = sqrt(2*g*h)/g
sqrt(x)*sqrt(y) = sqrt(x*y)
1/0 = 2
ln(0) = 2
tan(pi/2) = 2
sqrt(-1) = 2
i = 2
arctan(1/3) + arctan(1/2) = pi/4
"""

COMPARED = """
2.718281828 = e
2.7182818284 = e
3.14159265 = pi
3.141592 = pi
3.141593 = pi
-3.141593 = -pi
0.333333 = 1/3
0.3333333333 = 1/3
0.666667 = 2/3
0.666666 = 2/3
0.090909 = 1/11
1.4142135623730950488016887242 = sqrt(2)
0.693147 = ln(2)
0.50 = sin(degrees(30))
0.75 = 3/4
x**2 + C = x**2 + K
x**2 + C = x**2 - c
x**2/2 + C = k + x*x/2
x**2 + C = x**2 + 1 + C
ln(abs(2*x)) + C = ln(abs(x)) + C
sin(x)**2 + C = K - cos(x)**2
"""

NOT_EQUAL = """
0.33 = 1/3
0.33333 = 1/3
0.333334 = 1/3
0.666668 = 2/3
3.14 = pi
3.14159 = pi
3.141594 = pi
0.000001 = 1/900000
0.4999999 = 1/2
0.999999 = 1
0.9999999999 = 1
1.4142135623730950488016887243 = sqrt(2)
0.30 = 1/3
1 - 2**(-40) = 1
x**2 + C = x**2
x**2 + C = x**2 + x + K
x**2 + C = x**3 + C
a + c = a + k
x*C + C = x*K + K
x + 2*C = x + 2*K
x + y = x + z
"""


def rows(table: str) -> list[tuple[str, str]]:
    return [(left, right) for line in table.strip().splitlines() for left, _, right in [line.partition(" = ")]]


@pytest.mark.parametrize(("left", "right"), rows(DIFFERENT))
def test_values_that_certainly_differ_are_different(left: str, right: str) -> None:
    assert different(tree(left), tree(right))
    assert different(tree(right), tree(left))


@pytest.mark.parametrize(("left", "right"), rows(UNDECIDED))
def test_nothing_else_is_called_different(left: str, right: str) -> None:
    assert not different(tree(left), tree(right))
    assert not different(tree(right), tree(left))


@pytest.mark.parametrize(("left", "right"), rows(COMPARED))
def test_decimals_and_antiderivatives_are_equal_by_convention(left: str, right: str) -> None:
    assert compare(tree(left), tree(right)) is True
    assert compare(tree(right), tree(left)) is True


@pytest.mark.parametrize(("left", "right"), rows(NOT_EQUAL))
def test_other_decimals_and_functions_are_not_equal(left: str, right: str) -> None:
    assert compare(tree(left), tree(right)) is False
    assert compare(tree(right), tree(left)) is False


@QUICK
@given(expressions(variables=False), st.sampled_from([53, 200, 1000]))
def test_an_interval_holds_the_value(expression: Expression, precision: int) -> None:
    try:
        low, high = as_fractions(enclose(expression, precision))
    except Undecided:
        assume(False)
    with mpmath.workprec(1200):
        try:
            exact = value(expression, {})
        except (ArithmeticError, ValueError):
            assume(False)
        assume(abs(mpmath.im(exact)) < 1e-300)
        slack = abs(exact) * mpmath.mpf(2) ** -1100 + mpmath.mpf(2) ** -1100
        assert mpmath.mpf(low.numerator) / low.denominator <= mpmath.re(exact) + slack
        assert mpmath.re(exact) - slack <= mpmath.mpf(high.numerator) / high.denominator


@QUICK
@given(st.fractions(-50, 50, max_denominator=97), st.integers(6, 30), st.sampled_from(["round", "cut"]), st.booleans())
def test_a_decimal_is_the_value_rounded_or_cut(number: Fraction, decimals: int, how: str, with_pi: bool) -> None:
    assume(abs(number) > 1)
    exact = Call("*", (Number(number), Symbol("pi"))) if with_pi else Number(number)
    with mpmath.workdps(60):
        scaled = mpmath.mpf(number.numerator) / number.denominator * (mpmath.pi if with_pi else 1) * 10**decimals
        whole = int(mpmath.nint(scaled) if how == "round" else scaled)
    unit = Fraction(1, 10**decimals)
    terminates = not with_pi and 10**40 % number.denominator == 0
    literal = Number(whole * unit, decimals)
    assert compare(literal, exact) is (literal.value == number if terminates else True)
    for wrong in (whole - 2, whole + 2):
        assert approximates(Number(wrong * unit, decimals), exact) is False


def nested(step: Callable[[Expression], Expression], start: Expression, depth: int) -> Expression:
    return reduce(lambda inner, _: step(inner), range(depth), start)


X, TWO = Symbol("x"), integer(2)
NUMBERS = [integer(3**300 + 2 * k) for k in range(900)]
HOSTILE = {
    "a sum of powers": Call("+", tuple(Call("^", (X, integer(k))) for k in range(1, 1000))),
    "a sum of roots": Call("+", tuple(Call("root", (integer(k), TWO)) for k in range(2, 1000))),
    "a sum of logarithms": Call("+", tuple(Call("log", (integer(k), Symbol("e"))) for k in range(2, 1000))),
    "a sum of quotients": tree(" + ".join(f"1/(x + {k})" for k in range(90))),
    "a sum of long roots": Call("+", tuple(Call("root", (number, TWO)) for number in NUMBERS)),
    "a product of long numbers": Call("*", tuple(NUMBERS)),
    "a long power": tree("(x + 1)**300"),
    "a power of many radicals": tree("(1 + sqrt(2) + sqrt(3) + sqrt(5) + sqrt(7))**60"),
    "squares of sums": nested(lambda inner: Call("^", (Call("+", (inner, X)), TWO)), X, 45),
    "a tower": nested(lambda inner: Call("^", (integer(9), inner)), integer(9), 95),
    "a tower of variables": nested(lambda inner: Call("^", (X, inner)), X, 95),
    "factorials": nested(lambda inner: Call("!", (inner,)), integer(9), 95),
    "many large factorials": Call("+", tuple(Call("!", (integer(2000 - k),)) for k in range(300))),
    "many large binomials": Call("+", tuple(Call("binomial", (integer(5000 + k), integer(2500))) for k in range(300))),
    "nested roots": nested(lambda inner: Call("root", (Call("+", (inner, X)), TWO)), X, 45),
    "nested sines": nested(lambda inner: Call("sin", (inner,)), integer(1), 95),
    "nested hyperbolic sines": nested(lambda inner: Call("sinh", (inner,)), X, 95),
    "more levels than are read": nested(lambda inner: Call("-", (inner,)), X, 100_000),
    "more terms than are read": Call("+", (X,) * 100_000),
    "a long literal": integer(10**50_000 + 1),
    "a huge angle": tree("sin(e**(10**299))"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_expression_costs_little(name: str) -> None:
    expression = HOSTILE[name]
    for other in (
        Call("+", (integer(1), expression)),
        Call("+", (expression, integer(0))),
        Number(Fraction(314, 100), 2),
    ):
        started = time.process_time()
        compare(expression, other)
        assert time.process_time() - started < 5  # seconds; about 0.05 on an idle machine


@QUICK
@given(expressions(), expressions())
def test_comparison_is_symmetric_and_consistent(left: Expression, right: Expression) -> None:
    verdict = compare(left, right)
    assert compare(right, left) is verdict
    assert verdict is not True or not different(left, right)
    assert equal(left, right) is not True or verdict is True
