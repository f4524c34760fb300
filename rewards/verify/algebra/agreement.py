"""Whether two forms are the same answer: of the same kind, and equal part by part."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import mpmath
import sympy
from sympy.functions.elementary.trigonometric import TrigonometricFunction

from .evaluation import CALCULUS, Undecided, equal, number, proportional, rebuilt, variables
from .forms import Chain, Combined, Form, Label, Named, Parts, Ratio, Value
from .labelled import UNORDERED, Assignment, FalseLink, Labelled, Resolved, resolved, same_label
from .rounding import rounds
from .solving import ORDERED, expressions_of, same_region
from .translation import Unreadable, expression

_CONSTANTS = frozenset(["C", "K", "c", "k", "C_1"])  # of integration; a gold answer's is a capital
_TUPLES = ("()", "[]", "⟨⟩")


@dataclass(frozen=True, slots=True)
class Agreement:
    """Compares forms; `seed` makes the points at which expressions are evaluated."""

    seed: str

    def same(self, gold: Form, given: Form) -> bool:
        """Whether a given answer has the kind and the value of the gold one.

        Raises:
            FalseLink: if the given answer is a chain of equalities that don't hold.
        """
        expected = resolved(gold, None)
        if isinstance(given, Chain) and "\\approx" in given.signs and self._approximates(given):
            return self._same(expected, given.terms[-1]) or self._same(expected, resolved(given, self.same))
        return self._same(expected, resolved(given, self.same))

    def _approximates(self, chain: Chain) -> bool:
        """Whether the decimal number at the end of a chain is near to the value before it."""
        *_, exact, rounded = chain.terms
        if not isinstance(exact, Value) or not isinstance(rounded, Value) or exact.decimals is not None:
            return False
        if not rounded.decimals:
            raise FalseLink  # 20/3 is near to 7, but 7 isn't its value
        with suppress(Undecided):
            left, right = number(exact.expression), number(rounded.expression)
            if 2 * abs(left - right) <= mpmath.mpf(10) ** -(rounded.decimals or 0):
                return True
        if set(chain.signs) == {"\\approx"}:
            raise FalseLink
        return False

    def _same(self, gold: Resolved, given: Resolved) -> bool:
        if isinstance(gold, Labelled) and isinstance(given, Assignment):
            return self._assignments(gold, given)
        if isinstance(gold, Labelled) and isinstance(given, Labelled):
            same = same_label(gold.labels, given.labels) and self._same(gold.value, given.value)
            return same or self._equations(gold, given)
        if isinstance(gold, Labelled) and isinstance(given, Parts):
            labels = [item.labels for item in given.items if isinstance(item, Labelled)]
            return all(same_label(gold.labels, found) for found in labels) and self._same(gold.value, given)
        if isinstance(gold, Labelled):
            return self._equations(gold, given) if _is_equation(given) else self._same(gold.value, given)
        if isinstance(given, Labelled):
            return self._equations(gold, given) if _is_equation(gold) else self._same(gold, given.value)
        if isinstance(gold, Assignment) or isinstance(given, Assignment):
            return self._assignments(gold, given)
        match gold, given:
            case Chain(), Chain() if gold == given:
                return True
            case Value(), Value():
                return self._values(gold, given)
            case Ratio(), Ratio():
                return self._ratios(gold, given)
            case (Ratio() as ratio, Value() as value) | (Value() as value, Ratio() as ratio):
                return self._quotient(ratio, value)
            case (Label(), Label()) | (Named(), Named()):
                return gold == given
            case (Value() as value, Parts() as parts) | (Parts() as parts, Value() as value) if parts.kind in (
                "()",
                "⟨⟩",
            ):
                return self._vectors(value, parts)
            case Parts("{}", (Value() as item,)), Value():
                return self._values(item, given)
            case Value(), Parts("{}", (Value() as item,)):
                return self._values(gold, item)
            case Parts(), Parts() if self._parts(gold, given):
                return True
            case Chain(), Chain() if self._equations(gold, given) or self._inequalities(gold, given):
                return True
            case Combined(), Combined() if set(gold.operators) == set(given.operators) == {"\\cup"}:
                if self._matched(gold.items, given.items):
                    return True
        return same_region(gold, given)

    def _values(self, gold: Value, given: Value) -> bool:
        left, right = gold.expression, given.expression
        if isinstance(left, sympy.MatrixBase) or isinstance(right, sympy.MatrixBase):
            matrices = isinstance(left, sympy.MatrixBase) and isinstance(right, sympy.MatrixBase)
            return matrices and left.shape == right.shape and all(map(self._equal, left.flat(), right.flat()))
        return self._equal(left, right) or rounds(gold, given) or rounds(given, gold) or self._bare(gold, given)

    def _bare(self, gold: Value, given: Value) -> bool:
        """Whether the answers are equal without the gold one's percent sign, or the degree sign of either."""
        left, right = gold.expression, given.expression
        if gold.text.endswith("%") and "%" not in given.text:
            return self._equal(100 * left, right)
        degrees = [
            value.text.endswith("^\\circ") and not value.expression.has(TrigonometricFunction)
            for value in (gold, given)
        ]
        if any(degrees) and not all(degrees):
            factors = [180 / sympy.pi if degree else 1 for degree in degrees]
            return self._equal(left * factors[0], right * factors[1])
        return False

    def _equal(self, left: Any, right: Any) -> bool:
        if left == right or _is_infinite(left) or _is_infinite(right):
            return bool(left == right) and not left.has(sympy.nan, sympy.zoo)
        if left.has(*CALCULUS) and rebuilt(left) == rebuilt(right):
            return True
        return equal(left, _with_constant_of(left, right), self.seed)

    def _ratios(self, gold: Ratio, given: Ratio) -> bool:
        if len(gold.items) != len(given.items):
            return False
        pairs = [(x.expression, y.expression) for x, y in zip(gold.items, given.items, strict=True)]
        if any(0 in pair for pair in pairs):  # a time such as 12:00
            return all(self._equal(x, y) for x, y in pairs)
        return all(self._equal(x * t, y * s) for (x, y), (s, t) in pairwise(pairs))

    def _quotient(self, ratio: Ratio, value: Value) -> bool:
        above, *below = [item.expression for item in ratio.items]
        return len(below) == 1 and below[0] != 0 and self._equal(above / below[0], value.expression)

    def _parts(self, gold: Parts, given: Parts) -> bool:
        if gold.kind in UNORDERED and given.kind in UNORDERED:
            joined = "or" in (gold.kind, given.kind) and gold.kind != given.kind
            if joined and any(isinstance(item, Chain) for item in (*gold.items, *given.items)):
                return False
            points = all(isinstance(item, Parts) for item in (*gold.items, *given.items))
            if points or "{}" in (gold.kind, given.kind):  # elements of a set count once
                return self._matched(self._distinct(gold.items), self._distinct(given.items))
            return self._matched(gold.items, given.items)
        long = len(gold.items) > 2 and gold.kind in _TUPLES and given.kind in _TUPLES
        listed = gold.kind == "()" and given.kind == ","
        long = long or ("⟨⟩" in (gold.kind, given.kind) and {gold.kind, given.kind} <= {"⟨⟩", "()"})
        return (gold.kind == given.kind or long or listed) and self._in_order(gold.items, given.items)

    def _vectors(self, value: Value, parts: Parts) -> bool:
        r"""Whether a tuple is a column, or a sum of the unit vectors `\mathbf{i}`, `\mathbf{j}` and `\mathbf{k}`."""
        if isinstance(value.expression, sympy.MatrixBase):
            column = value.expression.shape[1] == 1
            return column and self._in_order([Value("", entry) for entry in value.expression], parts.items)
        units = (sympy.I, *sympy.symbols("j k"))
        if units[1] not in value.expression.free_symbols or not all(isinstance(item, Value) for item in parts.items):
            return False
        products = [item.expression * unit for item, unit in zip(parts.items, units, strict=False)]
        return 2 <= len(parts.items) <= 3 and self._equal(sympy.Add(*products), value.expression)

    def _in_order(self, gold: Sequence[Resolved], given: Sequence[Resolved]) -> bool:
        return len(gold) == len(given) and all(map(self._same, gold, given))

    def _distinct(self, items: Sequence[Resolved]) -> list[Resolved]:
        found: list[Resolved] = []
        for item in items:
            if not any(self._same(other, item) for other in found):
                found.append(item)
        return found

    def _matched(self, gold: Sequence[Resolved], given: Sequence[Resolved]) -> bool:
        rest = list(given)
        if len(gold) != len(rest):
            return False
        for item in gold:
            index = next((i for i, other in enumerate(rest) if self._same(item, other)), None)
            if index is None:
                return False
            rest.pop(index)
        return True

    def _assignments(self, gold: Resolved, given: Resolved) -> bool:
        """By label; without labels on one side, in the order of the gold text, and of the alphabet in the given one."""
        if isinstance(gold, Assignment) and isinstance(given, Assignment):
            others = dict(zip(given.labels, given.items, strict=True))
            return set(gold.labels) == set(others) and all(
                self._same(item, others[label]) for label, item in zip(gold.labels, gold.items, strict=True)
            )
        if isinstance(gold, Assignment):
            if (found := gold.solutions()) and isinstance(given, Parts) and given.kind in UNORDERED:
                return self._same(found, given)
            return isinstance(given, Parts) and given.kind in ("()", ",") and self._in_order(gold.items, given.items)
        assert isinstance(given, Assignment)
        if (found := given.solutions()) and isinstance(gold, Parts | Labelled):
            return self._same(gold, found)
        in_order = list(given.labels) == sorted(given.labels)
        return (
            in_order
            and isinstance(gold, Parts)
            and gold.kind in ("()", ",")
            and self._in_order(gold.items, given.items)
        )

    def _equations(self, gold: Resolved, given: Resolved) -> bool:
        """Whether two equations are the same up to a constant factor."""
        left, right = _residual(gold), _residual(given)
        if left is None or right is None:
            return False
        solved = isinstance(gold, Labelled) or isinstance(given, Labelled)
        if solved and len(variables(left, right)) < 2:
            return False  # 2x = 6 doesn't say what x is
        return proportional(left, right, self.seed) is not None

    def _inequalities(self, gold: Chain, given: Chain) -> bool:
        """Whether two chains of inequalities have the same links, each up to a positive factor."""
        left, right = _links(gold), _links(given)
        if left is None or right is None or len(left) != len(right):
            return False
        for strict, difference in left:
            index = next(
                (i for i, (sign, other) in enumerate(right) if sign == strict and self._same_sign(difference, other)),
                None,
            )
            if index is None:
                return False
            right.pop(index)
        return True

    def _same_sign(self, left: Any, right: Any) -> bool:
        factor = proportional(left, right, self.seed)
        return factor is not None and factor > 0


