r"""Comparison of two expressions: exactly where that is proven, by certified bounds otherwise.

Conventions:

- A decimal literal equals a value whose decimals don't end, such as 1/3 or \pi, if it is that value rounded or cut to
  its digits, and has at least MIN_DECIMALS decimals, of which, or before which, are at least MIN_SIGNIFICANT
  significant digits. A value whose decimals end, such as 2^{-40}, equals that decimal only.
- An antiderivative is known up to a constant: x^2 + C equals x^2 + K and x^2 + 1 + C. The constant is one of
  INTEGRATION_CONSTANTS, is added or subtracted once, on both sides, to an expression in a variable of
  INTEGRATION_VARIABLES, and occurs nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from .bounds import PRECISIONS, different, enclose, symbols, varies
from .exact import equal, is_constant
from .intervals import as_fractions
from .rational import Arithmetic, Meter, Undecided, is_small
from .tree import Call, Expression, Number, Symbol

MIN_DECIMALS, MIN_SIGNIFICANT = 6, 4
INTEGRATION_CONSTANTS = frozenset("CKck")
INTEGRATION_VARIABLES = frozenset(["x", "y", "z", "t", "u", "v", "w", "s", "r", "\\theta", "theta"])


def compare(left: Expression, right: Expression) -> bool | None:
    """Whether two expressions are equal, by the conventions above; None where that isn't decided here."""
    verdict = equal(left, right)
    if verdict is True:
        return True
    decimals = _decimal(left), _decimal(right)
    if decimals[0] and not decimals[1]:
        return approximates(decimals[0], right)
    if decimals[1] and not decimals[0]:
        return approximates(decimals[1], left)
    bare = without_constant(left), without_constant(right)
    if bare[0] and bare[1]:
        return _same_antiderivative(bare[0], bare[1])
    if verdict is None and different(left, right):
        return False
    return verdict


def _decimal(expression: Expression) -> Number | None:
    """A literal with a decimal point, maybe with a minus sign."""
    match expression:
        case Number(_, int()):
            return expression
        case Call("-", (Number(value, int(decimals)),)):
            return Number(-value, decimals)
    return None


def approximates(decimal: Number, exact: Expression) -> bool | None:
    """Whether a decimal literal stands for the value of a constant, by the convention above; None where undecided."""
    sign = -1 if decimal.value < 0 else 1
    size, unit = abs(decimal.value), Fraction(1, 10 ** (decimal.decimals or 0))
    enough = (decimal.decimals or 0) >= MIN_DECIMALS and size >= unit * 10 ** (MIN_SIGNIFICANT - 1)
    if not is_small(exact):
        return None
    try:
        known = Arithmetic(Meter()).rational(exact)
        if known is not None and (not enough or _terminates(known.denominator)):
            return known == decimal.value
        if not enough:
            return False if equal(decimal, exact) is False or different(decimal, exact) else None
        for precision in PRECISIONS:
            ends = (known, known) if known is not None else as_fractions(enclose(exact, precision))
            low, high = sorted(sign * end for end in ends)
            if size - unit / 2 <= low and high < size + unit:
                return True
            if high < size - unit / 2 or size + unit <= low:
                return False
    except Undecided:
        return False if equal(decimal, exact) is False else None
    return None


def _terminates(denominator: int) -> bool:
    """Whether the decimals of a fraction end: its denominator divides a power of ten."""
    return pow(10, denominator.bit_length(), denominator) == 0 or denominator == 1


def without_constant(expression: Expression) -> Expression | None:
    """What an integration constant is added to or subtracted from; None if there is no such constant."""
    if not is_small(expression):
        return None
    names = list(symbols(expression))
    terms = list(_terms(expression))
    if len(terms) < 2 or not INTEGRATION_VARIABLES & set(names):
        return None
    for index, term in enumerate(terms):
        bare = term.arguments[0] if isinstance(term, Call) and term.name == "-" else term
        if isinstance(bare, Symbol) and bare.name in INTEGRATION_CONSTANTS and names.count(bare.name) == 1:
            return Call("+", (Number(Fraction(0)), *terms[:index], *terms[index + 1 :]))
    return None


def _terms(expression: Expression) -> Iterator[Expression]:
    """The terms of a sum and of the sums in it."""
    if isinstance(expression, Call) and expression.name == "+":
        for argument in expression.arguments:
            yield from _terms(argument)
    else:
        yield expression


def _same_antiderivative(left: Expression, right: Expression) -> bool | None:
    difference = Call("+", (left, Call("-", (right,))))
    verdict = is_constant(difference)
    return False if verdict is None and varies(difference) else verdict
