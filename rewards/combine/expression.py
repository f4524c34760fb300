"""Reward expressions such as `0.9 * judge * think * answer + 0.1 * format`: a safe parser and a partial evaluator."""

from __future__ import annotations

import ast
import difflib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
ALLOWED = "a reward expression may contain numbers, names of rewards, + - * /, parentheses, min(…) and max(…)"


@dataclass(frozen=True, slots=True)
class Number:
    """A constant."""

    value: float


@dataclass(frozen=True, slots=True)
class Reward:
    """A reward's score."""

    name: str


@dataclass(frozen=True, slots=True)
class Operation:
    """`+`, `*`, `min` or `max` of two or more operands, or `-` or `/` of two; `text` is its source without spaces."""

    symbol: str
    operands: tuple[Node, ...]
    text: str


Node = Number | Reward | Operation


class Unknown:
    """The type of UNKNOWN."""


UNKNOWN: Final = Unknown()
"""The value of a node that depends on a reward that hasn't been called yet."""

Value = float | None | Unknown
"""None means skipped: a reward that returned None under `on_none: skip` drops out of its operation, see `evaluate`."""


def parse_expression(text: str, names: Collection[str]) -> Node:
    """Parse an expression over rewards called `names`.

    Raises:
        ValueError: for anything but numbers, these names, + - * /, parentheses, min and max; it marks the position.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise _refusal(text.strip(), (error.offset or 1) - 1, 1, error.msg) from None
    return _Reader(text.strip(), names).node(tree)


def weighted_sum(weights: Mapping[str, float]) -> Node:
    """Σ weight x reward, as an expression."""
    terms = tuple(
        Operation("*", (Number(weight), Reward(name)), f"{weight:g}*{name}") for name, weight in weights.items()
    )
    return terms[0] if len(terms) == 1 else Operation("+", terms, "+".join(term.text for term in terms))


def evaluate(node: Node, known: Mapping[str, float | None]) -> Value:
    """The value of `node` given the scores so far, `known`; UNKNOWN if it depends on a reward that isn't known.

    A product is 0 as soon as one factor is 0. A reward that is known to be None is skipped: a sum leaves out that term,
    a product that factor, and min and max that operand. An operation whose rewards are all skipped is skipped itself,
    so that `0.3 * judge` doesn't become 0.3. A quotient is skipped with its numerator.

    Raises:
        ZeroDivisionError: for a division by 0.
    """
    if isinstance(node, Number):
        return node.value
    if isinstance(node, Reward):
        return known.get(node.name, UNKNOWN)
    values = [evaluate(operand, known) for operand in node.operands]
    if node.symbol == "/":
        return _quotient(*values)
    if node.symbol == "*" and 0.0 in values:
        return 0.0
    if any(value is UNKNOWN for value in values):
        return UNKNOWN
    variable = [value for value, operand in zip(values, node.operands, strict=True) if not isinstance(operand, Number)]
    if variable and all(value is None for value in variable):
        return None
    signs = [1.0] + [-1.0 if node.symbol == "-" else 1.0] * (len(values) - 1)
    present = [sign * value for sign, value in zip(signs, values, strict=True) if isinstance(value, float | int)]
    match node.symbol:
        case "*":
            return math.prod(present)
        case "min":
            return min(present)
        case "max":
            return max(present)
    return sum(present)


def needed(node: Node, known: Mapping[str, float | None]) -> set[str]:
    """The names of the rewards on which the value still depends; a product that is already 0 needs none."""
    if isinstance(node, Number):
        return set()
    if isinstance(node, Reward):
        return set() if node.name in known else {node.name}
    if node.symbol in ("*", "/") and _settled(node, known):
        return set()
    return set().union(*(needed(operand, known) for operand in node.operands))


def rewards_in(node: Node) -> list[str]:
    """The distinct names of the rewards, in the order of their first occurrence."""
    return list(dict.fromkeys(inner.name for inner in walk(node) if isinstance(inner, Reward)))


def parts_of(node: Node) -> dict[str, Operation]:
    """The inner operations that combine two or more rewards, by the names of their curves.

    The names have ÷ for division, because a slash separates the parts of a metric's name.
    """
    inner = [part for part in walk(node) if part is not node and isinstance(part, Operation)]
    return {part.text.replace("/", "÷"): part for part in inner if len(rewards_in(part)) > 1}


def walk(node: Node) -> Iterator[Node]:
    """The node and everything inside it."""
    yield node
    if isinstance(node, Operation):
        for operand in node.operands:
            yield from walk(operand)


def _settled(node: Node, known: Mapping[str, float | None]) -> bool:
    try:
        return evaluate(node, known) is not UNKNOWN
    except ZeroDivisionError:  # no other reward can change that; computing the total raises the error
        return True


def _quotient(numerator: Value, denominator: Value) -> Value:
    if denominator == 0.0:
        raise ZeroDivisionError
    if numerator is None or numerator == 0.0:
        return numerator
    if isinstance(numerator, Unknown) or isinstance(denominator, Unknown):
        return UNKNOWN
    return numerator if denominator is None else numerator / denominator


@dataclass(frozen=True, slots=True)
class _Reader:
    """Converts Python's syntax tree into nodes, or marks the part that it refuses."""

    text: str
    names: Collection[str]

    def node(self, tree: ast.expr) -> Node:
        match tree:
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool) and math.isfinite(value):
                return Number(float(value))
            case ast.Name(id=name):
                return self.reward(tree, name)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=ast.expr() as operand):
                sign = -1.0 if isinstance(tree.op, ast.USub) else 1.0
                inner = self.node(operand)
                if isinstance(inner, Number):
                    return Number(sign * inner.value)
                return self.operation("*", tree, (Number(sign), inner))
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in OPERATORS:
                return self.operation(OPERATORS[type(operator)], tree, (self.node(left), self.node(right)))
            case ast.Call(func=ast.Name(id="min" | "max" as name), args=arguments, keywords=[]) if len(arguments) > 1:
                return self.operation(name, tree, [self.node(argument) for argument in arguments])
        raise self.refusal(tree, ALLOWED)

    def reward(self, tree: ast.expr, name: str) -> Reward:
        if name not in self.names:
            nearest = difflib.get_close_matches(name, list(self.names), n=1, cutoff=0.0)
            hint = f"; the nearest is {nearest[0]!r}" if nearest else ""
            raise self.refusal(tree, f"no reward is called {name!r}{hint}")
        return Reward(name)

    def operation(self, symbol: str, tree: ast.expr, operands: Sequence[Node]) -> Operation:
        """An operation; `a * b * c` and `a + b + c` become one operation of three operands."""
        first = operands[0]
        if (
            symbol in ("+", "*")
            and isinstance(first, Operation)
            and first.symbol == symbol
            and not self.in_brackets(tree)
        ):
            operands = [*first.operands, *operands[1:]]
        written = ast.get_source_segment(self.text, tree) or ""
        return Operation(symbol, tuple(operands), "".join(written.split()))

    def in_brackets(self, tree: ast.expr) -> bool:
        """True if the left operand has its own parentheses, so that it stays an operation of its own."""
        assert isinstance(tree, ast.BinOp)
        return (tree.col_offset, tree.lineno) != (tree.left.col_offset, tree.left.lineno)

    def refusal(self, tree: ast.expr, why: str) -> ValueError:
        start = len(self.text.encode()[: tree.col_offset].decode())  # offsets of `ast` count bytes
        return _refusal(self.text, start, len(ast.get_source_segment(self.text, tree) or " "), why)


def _refusal(text: str, start: int, length: int, why: str) -> ValueError:
    return ValueError(f"reward expression: {why}\n    {text}\n    {' ' * start}{'^' * max(1, length)}")
