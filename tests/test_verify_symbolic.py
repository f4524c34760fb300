"""Answers that sympy decides: kinds, values to many digits, structure, and the false verdicts of math-verify."""

from __future__ import annotations

import random

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.verify.symbolic import SymbolicEquality

equal = SymbolicEquality()

RIGHT = {
    "constants": [
        (r"1+\sqrt{5}", r"\sqrt{6+2\sqrt{5}}"),
        (r"\frac{\pi}{4}", r"\arctan 1"),
        (r"\sqrt[3]{-8}", "-2"),
        (r"e^{i\pi}", "-1"),
        (r"\frac{1+\sqrt{5}}{2}", r"2\cos\frac{\pi}{5}"),
        ("5", "3(2)-1"),
        ("18", r"\binom{4}{2}\binom{3}{1}"),
        (r"2\frac{1}{2}", "2 1/2"),
        (r"\frac{7}{2}", "3½"),
    ],
    "expressions": [
        ("(x+1)^2", "x^2+2x+1"),
        (r"\tan^2 y+1", r"\sec^2 y"),
        (r"\ln x^2", r"2\ln x"),
        (r"x^{2/3}", r"\sqrt[3]{x^2}"),
        (r"\sqrt{a}\sqrt{b}", r"\sqrt{ab}"),
        (r"\frac{n(n+1)}{2}", r"\frac{n^2+n}{2}"),
        (r"\frac{n(n+1)}{2}", r"\sum_{k=1}^{n} k"),
        (r"\int_0^1 x^2 dx", r"\frac13"),
        (r"x^2+C", r"x^2+K"),
        (r"2\pi rh", r"2\pi h r"),
        (r"(1+i)^2", "2i"),
        (r"\sqrt{-4}", "2i"),
        (r"\sqrt{x^2y}", r"|x|\sqrt{y}"),
        (r"\frac{\sqrt6+\sqrt2}{4}", r"\cos 15^\circ"),
        (r"\binom{n}{2}", r"\frac{n(n-1)}{2}"),
        (r"2\sqrt{x+1}", "2sqrt(x+1)"),
        ("x^2+y^2", "x**2+y**2"),
    ],
    "notation": [
        (r"\sqrt{10}", "√10"),
        (r"2\sqrt{x+1}", "2√(x+1)"),
        (r"\{1+\pi,1-\pi\}", "1±π"),
        (r"6\times 2", "3×4"),
        (r"x\le 2", "(−∞,2]"),
        ("x^4", "x⁴"),
        ("x^{12}", "x¹²"),
        (r"\frac13", r"0.\dot{3}"),
        (r"\frac16", r"0.1\overline{6}"),
        (r"\frac{41}{333}", r"0.\dot{1}2\dot{3}"),
        (r"\frac13", r"0.333\ldots"),
        (r"\frac12", r"\sin 30^\circ"),
        ("1", r"\tan(45^\circ)"),
        ("3", r"\log_{10} 1000"),
        ("3", r"\lg 1000"),
        (r"\log_2 3", r"\frac{\ln 3}{\ln 2}"),
        ("11111111100", r"11,\! 111,\! 111,\! 100"),
        ("1000", "1 000"),
        ("1.22", "1,22"),
        ("0,22", "0.22"),
        (r"\binom{8}{3}", "C_8^3"),
        (r"2\pi", r"2\pi\text{ cm}"),
    ],
    "matrices": [
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\left[\begin{array}{cc}1&2\\3&4\end{array}\right]"),
        (r"\begin{pmatrix}6&8\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}+\begin{bmatrix}5&6\end{bmatrix}"),
        (r"\begin{pmatrix}5\\11\end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"\begin{pmatrix}2\\4\end{pmatrix}", r"2\begin{pmatrix}1\\2\end{pmatrix}"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", "(1,2)"),
        (r"\langle 3,-1,2\rangle", "(3,-1,2)"),
        (r"\langle 3,-1,2\rangle", r"3\mathbf{i}-\mathbf{j}+2\mathbf{k}"),
        (r"\begin{pmatrix}1&3\\2&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}^T"),
        (r"\begin{pmatrix}-2&1\\ \frac32&-\frac12\end{pmatrix}", r"\begin{pmatrix}1&2\\3&4\end{pmatrix}^{-1}"),
        (r"\begin{cases}x=1\\y=2\end{cases}", "(1,2)"),
        ("-2", r"\begin{vmatrix}1&2\\3&4\end{vmatrix}"),
        ("-2", r"\left|\begin{array}{cc}1&2\\3&4\end{array}\right|"),
    ],
    "sets": [
        (r"[0,1]\cup[1,2]", "[0,2]"),
        (r"(5,\infty)", "x>5"),
        (r"x\in[-2,7]", r"-2\le x\le 7"),
        ("[-2,7]", r"7\ge x\ge -2"),
        (r"(-\infty,1)\cup(2,\infty)", r"x<1\text{ or }x>2"),
        ("(1,2)", r"x>1\text{ and }x<2"),
        (r"[-\frac32,-1]\cup[1,\frac32]", r"1\le|z|\le\frac32"),
        (r"\mathbb{R}\setminus\{3\}", r"x\ne 3"),
        (r"(-\infty,3)\cup(3,\infty)", r"\mathbb{R}\setminus\{3\}"),
        (r"(-2,2)", r"x^2<4"),
        (r"\mathbb{R}", r"(-\infty,\infty)"),
        (r"\emptyset", r"\{\}"),
        (r"\{1,2\}", r"\{2,1,2\}"),
        ("(1,4)", r"(1,3)\cup(2,4)"),
        ("[2,3]", r"[0,3]\cap[2,5]"),
        (r"|x-1|<2", "(-1,3)"),
        (r"x>2", "2x+1>5"),
        (r"\frac{\pi}{6}+k\pi\ (k\in\mathbb{Z})", r"x=\frac{\pi}{6}+k\pi,k\in\mathbb{Z}"),
        (r"\{1+\sqrt5,1-\sqrt5\}", r"1\pm\sqrt5"),
        (r"\{x\mid x>5\}", r"(5,\infty)"),
        ("(1,2),(2,1)", "(2,1),(1,2)"),
        (r"(0,\sqrt{8})", r"(0,2\sqrt{2})"),
    ],
    "equations": [
        ("y=2x+1", "2x-y+1=0"),
        (r"\frac{x^2}{4}+\frac{y^2}{3}=1", "3x^2+4y^2=12"),
        ("x<1", "-x>-1"),
        ("x+y>2", "2<y+x"),
        ("5", "x=5"),
        ("x=5", "5"),
        ("5", "The answer is 5"),
        ("7", r"7\text{ (seven)}"),
        ("5", "x=2+3=5"),
        ("5", "2+3=5"),
        ("2x+1", "f(x)=2x+1"),
        (r"\frac{3}{5}", r"\frac{AB}{AC}=\frac35"),
        ("11:21", "V_1:V_2=11:21"),
        ("x=3,y=4", "(3,4)"),
        ("(3,4)", "x=3, y=4"),
        ("x=3, y=4", "y=4, x=3"),
        ("(3,4)", "(x,y)=(3,4)"),
        ("p=5,q=2;p=7,q=2", "(5,2),(7,2)"),
        (r"x=1\text{ or }x=2", "2, 1"),
        ("n=1,2,3", "3,2,1"),
    ],
    "rounding": [
        ("e", "2.718281828"),
        (r"\frac13", "0.333333"),
        (r"\frac23", "0.666667"),
        ("4.123105625617661", r"\sqrt{17}"),
        (r"x=\frac13", r"x\approx0.333333"),
        (r"\frac13", r"33.333333\%"),
        ("78.54", r"25\pi\approx 78.54"),
    ],
    "without values": [
        (r"\lim_{n\to\infty}(1+1/n)^n", "e"),
        (r"\sum_{n=0}^\infty\frac{1}{n!}", "e"),
        (r"\frac{\pi^2}{6}", r"\sum_{n=1}^\infty\frac{1}{n^2}"),
        (r"\int_0^\infty e^{-x^2}dx", r"\frac{\sqrt\pi}{2}"),
    ],
    "bases and ratios": [
        ("204_5", "204_{5}"),
        ("204_5", "(204)_5"),
        ("42", "42_{10}"),
        ("2A_{16}", "2A_{16}"),
        ("1:2:3", "2:4:6"),
        (r"\frac12", "1:2"),
        (r"1,2,3,\ldots", r"1,2,3,\dots"),
        ("50\\%", "50"),
        ("50\\%", "0.5"),
        ("90^\\circ", "90"),
        (r"\frac{\pi}{6}", r"30^\circ"),
    ],
}  # fmt: skip

