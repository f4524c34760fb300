"""Expression trees for tests: written as Python expressions, drawn at random, and evaluated by mpmath and sympy."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import mpmath
import sympy
from hypothesis import strategies as st

from rewards.verify.tree import Call, Expression, Number, Symbol

OPERATORS = {ast.Add: "+", ast.Mult: "*", ast.Div: "/", ast.Pow: "^"}
SHORT = {"sqrt": ("root", 2), "cbrt": ("root", 3), "ln": ("log", "e"), "factorial": ("!", None)}


def tree(text: str) -> Expression:
    """The tree of a Python expression such as `3*sqrt(2) - log(8, 2)`; `**` is the power."""

    def build(node: ast.expr) -> Expression:
        match node:
            case ast.Constant():
                literal = ast.get_source_segment(text, node) or ""
                return Number(Fraction(literal), len(literal.partition(".")[2]) if "." in literal else None)
            case ast.Name(name):
                return Symbol(name)
            case ast.UnaryOp(_, operand):
                return Call("-", (build(operand),))
            case ast.BinOp(left, ast.Sub(), right):
                return Call("+", (build(left), Call("-", (build(right),))))
            case ast.BinOp(left, operator, right):
                return Call(OPERATORS[type(operator)], (build(left), build(right)))
            case ast.Call(ast.Name(name), arguments):
                name, second = SHORT.get(name, (name, None))
                more = [] if second is None else [Symbol(second) if isinstance(second, str) else integer(second)]
                return Call(name, (*map(build, arguments), *more))
        raise AssertionError(ast.dump(node))

    return build(ast.parse(text, mode="eval").body)


def integer(value: int | Fraction) -> Number:
    return Number(Fraction(value))


def value(expression: Expression, point: Mapping[str, Fraction], *, real: bool = False) -> Any:
    """The value by mpmath at its current precision.

    ArithmeticError or ValueError where there is none of moderate size, or, with `real`, where some part isn't real.
    """
    result = _value(expression, point, real)
    if not mpmath.isfinite(result) or abs(result) > 1e100:
        raise OverflowError
    if real and abs(mpmath.im(result)) > 1e-50:
        raise ValueError
    return result


def _value(expression: Expression, point: Mapping[str, Fraction], real: bool) -> Any:
    match expression:
        case Number(number):
            return mpmath.mpf(number.numerator) / number.denominator
        case Symbol(name):
            known = {"pi": +mpmath.pi, "e": +mpmath.e, "i": mpmath.mpc(0, 1)}.get(name)
            return known if known is not None else value(Number(point[name]), point)
        case Call("root", (base, Number(degree))):
            return _power(value(base, point, real=real), 1 / degree)
        case Call("^", (base, Number(exponent))):
            return _power(value(base, point, real=real), exponent)
        case Call("^", (base, Call("/", (Number(above), Number(below))))):
            return _power(value(base, point, real=real), above / below)
        case Call("^", (base, exponent)):
            product = value(exponent, point, real=real) * mpmath.log(value(base, point, real=real))
            return mpmath.exp(_moderate(product))
        case Call(name, arguments):
            return _FUNCTIONS[name](*(value(argument, point, real=real) for argument in arguments))
    raise AssertionError(expression)


def _moderate(number: Any) -> Any:
    if abs(number) > 1000:
        raise OverflowError
    return number


def _power(base: Any, exponent: Fraction) -> Any:
    """The real power where the exponent has an odd denominator, the principal one otherwise."""
    if abs(base) < 1e-50 and exponent <= 0:
        raise ZeroDivisionError
    if abs(mpmath.im(base)) < 1e-50 and mpmath.re(base) < 0 and exponent.denominator % 2:
        return (-1) ** exponent.numerator * _power(-mpmath.re(base), exponent)
    _moderate(exponent)
    return mpmath.power(base, mpmath.mpf(exponent.numerator) / exponent.denominator)


def _logarithm(argument: Any, base: Any) -> Any:
    if not argument:
        raise ZeroDivisionError
    return mpmath.log(argument) / mpmath.log(base)


_FUNCTIONS: dict[str, Any] = {
    "+": lambda *terms: mpmath.fsum(terms),
    "*": lambda *factors: mpmath.fprod(factors),
    "-": lambda argument: -argument,
    "/": lambda above, below: above / below,
    "log": _logarithm,
    "degrees": lambda angle: angle * mpmath.pi / 180,
    "!": mpmath.factorial,
    "binomial": mpmath.binomial,
    "abs": abs,
    "floor": mpmath.floor,
    "ceil": mpmath.ceil,
    "arcsin": mpmath.asin,
    "arccos": mpmath.acos,
    "arctan": mpmath.atan,
    **{name: getattr(mpmath, name) for name in ("sin", "cos", "tan", "cot", "sec", "csc")},
    "sinh": lambda number: mpmath.sinh(_moderate(number)),
    "cosh": lambda number: mpmath.cosh(_moderate(number)),
    "tanh": lambda number: mpmath.tanh(_moderate(number)),
}


def to_sympy(expression: Expression) -> sympy.Expr:
    """The polynomial or quotient of polynomials as sympy's."""
    match expression:
        case Number(number):
            return sympy.Rational(number.numerator, number.denominator)
        case Symbol("pi"):
            return sympy.pi
        case Symbol(name):
            return sympy.Symbol(name)
        case Call("+", arguments):
            return sympy.Add(*map(to_sympy, arguments))
        case Call("*", arguments):
            return sympy.Mul(*map(to_sympy, arguments))
        case Call("-", (argument,)):
            return -to_sympy(argument)
        case Call("/", (above, below)):
            return to_sympy(above) / to_sympy(below)
        case Call("^", (base, exponent)):
            return to_sympy(base) ** to_sympy(exponent)
        case Call("root", (base, degree)):
            return sympy.real_root(to_sympy(base), to_sympy(degree))
    raise AssertionError(expression)


