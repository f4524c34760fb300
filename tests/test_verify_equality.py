"""The quick rules of equality: what they decide for certain, and what they leave to sympy."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.verify.equality import quick_equal, understood

EQUAL = """
x=5 | 5
5 | x = 5
5=x | 5
x=y=5 | 5
f(x)=2x+1 | y=2x+1
f(x)=2x+1 | 2x+1
\\angle ABC=30^\\circ | 30^\\circ
AB=12 | 12
area = 12 | 12
x=1\\text{ or }x=2 | 2, 1
x=1,2 | \\{1,2\\}
x=\\pm2 | 2,-2
x_1=1, x_2=2 | x_2=2, x_1=1
x=3, y=4 | (3,4)
y=4, x=3 | (3,4)
3,4 | x=3,y=4
(3,4) | 3,4
\\{5\\} | 5
6 | 2\\cdot3=6
6 | x=2\\cdot3=6
1\\pm\\sqrt{2} | 1-\\sqrt2, 1+\\sqrt2
(0,1] | \\left(0,1\\right]
(1,2,3) | \\begin{pmatrix}1\\\\2\\\\3\\end{pmatrix}
\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix} | \\left[\\begin{array}{cc}1&2\\\\3&4\\end{array}\\right]
\\begin{bmatrix}1/2&0\\\\0&1\\end{bmatrix} | \\begin{pmatrix}\\frac12&0\\\\0&1\\end{pmatrix}
\\emptyset | \\text{no solution}
\\varnothing | \\{\\}
3:4 | 6:8
3:4 | 3/4
3:4:5 | 6:8:10
(0,\\infty) | (0,+\\infty)
2(x+1) | 2x+2
\\frac{x}{2} | 0.5x
\\sqrt{12} | 2√3
\\frac{1}{\\sqrt2} | \\frac{\\sqrt2}{2}
3xy | 3yx
x⁴ | x^4
2\\pi | 6\\cdot\\frac{\\pi}{3}
B | (B)
B | b
yes | Yes
The answer is 5 | 5
""".strip().splitlines()
DIFFERENT = """
6 | x=5 or x=6
x=6 | x=5 or x=6
6 | 5, 6
3 | a=1, b=2, c=3
3,4 | x=4, y=3
(3,4) | y=3, x=4
(3,4) | (4,3)
(3,4) | \\{3,4\\}
(0,1) | [0,1]
(0,1] | [0,1)
5 | x=3=5
5 | 2x+3=5
5 | x+y=5
5 | x>5
x>5 | 5
6 | 2+3=6
2 | x=8, x=-6, 8+(-6)=2
x=5 | y=5
\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix} | \\begin{pmatrix}1&3\\\\2&4\\end{pmatrix}
\\begin{pmatrix}1&2\\end{pmatrix} | \\begin{pmatrix}1&2&3\\end{pmatrix}
1:2:3:\\ldots | 1:4:9:\\ldots
3:4 | 4:3
42 | 42_8
204_5 | 204
204_5 | 204_6
x | X
a | A
cat | act
5 | \\emptyset
\\emptyset | 0
5 | \\infty
2x | 2
2 | 2x
B | C
A | A or B
B | B. or C
2ab | 2AB
5 | 5 million
5 | 5 plus six
2^{40}-1 | 2^{40}
10^{15}x | 10^{15}x+x
x^2+1 | x^2-1
""".strip().splitlines()
DEFERRED = """
y=2x+1 | 2x-y+1=0
x>5 | (5,\\infty)
[0,1]\\cup[1,2] | [0,2]
\\log 100 | 2
1/2x | x/2
\\sum_{k=1}^{3}k | 6
\\begin{vmatrix}1&2\\\\3&4\\end{vmatrix} | -2
""".strip().splitlines()


@pytest.mark.parametrize("pair", EQUAL)
def test_equality_is_certain(pair: str) -> None:
    gold, given = pair.split(" | ")
    assert quick_equal(gold, given) is True


@pytest.mark.parametrize("pair", DIFFERENT)
def test_difference_is_certain(pair: str) -> None:
    gold, given = pair.split(" | ")
    assert quick_equal(gold, given) is False


@pytest.mark.parametrize("pair", DEFERRED)
def test_the_rest_is_left_to_sympy(pair: str) -> None:
    gold, given = pair.split(" | ")
    assert quick_equal(gold, given) is None


TEXTS = st.text(alphabet="0123456789.,;:+-*/^_=<>!%|'\\(){}[]&abefxyzπ√ orandpmfracsqrtln五十亿", max_size=40)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(TEXTS)
def test_any_text_equals_itself(text: str) -> None:
    assert quick_equal(text, text) is True


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(TEXTS, TEXTS)
def test_any_two_texts_are_compared(gold: str, answer: str) -> None:
    assert quick_equal(gold, answer) in (True, False, None)
    understood(gold)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.integers(-50, 50), min_size=1, max_size=6), st.lists(st.integers(-50, 50), min_size=1, max_size=6))
def test_lists_are_equal_if_their_items_are_in_any_order(gold: list[int], answer: list[int]) -> None:
    expected = sorted(gold) == sorted(answer)
    if len(gold) > 1 and len(answer) > 1:
        assert quick_equal(", ".join(map(str, gold)), " or ".join(map(str, answer))) is expected


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(st.integers(-9, 9), min_size=2, max_size=4), st.lists(st.integers(-9, 9), min_size=2, max_size=4))
def test_tuples_are_equal_if_their_items_are_in_order(gold: list[int], answer: list[int]) -> None:
    texts = ["(" + ", ".join(map(str, items)) + ")" for items in (gold, answer)]
    assert quick_equal(*texts) is (gold == answer)


@pytest.mark.parametrize(
    "gold", ["5", "x=5", "(1,2)", "\\{a,b\\}", "3:4", "cat", "无解", "5 cm", "2x+1", "[0,\\infty)"]
)
def test_a_gold_answer_is_understood(gold: str) -> None:
    assert understood(gold)


@pytest.mark.parametrize("gold", ["\\foo{x}", "x^{", "2x > 3", "\\sum_k k"])
def test_other_gold_answers_are_left_to_sympy(gold: str) -> None:
    assert not understood(gold)


SMALL = st.integers(1, 6)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(SMALL, SMALL, SMALL, SMALL)
def test_no_rule_of_structure_says_what_is_not_so(a: int, b: int, c: int, d: int) -> None:
    pairs: list[tuple[str, str, bool]] = [
        (f"{a}:{b}", f"{c}:{d}", a * d == b * c),
        (f"{a}:{b}", f"{c}/{d}", a * d == b * c),
        (f"x={a},y={b}", f"y={c},x={d}", (a, b) == (d, c)),
        (f"({a},{b})", f"x={c},y={d}", (a, b) == (c, d)),
        (f"\\begin{{pmatrix}}{a}&{b}\\end{{pmatrix}}", f"\\begin{{bmatrix}}{c}&{d}\\end{{bmatrix}}", (a, b) == (c, d)),
        (f"{a}_{b + 6}", f"{c}_{{{d + 6}}}", (a, b) == (c, d)),
        (f"{a}", f"{c}_{d + 6}", a == c and d + 6 == 10),
        (f"x={a}", f"x={c}={d}", a == c == d),
        (f"{a}", f"{c}+{d}={a}", c + d == a),
        (f"{a * 100 + b}", f"{c * 100 + d}%", c * 100 + d == (a * 100 + b) * 100),
        (f"{a},{b}00", f"{c},{d}00", (a, b) == (c, d)),
        (f"{a},{b}00", f"{b}00,{a}", False),
        (f"{a}\\pm{b}", f"{c - d},{c + d}", (a, b) == (c, d)),
        (f"\\{{{a},{b}\\}}", f"\\{{{c},{d}\\}}", {a, b} == {c, d} and (a == b) == (c == d)),
        (f"({a},{b}]", f"({c},{d}]", (a, b) == (c, d)),
        (f"{a}x+{b}+C", f"{c}x+{d}+K", a == c),
        (f"{a}x^2+{b}x", f"{c}x^2+{d}x+C", False),
    ]
    for gold, answer, expected in pairs:
        assert quick_equal(gold, answer) in (expected, None), (gold, answer)