WRONG = {
    "constants": [
        (r"1-\frac1e", r"1+\frac1e"),
        (r"\frac1{2004!}", r"\frac1{2006!}"),
        (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}"),
        ("1", "1-2^{-40}"),
        (r"\sqrt2", r"\sqrt2(1-10^{-100})"),
        ("2^{990}", "2^{990}-1"),
        ("10^{12}", "10^{12}+0.1"),
        (r"\binom{60}{30}\sqrt3", r"(\binom{60}{30}-1)\sqrt3"),
        ("5", "3(2)"),
        ("9", r"\binom{4}{2}\binom{3}{1}"),
        ("10", "10⁵"),
        (r"\frac{31}{2}", "3½"),
        ("5!", "5!!"),
        ("7", "(3)(4)"),
        (r"\frac56", r"\frac12\frac13"),
        (r"\frac52", r"2\cdot\frac12"),
        ("2", "(-8)^{1/3}"),
        (r"\log_2 5", r"\log_3 5"),
        (r"\ln 5", r"\log 5"),
        ("12", "1 2"),
        (r"\sqrt[3]{5}", r"3\sqrt{5}"),
        ("2+3i", "2-3i"),
        (r"\sin 30^\circ", r"\sin 30"),
    ],
    "expressions": [
        ("x", "|x|"),
        ("x", r"\sqrt{x^2}"),
        ("x^2-3x+2", "|x^2-3x+2|"),
        (r"\lceil x\rceil", r"\lfloor x\rfloor+1"),
        (r"\max(x,y)", "x"),
        ("x", "x+10^{-20}"),
        (r"\frac{dy}{dx}", r"\frac{dx}{dy}"),
        ("f'(x)", "f(x)"),
        ("(2n)!", "2n!"),
        ("AB", "BA"),
        ("10^{15}x", "10^{15}x+x"),
        ("x^2", "x_2"),
        ("x", "x'"),
        ("x", "x^T"),
        ("x", "X"),
        ("a", "A"),
        ("x^2+2", "x^2+2t"),
        ("2", "2m"),
        ("f(2)", "f(3)"),
        ("x^2", "x^2+C"),
        ("2x+C", "x+K"),
        ("c", "k"),
        ("k+1", "c+1"),
        (r"\sum_{k=1}^{n} k", r"\sum_{k=0}^{n-1} k"),
        (r"F_n=\sum_{k=0}^{n-1}F_kF_{n-k-1}", r"F_n=\sum_{k=0}^{n-2}F_kF_{n-k-2}"),
        (r"\frac{1}{2x}", r"\frac{1}{2}x"),
        ("cat", "act"),
    ],
    "matrices": [
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{vmatrix}1&2\\3&4\end{vmatrix}"),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&3\\2&4\end{pmatrix}"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", "(2,1)"),
    ],
    "sets": [
        ("(1,2)", "[1,2]"),
        ("(1,2]", "[1,2)"),
        ("(3,1)", "1,3"),
        ("(1,3)", r"\{1,3\}"),
        (r"\{1,3\}", "(1,3)"),
        (r"[0,1]\cup[1,2]", "[0,1]"),
        (r"[0,1)\cup(1,2]", "[0,2]"),
        (r"(5,\infty)", r"x\ge5"),
        ("x>5", "y>5"),
        ("x>5", "5"),
        ("[0,2]", "0,2"),
        ("2,2,3", "2,3"),
        ("-2,1", "-2.1"),
        ("(1,2)", "(1 or 2)"),
        (r"x<1\text{ or }x>2", r"x<1\text{ or }y>2"),
        (r"x<1\text{ or }x>2", r"\text{not }x<1\text{ or }x>2"),
        (r"x<1\text{ or }x>2", r"x<1\text{ and }x>2"),
        (r"\{1,2\}", r"\{1,2,3\}"),
        (r"\mathbb{R}", r"\mathbb{Z}"),
        ("1\\pm\\sqrt5", "1+\\sqrt5"),
    ],
    "equations": [
        ("5", "x+y=5"),
        ("5", "2x+3=5"),
        ("5", "x=3=5"),
        ("5", "2+2=5"),
        ("4", "x^2=4"),
        ("5", "x>5"),
        ("5", "5=7"),
        ("x=5", "y=5"),
        (r"x=1\text{ or }x=2", r"x=1\text{ or }y=2"),
        (r"x=1\text{ or }x=2", r"\text{not }x=1\text{ or }x=2"),
        ("x>5", "x>x>5"),
        ("x=5", "2x=10"),
        ("x+y=5", "5"),
        ("y=2x+1", "y=2x-1"),
        ("y=2x+1", "2x-y-1=0"),
        ("x<1", "x>1"),
        ("x<1", r"x\le1"),
        ("x+y>1", r"x+y\ge1"),
        (r"-3\le x<4", r"-3\le x\le4"),
        ("x<1", "x>-1"),
        ("3", r"a=1, b=2, c=3"),
        ("x=3", r"x=2\text{ or }x=3"),
        ("(3,4)", "x=4,y=3"),
        ("(3,4)", "y=3, x=4"),
        ("x=3,y=4", "(4,3)"),
        ("x=3,y=4", r"x=3\text{ or }y=4"),
        ("a_1=1,a_2=3", "a_1=3,a_2=1"),
        ("7", r"7\approx 8"),
        ("7", r"7\to 8"),
        ("7", r"7\text{ (eight)}"),
        ("7", r"7\text{ (or 8)}"),
    ],
    "rounding": [
        (r"\frac13", "0.333"),
        (r"\frac13", "0.333334"),
        (r"\pi", "3.14"),
        ("0.5", "0.500001"),
        (r"\frac{1}{10^{8}}", "0.000000"),
        ("1", "0.999999"),
        ("0.3333333", "0.333333"),
    ],
    "without values": [
        (r"\lim_{n\to\infty}(1+1/n)^n", "3"),
        (r"\sum_{n=0}^\infty\frac{1}{n!}", "2.718"),
        (r"\frac{\pi^2}{6}", r"\sum_{n=1}^\infty\frac{1}{n^3}"),
        (r"\int_0^\infty e^{-x^2}dx", r"\frac{\sqrt\pi}{3}"),
        (r"\sum_{n=1}^\infty\frac{1}{n^2}", "1.6449"),
    ],
    "bases and ratios": [
        ("42", "42_8"),
        ("204_5", "204"),
        ("204_5", "204_6"),
        ("52_8", "42_{10}"),
        ("2A_{16}", "2A_{12}"),
        ("5_3", "5"),
        (r"1:2:3:\ldots", r"1:4:9:\ldots"),
        ("1:2:3", "1:6"),
        ("1:2:3", "1:2:4"),
        ("12:00", "1:00"),
        ("0.5", r"0.5\%"),
        ("3", r"3\%"),
        ("30", r"30\%"),
        (r"2\text{ cm}", r"2\text{ kg}"),
        (r"25\%", r"25\%\text{ kg}"),
        (r"\$15", r"15^\circ"),
        (r"\sin 30^\circ", r"\frac{90}{\pi}"),
        ("7", r"7\text{ halves}"),
        ("7", r"7\text{ squared}"),
        ("7", r"7\text{ million}"),
        (r"2\pi", r"2\pi\text{ squared}"),
        (r"\frac{\pi}{4}", "45"),
    ],
}  # fmt: skip


