r"""The approximate value of a constant expression such as `2\sqrt{3}`, `9^{9^{9}}` or `\binom{10^9}{5}`, always fast.

It decides most pairs of constants without sympy, above all huge ones, whose digits sympy would compute.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from . import magnitude
from .latex import braced
from .magnitude import Huge, NotConstant, Value, compare

MAX_LENGTH = 400  # characters; longer texts aren't constants that a person would write
MAX_DEPTH = 40
REACH = 1e4  # sympy can't evaluate larger exponents, factorials and binomials
POINTS = (0.731, -1.618, 2.414)  # values of variables at which expressions are compared, scaled for each letter
_TOKEN = re.compile(r"\s*(?:(\d+\.?\d*|\.\d+)|\\([A-Za-z]+)|([-+*/^!(){}\[\]%])|([A-Za-z]))", re.ASCII)
_NOT_VARIABLES = frozenset("eifgh")  # constants, and f(x)
_FUNCTIONS = {"ln": math.log, "log": math.log10, "sin": math.sin, "cos": math.cos, "tan": math.tan}


def constant(text: str) -> Value | None:
    """The value of a normalised constant expression; None for anything else."""
    return _evaluate(text, None)


def same_expression(left: str, right: str) -> bool | None:
    """Whether two normalised expressions, with or without variables, have equal values at POINTS.

    A difference at one point proves them unequal; equality at all three could only be a coincidence of nine digits. The
    result is None if a text isn't such an expression, or if a value isn't real.
    """
    verdicts: list[bool | None] = []
    for point in POINTS:
        values = _evaluate(left, point), _evaluate(right, point)
        if values[0] is None or values[1] is None:
            return None
        verdicts.append(compare(values[0], values[1]))
    return False if False in verdicts else (None if None in verdicts else True)


def _evaluate(text: str, point: float | None) -> Value | None:
    if len(text) > MAX_LENGTH:
        return None
    try:
        return _Parser(list(_tokens(text)), point).parse()
    except (NotConstant, ArithmeticError, ValueError):
        return None


def out_of_reach(text: str) -> bool:
    """Whether a normalised expression, constant or not, has an exponent, factorial or binomial beyond REACH."""
    pieces = [text[match.end() :] for match in re.finditer(r"\^\s*", text)]
    candidates = [braced(piece, 0) if piece.startswith("{") else _leading_number(piece) for piece in pieces]
    candidates += [match[1] for match in re.finditer(r"(\d+)\s*!", text)]
    candidates += [braced(text, match.end() - 1) for match in re.finditer(r"\\binom\s*{", text)]
    values = [constant(candidate) for candidate in candidates if candidate]
    return any(isinstance(value, Huge) or (value is not None and abs(value) > REACH) for value in values)


def _leading_number(text: str) -> str | None:
    match = re.match(r"[\d.]+", text)
    return match[0] if match else None


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            if text[position:].isspace():
                return
            raise NotConstant
        group = match.lastindex or 1
        yield ("number", "command", "symbol", "variable")[group - 1], match[group]
        position = match.end()


class _Parser:
    """A recursive-descent parser: sum, product, sign, power, postfix, atom."""

    def __init__(self, tokens: list[tuple[str, str]], point: float | None) -> None:
        self.point = point
        self.tokens = [*tokens, ("end", "")]
        self.position = 0
        self.depth = 0

    def parse(self) -> Value:
        value = self.sum()
        if self.tokens[self.position][0] != "end":
            raise NotConstant
        return value

    def take(self, *texts: str) -> str | None:
        kind, text = self.tokens[self.position]
        if kind in ("symbol", "command") and text in texts:
            self.position += 1
            return text
        return None

    def sum(self) -> Value:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotConstant
        value = self.product()
        while sign := self.take("+", "-"):
            value = magnitude.add(value, magnitude.times(self.product(), 1.0 if sign == "+" else -1.0))
        self.depth -= 1
        return value

    def product(self) -> Value:
        value = self.signed()
        while True:
            if self.take("*", "times"):
                value = magnitude.times(value, self.signed())
            elif self.take("/"):
                value = magnitude.over(value, self.signed())
            elif self.tokens[self.position][0] in ("command", "variable") or self.tokens[self.position][1] in (
                "(",
                "{",
            ):
                value = magnitude.times(value, self.power())  # 2\sqrt{3} or 2(3); two adjacent numbers aren't a product
            else:
                return value

    def signed(self) -> Value:
        sign = 1.0
        while symbol := self.take("+", "-"):
            sign = -sign if symbol == "-" else sign
        return magnitude.times(self.power(), sign)

    def power(self) -> Value:
        base = self.postfix()
        if not self.take("^"):
            return base
        if self.take("circ"):
            return base
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise NotConstant
        if self.tokens[self.position] == ("symbol", "{"):
            exponent = self.group("{", "}")
            if self.tokens[self.position] == ("symbol", "^"):
                raise NotConstant
        else:
            exponent = self.signed()
        self.depth -= 1
        return magnitude.power(base, exponent)

    def postfix(self) -> Value:
        value = self.atom()
        while symbol := self.take("!", "%"):
            value = magnitude.factorial(value) if symbol == "!" else magnitude.over(value, 100.0)
        return value

    def atom(self) -> Value:
        kind, text = self.tokens[self.position]
        if kind == "number":
            self.position += 1
            whole = magnitude.number(text)
            mixed = self.tokens[self.position] == ("command", "frac") and text.isdigit()
            return whole + self.proper_fraction() if mixed and isinstance(whole, float) else whole
        if text in ("(", "{"):
            return self.group(text, ")" if text == "(" else "}")
        if kind == "variable" and self.point is not None and text not in _NOT_VARIABLES:
            self.position += 1
            return self.point * (1 + ord(text) % 59 / 97)
        if kind != "command":
            raise NotConstant
        self.position += 1
        match text:
            case "pi":
                return math.pi
            case "frac":
                return magnitude.over(self.argument(), self.argument())
            case "sqrt":
                degree = self.group("[", "]") if self.tokens[self.position] == ("symbol", "[") else 2.0
                return magnitude.power(self.argument(), magnitude.over(1.0, degree))
            case "binom":
                return magnitude.binomial(self.argument(), self.argument())
        if text in _FUNCTIONS and self.tokens[self.position][1] in ("(", "{"):
            argument = self.atom()
            if isinstance(argument, float):
                return _FUNCTIONS[text](argument)
        raise NotConstant

    def proper_fraction(self) -> float:
        r"""The fraction of a mixed number, `1\frac{1}{2}`."""
        self.position += 1
        above, below = self.argument(), self.argument()
        if isinstance(above, Huge) or isinstance(below, Huge) or not 0 < above < below:
            raise NotConstant
        return above / below

    def argument(self) -> Value:
        r"""A command's argument: `{…}`, or one digit as in `\frac12`."""
        kind, text = self.tokens[self.position]
        if kind == "number" and text.isdigit():
            self.position += 1
            if len(text) > 1:  # the remaining digits are the next argument, or follow the command
                self.position -= 1
                self.tokens[self.position] = ("number", text[1:])
            return float(text[0])
        return self.group("{", "}")

    def group(self, opening: str, closing: str) -> Value:
        if not self.take(opening):
            raise NotConstant
        value = self.sum()
        if not self.take(closing):
            raise NotConstant
        return value