def _with_constant_of(gold: Any, given: Any) -> Any:
    """The given expression with the gold one's constant of integration, if both add one and call it differently."""
    ours, theirs = ({symbol.name for symbol in e.free_symbols} for e in (gold, given))
    names = ours - theirs, theirs - ours
    if ours & theirs and names[0] <= {"C", "K", "C_1"} and all(len(only) == 1 and only <= _CONSTANTS for only in names):
        (name,), (other,) = names
        if all(e.diff(sympy.Symbol(n)) == 1 for e, n in ((gold, name), (given, other))):
            return given.subs(sympy.Symbol(other), sympy.Symbol(name))
    return given


def _is_equation(form: Resolved) -> bool:
    return isinstance(form, Chain) and set(form.signs) == {"="}


def _residual(form: Resolved) -> Any | None:
    """Left side minus right side of one equation; None for another form."""
    sides: list[Any] = []
    if isinstance(form, Labelled) and len(form.labels) == 1 and isinstance(form.value, Value):
        with suppress(Unreadable):
            sides = [expression(form.labels[0]), form.value.expression]
    elif isinstance(form, Chain) and form.signs == ("=",):
        sides = expressions_of(form)
    if len(sides) != 2 or any(isinstance(side, sympy.MatrixBase) for side in sides):
        return None
    return sympy.Add(sides[0], -sides[1])


def _links(chain: Chain) -> list[tuple[bool, Any]] | None:
    """For each inequality whether it is strict, and a difference that is positive, or 0 if it isn't strict."""
    sides = expressions_of(chain)
    if not sides or not set(chain.signs) <= ORDERED or any(side.has(sympy.oo) for side in sides):
        return None
    return [
        (len(sign) == 1, sympy.Add(right, -left) if sign[0] == "<" else sympy.Add(left, -right))
        for (left, right), sign in zip(pairwise(sides), chain.signs, strict=True)
    ]


def _is_infinite(expression: Any) -> bool:
    """Whether infinity is in an expression, other than as the bound of a sum, an integral or a limit."""
    return expression.has(sympy.oo) and not expression.has(*CALCULUS)
