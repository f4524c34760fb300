"""The reader of expressions and structures: what sympy prints is read with its value; what is unclear isn't read."""

from __future__ import annotations

from fractions import Fraction

import pytest
import sympy
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rewards.verify.labels import Assignment, label_of, resolved
from rewards.verify.latex import normalise
from rewards.verify.reader import expression
from rewards.verify.structure import Bracketed, Matrix, Plain, Ratio, Relation, Several, read
from rewards.verify.tree import Call, Expression, Number, Symbol, is_constant

x, y = sympy.symbols("x y")
OPERATIONS = {
    "+": lambda *terms: sympy.Add(*terms),
    "*": lambda *factors: sympy.Mul(*factors),
    "-": lambda value: -value,
    "/": lambda above, below: above / below,
    "^": lambda base, exponent: base**exponent,
    "root": lambda value, degree: value ** (1 / degree),
    "!": sympy.factorial,
    "binomial": sympy.binomial,
    "log": sympy.log,
    "degrees": lambda value: value * sympy.pi / 180,
    "abs": sympy.Abs,
    "ceil": sympy.ceiling,
    "arcsin": sympy.asin,
    "arccos": sympy.acos,
    "arctan": sympy.atan,
}
NAMES = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I}


def in_sympy(tree: Expression | None) -> sympy.Expr:
    """The same expression in sympy."""
    if isinstance(tree, Number):
        return sympy.Rational(tree.value.numerator, tree.value.denominator)
    if isinstance(tree, Symbol):
        return NAMES.get(tree.name, sympy.Symbol(tree.name))
    assert isinstance(tree, Call), "the text wasn't read"
    function = OPERATIONS.get(tree.name) or getattr(sympy, tree.name)
    return function(*(in_sympy(argument) for argument in tree.arguments))


def same(left: sympy.Expr, right: sympy.Expr) -> bool:
    at = {x: sympy.Rational(17, 13), y: sympy.Rational(-23, 7)}
    values = [sympy.N(side.subs(at), 40) for side in (left, right)]
    return abs(values[0] - values[1]) <= abs(values[0]) * sympy.Float("1e-30") + sympy.Float("1e-30")


LEAVES = st.sampled_from([x, y, sympy.pi, sympy.E, *map(sympy.Integer, (2, 3, 7, 12, 45)), sympy.Rational(3, 4)])
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: pair[0] + pair[1]),
        st.tuples(inner, inner).map(lambda pair: pair[0] * pair[1]),
        st.tuples(inner, inner).map(lambda pair: pair[0] / (pair[1] + 100)),
        inner.map(lambda value: sympy.sqrt(value**2 + 1)),
        inner.map(sympy.sin),
        inner.map(lambda value: sympy.log(value**2 + 2)),
        st.tuples(inner, st.integers(-3, 3)).map(lambda pair: (pair[0] + 200) ** pair[1]),
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(EXPRESSIONS)
def test_what_sympy_prints_is_read_with_its_value(value: sympy.Expr) -> None:
    printed = sympy.latex(value, ln_notation=True)
    assume("\\right)}^{" not in printed)  # \ln(x)^2 has two meanings
    assert same(in_sympy(expression(normalise(printed))), value), printed


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2\\frac12", "5/2"),
        ("\\frac12", "1/2"),
        ("\\frac1{12}", "1/12"),
        ("\\frac{1}{2}\\cdot3", "3/2"),
        ("2^{3}", "8"),
        ("10^-3", "1/1000"),
        ("10^12", "10**12"),
        ("-2^2", "-4"),
        ("(-2)^2", "4"),
        ("3!", "6"),
        ("\\binom{5}{2}", "10"),
        ("\\dbinom52", "10"),
        ("√16", "4"),
        ("√(9+16)", "5"),
        ("∛27", "3"),
        ("sqrt(49)", "7"),
        ("\\sqrt[3]{8}", "2"),
        ("\\sqrt2^2", "2"),
        ("|3-5|", "2"),
        ("\\lfloor 7/2\\rfloor", "3"),
        ("\\lceil 7/2\\rceil", "4"),
        ("\\sin 30^\\circ", "1/2"),
        ("\\sin(30°)", "1/2"),
        ("\\sin^2 30^\\circ", "1/4"),
        ("\\sin^{-1}(1)", "pi/2"),
        ("\\cos\\frac\\pi3", "1/2"),
        ("\\log_2 8", "3"),
        ("\\log_{3}{81}", "4"),
        ("\\lg 1000", "3"),
        ("\\ln e^2", "2"),
        ("\\exp(0)", "1"),
        ("5pi", "5*pi"),
        ("e^{i\\pi}", "-1"),
        ("50\\%", "1/2"),
        ("2(3)", "6"),
        ("\\left(2+3\\right)^2", "25"),
        ("0.125", "1/8"),
        ("7 \\div 2", "7/2"),
        ("7 × 2", "14"),
    ],
)
def test_notation_is_read_with_its_value(text: str, value: str) -> None:
    assert sympy.simplify(in_sympy(expression(normalise(text))) - sympy.sympify(value)) == 0