def pairs(children: st.SearchStrategy[Expression]) -> st.SearchStrategy[tuple[Expression, ...]]:
    return st.lists(children, min_size=2, max_size=3).map(tuple)


def polynomials(names: str = "xy", *, exponents: int = 3) -> st.SearchStrategy[Expression]:
    """Sums, products and powers of rational numbers and variables."""
    fractions = st.fractions(min_value=-9, max_value=9, max_denominator=6).map(Number)
    leaves = st.one_of(fractions, *(st.just(Symbol(name)) for name in names))
    return st.recursive(leaves, lambda inner: _arithmetic(inner, exponents), max_leaves=7)


def _arithmetic(inner: st.SearchStrategy[Expression], exponents: int) -> st.SearchStrategy[Expression]:
    whole = st.integers(1, exponents).map(integer)
    return st.one_of(
        st.builds(Call, st.sampled_from("+*"), pairs(inner)),
        st.builds(Call, st.just("-"), st.tuples(inner)),
        st.builds(Call, st.just("^"), st.tuples(inner, whole)),
    )


def expressions(*, variables: bool = True) -> st.SearchStrategy[Expression]:
    """Trees of numbers, radicals, constants, functions, and maybe variables."""
    numbers = st.one_of(st.integers(-6, 12), st.fractions(-3, 3, max_denominator=4)).map(lambda v: Number(Fraction(v)))
    names = ["pi", "e", "i", *("xy" if variables else "")]
    leaves = st.one_of(numbers, numbers, st.sampled_from(names).map(Symbol))
    return st.recursive(leaves, _branches, max_leaves=7)


def _branches(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    degree = st.sampled_from([2, 2, 3, 4]).map(integer)
    exponent = st.sampled_from([*range(-3, 5), *(Fraction(k, n) for k in (-1, 1, 3) for n in (2, 3))]).map(integer)
    turns = st.fractions(-3, 3, max_denominator=12).map(lambda q: Call("*", (Number(q), Symbol("pi"))))
    natural = st.integers(1, 12).map(integer)
    functions = ["sin", "cos", "tan", "arctan", "abs", "sinh", "tanh", "cosh", "sec", "arcsin", "arccos"]
    return st.one_of(
        _arithmetic(inner, 4),
        st.builds(Call, st.just("/"), st.tuples(inner, inner)),
        st.builds(Call, st.just("root"), st.tuples(inner, degree)),
        st.builds(Call, st.just("^"), st.tuples(inner, exponent)),
        st.builds(Call, st.just("^"), st.tuples(natural, inner)),
        st.builds(Call, st.just("log"), st.tuples(inner, st.sampled_from([Symbol("e"), integer(2), integer(10)]))),
        st.builds(Call, st.sampled_from(functions), st.tuples(inner)),
        st.builds(Call, st.sampled_from(["sin", "cos", "tan"]), st.tuples(turns)),
    )
