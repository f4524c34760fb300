r"""Reads normalised mathematical notation, in LaTeX or in plain text, as an expression of tree.py.

The whole text must be read; nothing is passed over. What has no certain meaning is `Unread`: words, functions such as
`f(x)`, sums, integrals, and notation that people read in two ways (`1/2x`, `\log` without a base, `\sqrt12`).
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

from .tokens import ALIASES, GREEK, NAMES, Token, Unread, tokens_of, words
from .tree import Call, Expression, Number, Symbol

MAX_DEPTH = 40
_INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_APPLIED = frozenset("fghFGHP")  # `f(x)` is a value of a function, not a product
_STARTS = frozenset({"(", "{", "√", "∛"})
_NO_FACTORS = frozenset({"rfloor", "rceil", "times", "ast"})


@lru_cache(maxsize=256)  # a part may be compared with many others
def expression(text: str) -> Expression | None:
    """The expression that a normalised text certainly means, or None."""
    if any(words(text)):
        return None
    try:
        return _Parser(tokens_of(text)).parse()
    except Unread:
        return None


class _Parser:
    """A recursive-descent parser: sum, product, sign, power, postfix, atom. Every method raises Unread."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = [*tokens, ("end", "")]
        self.position = 0
        self.depth = 0

    def parse(self) -> Expression:
        value = self.sum()
        if self.kind != "end":
            raise Unread
        return value

    @property
    def kind(self) -> str:
        return self.tokens[self.position][0]

    @property
    def text(self) -> str:
        return self.tokens[self.position][1]

    def take(self, *texts: str) -> str | None:
        kind, text = self.tokens[self.position]
        if kind in ("symbol", "command") and text in texts:
            self.position += 1
            return text
        return None

    def expect(self, text: str) -> None:
        if not self.take(text):
            raise Unread

    def sum(self) -> Expression:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unread
        terms = [self.product()]
        while sign := self.take("+", "-"):
            term = self.product()
            terms.append(term if sign == "+" else Call("-", (term,)))
        self.depth -= 1
        return terms[0] if len(terms) == 1 else Call("+", tuple(terms))

    def product(self) -> Expression:
        value, divided = self.signed(), False
        while True:
            if self.take("*", "times", "ast"):
                value, divided = _times(value, self.signed()), False
            elif self.take("/"):
                value, divided = Call("/", (value, self.signed())), True
            elif self.starts_factor():
                if divided:
                    raise Unread  # 1/2x
                value = _times(value, self.power())
            else:
                return value

    def starts_factor(self) -> bool:
        """Whether the next token multiplies the factor before it, as in `2x` and `3(x+1)`; adjacent numbers don't."""
        if self.kind == "symbol":
            return self.text in _STARTS
        return self.kind == "letter" or (self.kind == "command" and self.text not in _NO_FACTORS)

    def signed(self) -> Expression:
        negative = False
        while sign := self.take("+", "-"):
            negative ^= sign == "-"
        value = self.power()
        return Call("-", (value,)) if negative else value

    def power(self) -> Expression:
        base = self.postfix()
        while self.take("^"):
            if self.take("circ"):
                base = Call("degrees", (base,))
                continue
            base = Call("^", (base, self.exponent()))
            if self.take("!"):
                raise Unread  # x^2! means x^(2!) to some
            if self.text == "^" and self.tokens[self.position + 1][1] != "circ":
                raise Unread  # a double superscript
        return base

    def exponent(self) -> Expression:
        if self.text in ("{", "("):
            return self.group()
        if self.take("-"):
            return Call("-", (self.atom(),))
        if self.kind in ("number", "letter") or self.text in GREEK or self.text in ("pi", "frac"):
            return self.atom()
        raise Unread

    def postfix(self) -> Expression:
        value = self.atom()
        while symbol := self.take("!", "%"):
            if symbol == "!" and self.text == "!":
                raise Unread  # a double factorial
            value = Call("!", (value,)) if symbol == "!" else Call("/", (value, Number(Fraction(100))))
        return value

    def atom(self) -> Expression:
        kind, text = self.tokens[self.position]
        if kind == "number":
            self.position += 1
            return self.mixed(text) if self.text == "frac" and text.isdigit() else literal(text)
        if kind == "letter":
            return self.variable()
        if kind == "symbol":
            return self.delimited(text)
        if kind != "command":
            raise Unread
        self.position += 1
        text = ALIASES.get(text, text)
        if text in GREEK:
            return self.subscripted("\\" + text)
        match text:
            case "pi":
                return Symbol("pi")
            case "frac":
                return Call("/", (self.argument(), self.argument()))
            case "binom":
                return Call("binomial", (self.argument(), self.argument()))
            case "sqrt":
                return self.root()
            case "lfloor" | "lceil":
                value = self.sum()
                self.expect("r" + text[1:])
                return Call(text[1:], (value,))
        return self.function(text)

    def delimited(self, opening: str) -> Expression:
        if opening in ("(", "{"):
            return self.group()
        self.position += 1
        if opening == "|":
            value = self.sum()
            self.expect("|")
            return Call("abs", (value,))
        if opening in ("√", "∛"):
            degree = Number(Fraction(2 if opening == "√" else 3))
            return Call("root", (self.atom(), degree))
        raise Unread

    def variable(self) -> Expression:
        name = self.text
        self.position += 1
        if name in _APPLIED and self.text == "(":
            raise Unread
        if name in "ei" and self.text not in ("_", "'"):
            return Symbol(name)
        return self.subscripted(name)

    def subscripted(self, name: str) -> Symbol:
        if self.take("_"):
            braced = self.take("{")
            parts: list[str] = []
            while self.kind in ("letter", "number") and (braced or not parts):
                parts.append(self.text)
                self.position += 1
            if not parts or (braced and not self.take("}")):
                raise Unread
            if name == "C" and self.text == "^":
                raise Unread  # the binomial C_8^3
            name += "_" + "".join(parts)
        while self.take("'"):
            name += "'"
        return Symbol(name)

    def mixed(self, whole: str) -> Expression:
        r"""A mixed number, `1\frac{1}{2}`; what stands behind the whole number must be a proper fraction."""
        self.position += 1
        above, below = self.argument(), self.argument()
        if not (isinstance(above, Number) and isinstance(below, Number) and 0 < above.value < below.value):
            raise Unread
        return Number(Fraction(whole) + above.value / below.value)

    def root(self) -> Expression:
        degree: Expression = Number(Fraction(2))
        if self.take("["):
            degree = self.sum()
            self.expect("]")
        if self.text == "(":
            return Call("root", (self.group(), degree))
        if self.kind == "number" and len(self.text) > 1:
            raise Unread  # \sqrt12
        return Call("root", (self.argument(), degree))

    def argument(self) -> Expression:
        r"""A command's argument: `{…}`, or one digit, letter or Greek letter as in `\frac12` and `\frac\pi2`."""
        kind, text = self.tokens[self.position]
        if text == "{":
            return self.group()
        if kind == "number" and text.isdigit():
            if len(text) > 1:  # the remaining digits are the next argument, or follow the command
                self.tokens[self.position] = ("number", text[1:])
            else:
                self.position += 1
            return Number(Fraction(text[0]))
        if kind == "letter" or text in GREEK or text == "pi":
            self.position += 1
            return Symbol("\\" + text if text in GREEK else text)
        raise Unread

    def function(self, name: str) -> Expression:
        r"""A function's value: `\sin^2 x`, `\log_2 8`, `\ln(x+1)`, `\sin 30^\circ`."""
        if name not in NAMES or (name == "log" and self.text != "_"):
            raise Unread  # an unknown command, or a logarithm to base 10 or e
        base: Expression = Number(Fraction(10)) if name == "lg" else Symbol("e")
        if name == "log":
            self.expect("_")
            base = self.argument()
        power: Expression | None = None
        if self.take("^"):
            power = self.exponent()
            if power == Call("-", (Number(Fraction(1)),)):
                if name not in _INVERSE:
                    raise Unread
                name, power = _INVERSE[name], None
        argument = self.operand()
        if name == "exp":
            value = Call("^", (base, argument))
        else:
            value = Call("log", (argument, base)) if name in ("ln", "lg", "log") else Call(name, (argument,))
        return value if power is None else Call("^", (value, power))

    def operand(self) -> Expression:
        r"""What a function is applied to: `(…)`, `{…}`, or the factors up to a sign or another function."""
        if self.text in ("(", "{"):
            value = self.group()
            if self.text in ("^", "!"):
                raise Unread  # \sin(x)^2
            return value
        factors: list[Expression] = []
        while self.kind in ("number", "letter") or self.text in GREEK or self.text in ("pi", "frac", "sqrt", "√"):
            factors.append(self.power())
        if not factors or self.text in ("/", "(", "{"):
            raise Unread  # \sin x/2
        return factors[0] if len(factors) == 1 else Call("*", tuple(factors))

    def group(self) -> Expression:
        closing = ")" if self.text == "(" else "}"
        self.position += 1
        value = self.sum()
        self.expect(closing)
        return value


def _times(left: Expression, right: Expression) -> Expression:
    factors = left.arguments if isinstance(left, Call) and left.name == "*" else (left,)
    return Call("*", (*factors, right))


def literal(text: str) -> Number:
    """The number that decimal digits write."""
    if len(text) > 4000:  # Python refuses longer ones
        raise Unread
    whole, point, decimals = text.partition(".")
    return Number(Fraction(int((whole or "0") + decimals), 10 ** len(decimals)), len(decimals) if point else None)