@pytest.mark.parametrize(
    "text",
    [
        "1/2x", "a/bc", "\\log 8", "\\sqrt12", "f(x)", "P(A)", "5 apples", "5 plus six", "two x", "2 3", "x2", "(2)3",
        "2^3^4", "7!!", "x^2!", "\\sin(x)^2", "\\sin x/2", "\\sum_{k=1}^n k", "\\int x dx", "1,2", "(1", "1)", "{1",
        "+", "", "x+", "\\frac{1}", "\\frac", "\\vec a", "1:2", "x=1", "1..2", "2\\frac32", "\\ldots", "\\text{", "_2",
        "五", "&",
    ],
)  # fmt: skip
def test_what_has_no_certain_meaning_is_not_read(text: str) -> None:
    assert expression(normalise(text)) is None


def test_decimals_of_a_literal_are_counted() -> None:
    assert expression("2.50") == Number(Fraction(5, 2), 2)
    assert expression("25") == Number(Fraction(25), None)


def test_constants_have_no_variable() -> None:
    assert is_constant(expression("2\\pi e^{i}+3!"))
    assert not is_constant(expression("2x"))
    assert not is_constant(None)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.text(alphabet="0123456789.,;:+-*/^_=<>!%|'\\(){}[]&abefxyzπ√ orandpmfracsqrtln\n", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    read(normalise(text))
    expression(normalise(text))


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("1, 2", Several(("1", "2"))),
        ("1 or 2", Several(("1", "2"), choice=True)),
        ("x=1\\text{ or }x=2", Several(("x=1", "x=2"), choice=True)),
        ("\\{1,2\\}", Several(("1", "2"), braces=True)),
        ("\\emptyset", Several((), braces=True)),
        ("1\\pm\\sqrt2", Several(("1+\\sqrt2", "1-\\sqrt2"), choice=True)),
        ("\\pm 3", Several(("3", "- 3"), choice=True)),
        ("(1, 2)", Bracketed("(", ("1", "2"), ")")),
        ("[1,2)", Bracketed("[", ("1", "2"), ")")),
        ("\\left(0,\\frac{1}{2}\\right]", Bracketed("(", ("0", "\\frac{1}{2}"), "]")),
        ("\\langle 1,2\\rangle", Bracketed("(", ("1", "2"), ")")),
        ("(5)", Plain("5")),
        ("(a+b)(a-b)", Plain("(a+b)(a-b)")),
        ("((1,2),(3,4))", Bracketed("(", ("(1,2)", "(3,4)"), ")")),
        ("(1,2),(3,4)", Several(("(1,2)", "(3,4)"))),
        ("x = 5", Relation(("x", "5"), ("=",))),
        ("-2 \\leq x < 7", Relation(("-2", "x", "7"), ("\\le", "<"))),
        ("x \\in [1,2]", Relation(("x", "[1,2]"), ("\\in",))),
        ("3:4", Ratio(("3", "4"))),
        ("[0,1]\\cup[2,3]", Plain("[0,1]\\cup[2,3]")),
        ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", Matrix((("1", "2"), ("3", "4")))),
        ("\\left[\\begin{array}{cc}1&2\\\\3&4\\end{array}\\right]", Matrix((("1", "2"), ("3", "4")))),
        ("\\begin{bmatrix}1\\\\2\\\\\\end{bmatrix}", Matrix((("1",), ("2",)))),
    ],
)
def test_the_outermost_structure_is_read(text: str, shape: object) -> None:
    assert read(normalise(text)) == shape


@pytest.mark.parametrize(
    "text", ["\\begin{vmatrix}1&2\\\\3&4\\end{vmatrix}", "|\\begin{array}{cc}1&2\\\\3&4\\end{array}|"]
)
def test_a_determinant_is_not_a_matrix(text: str) -> None:
    assert not isinstance(read(normalise(text)), Matrix)


@pytest.mark.parametrize(
    "text", ["x", "x_1", "x_{12}", "f(x)", "P(A)", "\\theta", "\\angle ABC", "AB", "area", "(x,y)"]
)
def test_labels_are_known(text: str) -> None:
    assert label_of(text)


@pytest.mark.parametrize("text", ["2x", "x+y", "5", "xy", "x^2", "\\pi", "\\sin x", "1,2"])
def test_expressions_are_no_labels(text: str) -> None:
    assert label_of(text) is None


def test_solutions_lose_their_label_and_assignments_keep_them() -> None:
    assert resolved(Several(("x=1", "x=2"))) == Several(("1", "2"))
    assert resolved(Several(("x=1", "2"))) == Several(("1", "2"))
    assert resolved(Several(("x=1", "y=2"))) == Assignment({"x": "1", "y": "2"})
    assert resolved(Several(("x=1", "2x=2"))) == Several(("x=1", "2x=2"))
