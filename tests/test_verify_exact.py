"""Exact comparison of expressions: hand cases, and properties against sympy and mpmath in both directions."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import mpmath
import pytest
import sympy
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from trees import expressions, integer, polynomials, to_sympy, tree, value

from rewards.verify.bounds import different
from rewards.verify.exact import equal
from rewards.verify.tree import Call, Expression, Number, Symbol

QUICK = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
POINTS = (
    {"x": Fraction(7, 3), "y": Fraction(5, 11)},
    {"x": Fraction(13, 4), "y": Fraction(17, 6)},
    {"x": Fraction(2, 9), "y": Fraction(8, 5)},
)

EQUAL = """
2**40 = 1099511627776
(10**10 - 1)/9 = 1111111111
factorial(20) = 2432902008176640000
binomial(50, 25) = 126410606437752
factorial(2006)/factorial(2004) = 2006*2005
3*sqrt(2) = sqrt(18)
sqrt(1/2) = sqrt(2)/2
1/(1 + sqrt(2)) = sqrt(2) - 1
2/(sqrt(5) - 1) = (1 + sqrt(5))/2
cbrt(-8) = -2
(-8)**(1/3) = -2
cbrt(54) = 3*cbrt(2)
root(32, 5) = 2
2**(1/2)*2**(1/3) = 2**(5/6)
sqrt(6)*sqrt(10) = 2*sqrt(15)
sqrt(-4) = 2*i
(1 + i)**2 = 2*i
sqrt(10000000019*4) = 2*sqrt(10000000019)
sqrt(3 + 2*sqrt(2)) = 1 + sqrt(2)
sqrt(5 + 2*sqrt(6)) = sqrt(2) + sqrt(3)
sqrt(5 - 2*sqrt(6)) = sqrt(3) - sqrt(2)
sin(degrees(30)) = 1/2
tan(degrees(45)) = 1
cos(2*pi/3) = -1/2
sin(pi/12) = (sqrt(6) - sqrt(2))/4
cos(pi/5) = (1 + sqrt(5))/4
sin(-pi/4) = -sqrt(2)/2
sec(pi/3) = 2
arctan(1) = pi/4
arcsin(1/2) = pi/6
arccos(-sqrt(3)/2) = 5*pi/6
log(8, 2) = 3
log(8, 4) = 3/2
log(1/100, 10) = -2
ln(12) = ln(3) + 2*ln(2)
ln(e**3) = 3
ln(2)/ln(4) = 1/2
e**(i*pi) = -1
e**ln(5) = 5
e**(2*ln(3)) = 9
2**log(7, 2) = 7
abs(-3/2) = 3/2
abs(sqrt(2) - 2) = 2 - sqrt(2)
abs(3 + 4*i) = 5
floor(7/2) = 3
floor(sqrt(10)) = 3
ceil(-7/2) = -3
ceil(pi) = 4
pi*r**2 = r**2*pi
(a + b)**2 = a**2 + 2*a*b + b**2
(x**2 - 1)/(x - 1) = x + 1
(x + y)*(x - y)/(x*y) = x/y - y/x
1/x + 1/y = (x + y)/(x*y)
1/sqrt(x + 1) = sqrt(x + 1)/(x + 1)
sqrt(4*x + 4) = 2*sqrt(x + 1)
sqrt(x**3) = x*sqrt(x)
sqrt(x)*sqrt(x) = x
x**(2/3) = cbrt(x)**2
sqrt(x**2) = abs(x)
sqrt(x*y) = sqrt(x)*sqrt(y)
2*pi*sqrt(l/g) = 2*pi*sqrt(l)/sqrt(g)
(x**2)**(1/4) = sqrt(x)
abs(x)**2 = x**2
ln(x**2) = 2*ln(abs(x))
ln(b/a) = ln(b) - ln(a)
ln(x**3) = 3*ln(x)
ln(2*x) = ln(2) + ln(x)
log(x, 2) = ln(x)/ln(2)
sin(x)**2 + cos(x)**2 = 1
tan(x) = sin(x)/cos(x)
sin(x + pi) = -sin(x)
cos(pi/2 - x) = sin(x)
sin(2*x) = 2*sin(x)*cos(x)
cos(2*x) = 2*cos(x)**2 - 1
sin(x + y) = sin(x)*cos(y) + cos(x)*sin(y)
abs(2*x - 2) = 2*abs(1 - x)
e**x*e = e**(x + 1)
(e**x)**2 = e**(2*x)
2**(n + 1) - 2 = 2*(2**n - 1)
4**n = 2**(2*n)
6**n = 2**n*3**n
(-2)**n = (-1)**n*2**n
factorial(n + 1) = (n + 1)*factorial(n)
binomial(n, 2) = n*(n - 1)/2
sinh(x) = (e**x - e**(-x))/2
9**(10**9) = 3**(2*10**9)
(x + 3)**999999 = (3 + x)**999999
"""

DIFFERENT = """
2**40 - 1 = 2**40
2**990 = 2**990 - 1
factorial(20) = factorial(20) + 1
binomial(60, 30) = binomial(60, 30) - 1
10**15*x = 10**15*x + x
1 - 2**(-40) = 1
1 + 1/e = 1 - 1/e
1/factorial(2006) = 1/factorial(2004)
X = x
pi = 22/7
pi = 3.14159265358979323846
sqrt(2) = 1.41421356
sqrt(2) + sqrt(3) = sqrt(5)
x + 1 = x + 2
x/y = y/x
e*pi + 1 = e*pi
2**(10**9) = 2**(10**9) + 1
9**9**9**9 = 9**9**9**9 + 1
(x + 3)**999999 = (x + 3)**999999 + 1
1 + i = 1 - i
"""

UNDECIDED = """
0**0 = 1
1/0 = 1/0
1/(x - x) = 1/(x - x)
tan(pi/2) = tan(pi/2)
0/(ln(2) + ln(3) - ln(6)) = 0
ln(0) = ln(0)
sqrt(x**2) = x
sqrt(2*h/g) = sqrt(2*g*h)/g
ln(x) = ln(abs(x))
ln(x**2) = 2*ln(x)*abs(x)/x
abs(x) = x
sqrt(-x) = i*sqrt(x)
factorial(-1) = factorial(-1)
e + pi = 6
"""


def rows(table: str) -> list[tuple[str, str]]:
    return [(left, right) for line in table.strip().splitlines() for left, _, right in [line.partition(" = ")]]


@pytest.mark.parametrize(("left", "right"), rows(EQUAL))
def test_equal_values_are_proven_equal(left: str, right: str) -> None:
    assert equal(tree(left), tree(right)) is True
    assert equal(tree(right), tree(left)) is True
    assert not different(tree(left), tree(right))


@pytest.mark.parametrize(("left", "right"), rows(DIFFERENT))
def test_different_values_are_proven_different(left: str, right: str) -> None:
    assert equal(tree(left), tree(right)) is False
    assert equal(tree(right), tree(left)) is False


@pytest.mark.parametrize(("left", "right"), rows(UNDECIDED))
def test_what_is_undefined_or_unproven_is_left_undecided(left: str, right: str) -> None:
    assert equal(tree(left), tree(right)) is None
    assert equal(tree(right), tree(left)) is None


def test_sympy_is_not_imported() -> None:
    code = "import sys, rewards.verify.expressions; sys.exit('sympy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@QUICK
@given(polynomials(), polynomials())
def test_polynomials_are_always_decided_as_sympy_decides_them(left: Expression, right: Expression) -> None:
    assert equal(left, right) is (sympy.expand(to_sympy(left) - to_sympy(right)) == 0)
    expanded = from_sympy(sympy.expand(to_sympy(left)))
    assert equal(left, expanded) is True


@QUICK
@given(polynomials(), polynomials(), polynomials(), polynomials())
def test_quotients_of_polynomials_are_always_decided(
    first: Expression, second: Expression, third: Expression, fourth: Expression
) -> None:
    left, right = Call("/", (first, second)), Call("/", (third, fourth))
    zero = sympy.expand(to_sympy(second)) == 0 or sympy.expand(to_sympy(fourth)) == 0
    product = sympy.expand(to_sympy(first) * to_sympy(fourth) - to_sympy(third) * to_sympy(second))
    assert equal(left, right) is (None if zero else product == 0)


def from_sympy(expression: sympy.Expr) -> Expression:
    if expression.is_Rational:
        return Number(Fraction(int(expression.p), int(expression.q)))
    if expression.is_Symbol:
        return Symbol(expression.name)
    name = {sympy.Add: "+", sympy.Mul: "*", sympy.Pow: "^"}[expression.func]
    return Call(name, tuple(map(from_sympy, expression.args)))


@QUICK
@given(expressions(), expressions(), st.data())
def test_a_verdict_holds_numerically_at_60_digits(left: Expression, right: Expression, data: st.DataObject) -> None:
    if data.draw(st.booleans()):
        right = rewritten(left, data)
    check(left, right)


@QUICK
@given(expressions(variables=False), expressions(variables=False), st.data())
def test_a_verdict_on_constants_holds_numerically(left: Expression, right: Expression, data: st.DataObject) -> None:
    if data.draw(st.booleans()):
        right = rewritten(left, data)
    check(left, right)


def check(left: Expression, right: Expression) -> None:
    """A proof of equality or difference agrees with the values at three points, where both have one."""
    verdict, apart = equal(left, right), different(left, right)
    assert not (verdict is True and apart)
    gaps = [gap for point in POINTS if (gap := relative_gap(left, right, point)) is not None]
    if verdict is True:
        assert all(gap < 1e-40 for gap in gaps)
    if (verdict is False or apart) and len(gaps) == len(POINTS):
        assert any(gap > 1e-50 for gap in gaps)


def relative_gap(
    left: Expression, right: Expression, point: dict[str, Fraction], *, real: bool = False
) -> float | None:
    """|left - right| in relation to the numbers that it is computed from; None where one side has no value."""
    with mpmath.workdps(90):
        try:
            first, second = value(left, point, real=real), value(right, point, real=real)
        except (ArithmeticError, ValueError):
            return None
        return float(abs(first - second) / max(1, abs(first)))


@QUICK
@given(expressions(), st.data())
def test_a_rewritten_expression_is_never_different(expression: Expression, data: st.DataObject) -> None:
    other = rewritten(expression, data)
    assume(other != expression)
    assert equal(expression, other) is not False
    assert not different(expression, other)


def monomials() -> st.SearchStrategy[Expression]:
    """Products of powers of x and y, or their absolute values."""
    powers = st.tuples(st.integers(-2, 4), st.integers(-2, 4), st.sampled_from([-1, 1, 2, Fraction(1, 2)]))
    plain = powers.map(lambda p: Call("*", (integer(p[2]), tree(f"x**{p[0]}"), tree(f"y**{p[1]}"))))
    return st.one_of(plain, plain.map(lambda inner: Call("abs", (inner,))))


@QUICK
@given(monomials(), monomials(), monomials(), st.sampled_from(["root2", "root3", "root4", "abs", "log"]), st.booleans())
def test_roots_of_products_are_equal_for_all_signs_or_not_called_so(
    first: Expression, second: Expression, third: Expression, name: str, expand: bool
) -> None:
    def apply(argument: Expression) -> Expression:
        if name.startswith("root"):
            return Call("root", (argument, integer(int(name[-1]))))
        return Call("log", (argument, Symbol("e"))) if name == "log" else Call("abs", (argument,))

    left = apply(Call("*", (first, second)))
    right = Call("+" if name == "log" else "*", (apply(first), apply(second))) if expand else third
    verdict = equal(left, right)
    gaps = []
    for x, y in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        gap = relative_gap(left, right, {"x": x * Fraction(7, 3), "y": y * Fraction(5, 11)}, real=True)
        gaps += [] if gap is None else [gap]
    assert verdict is not True or max(gaps, default=0) < 1e-40
    assert verdict is not False or not gaps or max(gaps) > 1e-40
    assert not different(left, right) or max(gaps) > 1e-40


def rewritten(expression: Expression, data: st.DataObject) -> Expression:
    """An expression of the same value: commuted, expanded, with common factors, or with terms that cancel."""
    if not isinstance(expression, Call):
        return expression
    name = expression.name
    arguments = tuple(rewritten(argument, data) for argument in expression.arguments)
    if name in ("+", "*"):
        arguments = tuple(data.draw(st.permutations(arguments)))
    extra = data.draw(st.sampled_from([integer(3), Symbol("pi"), tree("sqrt(2)"), tree("1 + sqrt(3)"), None, None]))
    match name, arguments:
        case "*", (Call("+", terms), *others):
            return Call("+", tuple(Call("*", (term, *others)) for term in terms))
        case "/", (above, below) if extra:
            return Call("/", (Call("*", (above, extra)), Call("*", (extra, below))))
        case "^", (base, Number(exponent)) if exponent > 1 and exponent.denominator == 1:
            return Call("*", (base, Call("^", (base, integer(exponent - 1)))))
        case "-", (argument,):
            return Call("*", (integer(-1), argument))
        case "root", (radicand, degree) if extra:
            return Call("^", (radicand, Call("/", (integer(1), degree))))
    if extra:
        return Call("+", (Call("-", (extra,)), Call(name, arguments), extra))
    return Call(name, arguments)