def rows(table: dict[str, list[tuple[str, str]]]) -> list[object]:
    return [pytest.param(*row, id=f"{kind}: {row[0]} {row[1]}") for kind, pairs in table.items() for row in pairs]


@pytest.mark.parametrize(("gold", "answer"), rows(RIGHT))
def test_equal_answers_of_every_kind_are_equal(gold: str, answer: str) -> None:
    assert equal(gold, answer)


@pytest.mark.parametrize(("gold", "answer"), rows(WRONG))
def test_different_answers_of_every_kind_differ(gold: str, answer: str) -> None:
    assert not equal(gold, answer)


@pytest.mark.parametrize("text", ["x^2", r"\frac12", r"(1,\infty)", "x=3", r"1:2:3", r"\{1,2\}"])
def test_mathematics_is_understood_without_an_answer(text: str) -> None:
    assert equal(text, None)


@pytest.mark.parametrize("text", [r"\unknown", "the cat sat", "2+", r"\frac{1}", "1 2", "(1,2"])
def test_other_texts_are_not_understood_and_equal_only_themselves(text: str) -> None:
    assert not equal(text, None)
    assert equal(text, text)
    assert not equal(text, "1")
    assert not equal("1", text)


def test_the_verdict_doesn_t_depend_on_other_random_numbers() -> None:
    verdicts = []
    for seed in (1, 2):
        random.seed(seed)
        verdicts.append([equal(gold, answer) for gold, answer in RIGHT["expressions"] + WRONG["expressions"]])
    assert verdicts[0] == verdicts[1]


