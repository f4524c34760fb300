r"""The expressions that the reader makes of an answer; the exact comparison and the certified bounds compute with them.

Whatever the notation, there is one spelling: `\frac{a}{b}`, `a/b` and `a \div b` are all `Call("/", (a, b))`.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

CONSTANTS = frozenset({"pi", "e", "i"})
FUNCTIONS = frozenset(
    [
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "arcsin",
        "arccos",
        "arctan",
        "sinh",
        "cosh",
        "tanh",
        "abs",
        "floor",
        "ceil",
    ]
)  # of one argument; angles are in radians


@dataclass(frozen=True, slots=True)
class Number:
    """A literal of exact value; `decimals` counts the digits behind its point, and is None without a point."""

    value: Fraction
    decimals: int | None = None


@dataclass(frozen=True, slots=True)
class Symbol:
    r"""A variable such as "x", "x_1" or "\alpha", or one of CONSTANTS."""

    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """An operation on expressions.

    `name` is "+" or "*" (two arguments or more), "-" (one: the negative), "/" or "^" (two), "root" (radicand, degree),
    "!" (one), "binomial" (two), "log" (argument, base), "degrees" (one: its angle in radians), or one of FUNCTIONS.
    """

    name: str
    arguments: tuple[Expression, ...]


Expression = Number | Symbol | Call


def is_constant(expression: Expression | None) -> bool:
    """Whether an expression has no variable."""
    if isinstance(expression, Call):
        return all(is_constant(argument) for argument in expression.arguments)
    return isinstance(expression, Number) or (isinstance(expression, Symbol) and expression.name in CONSTANTS)
