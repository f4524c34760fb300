"""math-verify's LaTeX parser, with the readings mended that make two different answers equal."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, _Latex2Sympy

_END = -1  # ANTLR's token type at the end of a text
_FUNCTION_NAMES = re.compile(r"[fghpqFGHPQTS]|phi|psi|.*[_{].*")  # of f(2); any other letter is a factor
_WORD = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{5,}|(?<![\\A-Za-z{])[A-Za-z]{2,} [A-Za-z]{2,}")
_UNREAD = re.compile(
    r"\\ldots|\.\.|(?<![_^\d.])[\d.]+ +[\d.]|[?$]"
    r"|\\(?:mod|bmod|sim)(?![a-z])|\\Rightarrow|\\pmod|\\square|^{[^{}]*} *{"
)


class Unreadable(ValueError):  # noqa: N818 — control flow, not an error
    """A text isn't one mathematical expression."""


class _Parser(_Latex2Sympy):
    """The parser of one expression.

    It never takes the product of two numbers for a mixed number, and it refuses the subscripts of numbers.
    """

    def parse(self, text: str) -> Any:
        parser = self.create_parser(text)
        tree = parser.expr()
        if parser.getCurrentToken().type != _END:
            raise Unreadable(text)
        return self.convert_expr(tree)

    def parse_number(self, text: str) -> Any:
        return sympy.Rational(text.replace(",", ""))

    def convert_atom(self, atom: Any) -> Any:
        if atom.number_subexpr() and atom.number_subexpr().subexpr():
            raise Unreadable("a number with a subscript")
        return super().convert_atom(atom)

    def convert_exp(self, exp: Any) -> Any:
        if hasattr(exp, "subexpr") and exp.subexpr():
            raise Unreadable("a power with a subscript")
        value = super().convert_exp(exp)
        powered = isinstance(value, sympy.Pow) and isinstance(value.base, sympy.MatrixBase)
        return value.base**value.exp if powered else value

    def convert_postfix_list(self, arr: list[Any], i: int = 0) -> Any:
        factors = [self.convert_postfix(postfix) for postfix in arr[i:]]
        if isinstance(factors[0], list):  # d/dx
            return super().convert_postfix_list(arr, i)
        product = factors[0]
        for factor in factors[1:]:
            matrices = getattr(product, "is_Matrix", False) or getattr(factor, "is_Matrix", False)
            product = self.mat_mul_flat(product, factor) if matrices else self.mul_flat(product, factor)
        return product

    def convert_postfix(self, postfix: Any) -> Any:
        value = super().convert_postfix(postfix)
        operations = postfix.postfix_op()
        if any(operation.transpose() for operation in operations) and not getattr(value, "is_Matrix", False):
            raise Unreadable("the transpose of something that isn't a matrix")
        if sum(bool(operation.BANG()) for operation in operations) > 1:
            raise Unreadable("a double factorial")
        degrees = sum(bool(operation.degree()) for operation in operations)
        if degrees > 1:
            raise Unreadable("two degree signs")
        return value * sympy.pi / 180 if degrees else value

    def convert_binom(self, binom: Any) -> Any:
        return sympy.binomial(self.convert_expr(binom.upper), self.convert_expr(binom.lower), evaluate=False)

    def convert_func(self, func: Any) -> Any:
        value = super().convert_func(func)
        name = func.atom_expr_no_supexpr()
        if (
            name
            and not _FUNCTION_NAMES.fullmatch(name.getText().strip())
            and not func.supexpr()
            and len(value.args) == 1
        ):
            return self.mul_flat(sympy.Symbol(name.getText().strip().lstrip("\\")), value.args[0])
        return value


@lru_cache(maxsize=256)
def expression(text: str) -> Any:
    """The sympy expression or matrix of a prepared text.

    Raises:
        Unreadable: if it isn't one.
    """
    arrows = "\\to" in text and "\\lim" not in text
    if not text or arrows or _WORD.search(text) or _UNREAD.search(text):
        raise Unreadable(text)
    try:
        value = _Parser(is_real=None, config=ConversionConfig(lowercase_symbols=False)).parse(_explicit(text))
    except RecursionError:
        raise Unreadable(text) from None
    except MemoryError:
        raise
    except Exception as error:  # the parser raises whatever it meets
        raise Unreadable(f"{text}: {error}") from error
    if not isinstance(value, sympy.Expr | sympy.MatrixBase | sympy.MatrixExpr):
        raise Unreadable(text)
    return _settled(value)


def _explicit(text: str) -> str:
    """The text with names for primes and the imaginary unit, which the parser drops."""
    text = re.sub(r"(\\?[A-Za-z]+)('+)", lambda match: f"{match[1]}_{{{'prime' * len(match[2])}}}", text)
    return re.sub(r"\\(?:imath|mathrm{i})", "i", text)


def _settled(value: Any) -> Any:
    """The expression with the imaginary unit for the letter i, and matrices as one matrix."""
    if isinstance(value, sympy.MatrixExpr):
        value = value.doit()
        if not isinstance(value, sympy.MatrixBase):
            raise Unreadable("a product or sum of matrices that has no value")
    if any(not d.expr.has(*d.variables) and d.expr.free_symbols for d in value.atoms(sympy.Derivative)):
        raise Unreadable("dy/dx, the derivative of an unknown function")
    letter = sympy.Symbol("i")
    return value.subs(letter, sympy.I) if letter in value.free_symbols else value