X, Y = sympy.symbols("x y")
LEAVES = st.one_of(st.sampled_from([X, Y, sympy.pi, sympy.sqrt(2)]), st.integers(-9, 9).map(sympy.Integer))
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: pair[0] + pair[1]),
        st.tuples(inner, inner).map(lambda pair: pair[0] * pair[1]),
        st.tuples(inner, st.integers(2, 3)).map(lambda pair: pair[0] ** pair[1]),
        inner.map(lambda term: term / 7),
    ),
    max_leaves=6,
)
REWRITINGS = st.sampled_from([sympy.expand, sympy.factor, sympy.together, lambda term: -sympy.expand(-term)])
CHANGES = st.sampled_from(
    [
        lambda term: term + 1,
        lambda term: term - sympy.Rational(1, 10**9),
        lambda term: term + X / 10**6,
        lambda term: 2 * term + 3,
        lambda term: term + sympy.pi - sympy.Rational(314159265, 10**8),
    ]
)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(EXPRESSIONS, REWRITINGS)
def test_a_rewritten_expression_is_equal(term: sympy.Expr, rewriting: object) -> None:
    assert equal(sympy.latex(term), sympy.latex(rewriting(term)))  # type: ignore[operator]


@settings(max_examples=60, derandomize=True, deadline=None)
@given(EXPRESSIONS, REWRITINGS, CHANGES)
def test_a_changed_expression_differs(term: sympy.Expr, rewriting: object, change: object) -> None:
    changed = change(term)  # type: ignore[operator]
    if sympy.expand(changed - term) != 0:
        assert not equal(sympy.latex(term), sympy.latex(rewriting(changed)))  # type: ignore[operator]
