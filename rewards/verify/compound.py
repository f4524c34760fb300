"""Compares answers with outer structure: relations, lists, tuples, matrices and ratios, part by part."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import partial

from .labels import APPROXIMATE, Assignment, Labelled, chain_holds, labelled, resolved, same_label
from .matching import matched
from .quantity import as_number, as_quantity
from .reader import expression
from .structure import Bracketed, Matrix, Plain, Ratio, Relation, Several, Shape, read
from .tokens import has_words
from .tree import is_constant

Decide = Callable[[str, str], bool | None]
SPACES = re.compile(r"(?<!\d) | (?!\d)")  # the space in `1 2` matters
_POINT = re.compile(r"([A-Z])\(.*,")
VERDICTS = frozenset(
    ["true", "false", "t", "f", "yes", "no", "对", "错", "正确", "错误", "是", "否", "√", "×", "\\times"]
)
_NO_TERM = re.compile(r"^0\d|[A-Za-z] ?m$")  # 12:05, 3:30 pm
_TIME = re.compile(r"[1-9]\d?:[0-5]\d", re.ASCII)
_UNIT_VECTORS = re.compile(r"[ij].*[jk]")


def same_compound(left: str, right: str, shapes: tuple[Shape, Shape], decide: Decide) -> bool | None:
    """Whether two texts, of which at least one has structure, are equal; None where that isn't certain.

    Args:
        left: the gold answer.
        right: the given answer.
        shapes: their structures.
        decide: compares two parts.
    """
    if isinstance(shapes[0], Relation) or isinstance(shapes[1], Relation):
        return _relations(left, right, shapes, decide)
    if isinstance(shapes[0], Several) or isinstance(shapes[1], Several):
        return _several(left, right, shapes, decide)
    match shapes:
        case Matrix(), Matrix():
            return _matrices(shapes[0].rows, shapes[1].rows, decide)
        case Bracketed(), Bracketed():
            return _tuples(shapes[0], shapes[1], decide)
        case Ratio(), Ratio():
            return _ratios(shapes[0].terms, shapes[1].terms)
        case Matrix(), Bracketed():
            return in_order(_vector(shapes[0]), shapes[1].items, decide)
        case Bracketed(), Matrix():
            return in_order(shapes[0].items, _vector(shapes[1]), decide)
        case Ratio(), Plain():
            return _ratio_and_quotient(shapes[0].terms, right)
        case Plain(), Ratio():
            return _ratio_and_quotient(shapes[1].terms, left)
    return False if is_value(shapes[0]) or is_value(shapes[1]) else None


def is_value(shape: Shape) -> bool:
    """Whether the shape is certainly one number or expression."""
    if not isinstance(shape, Plain) or _UNIT_VECTORS.search(shape.text):
        return False
    return expression(shape.text) is not None or as_quantity(shape.text) is not None


def in_order(gold: Sequence[str], given: Sequence[str], decide: Decide) -> bool | None:
    """Whether the parts are equal one by one."""
    if len(gold) != len(given):
        return False
    verdict: bool | None = True
    for left, right in zip(gold, given, strict=True):
        if (one := _items(decide, left, right)) is False:
            return False
        verdict = verdict and one
    return verdict


def _relations(left: str, right: str, shapes: tuple[Shape, Shape], decide: Decide) -> bool | None:
    gold, given = (labelled(shape) if isinstance(shape, Relation) else None for shape in shapes)
    if isinstance(shapes[0], Relation) and isinstance(shapes[1], Relation):
        if gold and given and gold.label and given.label:
            return _labelled_values(gold, given, decide)
        solved = gold and gold.label and is_constant(expression(gold.value))
        return False if solved and shapes[1].signs == ("=",) else None  # equations and inequalities in two forms
    if isinstance(shapes[0], Relation):
        if gold is None:
            return False if is_value(shapes[1]) else None
        return decide(gold.value, right) if gold.label else None
    if given is None:
        close = isinstance(shapes[1], Relation) and set(shapes[1].signs) <= APPROXIMATE
        return False if is_value(shapes[0]) and not close else None
    if given.label is None and has_words(given.chain[0]):
        return False  # half x = 5
    return _with_chain(decide(left, given.value), given, decide)


def _labelled_values(gold: Labelled, given: Labelled, decide: Decide) -> bool | None:
    verdict = decide(gold.value, given.value)
    if not same_label(gold.label, given.label):
        constant = is_constant(expression(gold.value)) and is_constant(expression(given.value))
        verdict = False if constant else None
    return _with_chain(verdict, given, decide)


def _with_chain(verdict: bool | None, given: Labelled, decide: Decide) -> bool | None:
    """The verdict on a chain's value, if the chain itself is true."""
    if verdict is False:
        return False
    holds = chain_holds(given, decide)
    return verdict if holds else holds


def _several(left: str, right: str, shapes: tuple[Shape, Shape], decide: Decide) -> bool | None:
    """Compare answers of which at least one has several parts side by side."""
    if isinstance(shapes[0], Several) and isinstance(shapes[1], Several) and _same_texts(shapes[0], shapes[1]):
        return True
    gold, given = (resolved(shape) if isinstance(shape, Several) else shape for shape in shapes)
    match gold, given:
        case Assignment(), Assignment():
            same = gold.values.keys() == given.values.keys()
            return in_order(gold.in_order(), given.in_order(), decide) if same else None
        case (Assignment(), _) | (_, Assignment()):
            return _assigned(gold, given, shapes, decide)
        case Several(), Several():
            if any(map(_is_inequality, gold.items + given.items)):
                return None
            if gold.choice != given.choice and not all(map(_is_number, gold.items)):
                return False  # Alice and Bob, Alice or Bob
            if any(item.casefold() in VERDICTS for item in gold.items):  # of several questions, in their order
                return in_order(gold.items, given.items, decide)
            return matched(gold.items, _without_repetitions(gold.items, given.items), partial(_items, decide), _key)
        case (Bracketed(), _) | (_, Bracketed()):
            return _ordered_and_unordered(gold, given, decide)
        case Several(), _:
            if len(gold.items) > 1 and is_value(given):
                return False  # 3, 3 isn't 3
            return _all_equal(gold.items, given, lambda item: decide(item, right))
        case _, Several():
            return _all_equal(given.items, gold, lambda item: decide(left, item))
    return None


def _same_texts(gold: Several, given: Several) -> bool:
    """Whether two collections have the same texts in any order, which takes no reading of thousands of items."""
    ordered = gold.choice != given.choice or any(item.casefold() in VERDICTS for item in gold.items)
    return not ordered and Counter(map(_stripped, gold.items)) == Counter(map(_stripped, given.items))


def _stripped(item: str) -> str:
    return SPACES.sub("", item)


def _assigned(
    gold: Shape | Assignment, given: Shape | Assignment, shapes: tuple[Shape, Shape], decide: Decide
) -> bool | None:
    """Compare an assignment with values that have no labels, in the order of the labels or of the gold answer."""
    assigned, other = (gold, shapes[1]) if isinstance(gold, Assignment) else (given, shapes[0])
    assert isinstance(assigned, Assignment)
    if isinstance(other, Several):
        if other.choice or resolved(other) is not other:  # x = 2 or x = 3, x = 2 or y = 3
            return None if assigned.numbered else False
        if assigned is gold and in_order(tuple(assigned.values.values()), other.items, decide) is True:
            return True
    return _ordered_and_unordered(gold, given, decide)


def _all_equal(items: Sequence[str], other: Shape | Assignment, same: Callable[[str], bool | None]) -> bool | None:
    """Several answers are one value only if all of them certainly are; the first that isn't ends the comparison."""
    if len(items) == 1:
        return same(items[0])
    value = isinstance(other, Plain) and is_value(other)
    verdicts: list[bool | None] = []
    for item in dict.fromkeys(items):
        verdicts.append(same(item))
        if value and verdicts[-1] is not True:
            return False
    return None if None in verdicts else bool(verdicts) and all(verdicts)


def _items(decide: Decide, left: str, right: str) -> bool | None:
    """Compare two elements: the element {1} isn't 1, although a whole answer {1} is; A(1,2) isn't B(1,2)."""
    names = _POINT.match(left), _POINT.match(right)
    if left.startswith("\\{") != right.startswith("\\{") or (names[0] and names[1] and names[0][1] != names[1][1]):
        return False
    return decide(left, right)


def _is_number(item: str) -> bool:
    """Whether an item, without its label, is a number or another constant."""
    return is_constant(expression(item.rpartition("=")[2])) or as_quantity(item) is not None


def _without_repetitions(gold: Sequence[str], given: Sequence[str]) -> Sequence[str]:
    """The given items, each once, unless the gold answer repeats some: a set has each element once."""
    if len({_key(item) for item in gold}) < len(gold):
        return given
    return list({_key(item): item for item in given}.values())


def _is_inequality(item: str) -> bool:
    shape = read(item)
    return isinstance(shape, Relation) and labelled(shape) is None


def _ordered_and_unordered(gold: Shape | Assignment, given: Shape | Assignment, decide: Decide) -> bool | None:
    """Compare a tuple or an assignment with a list, a set or a value: only the same order is the same answer."""
    parts: list[tuple[str, ...]] = []
    for shape in (gold, given):
        match shape:
            case Assignment():
                parts.append(shape.in_order())
            case Bracketed(opening="(", closing=")") | Several(braces=False, choice=False):
                parts.append(shape.items)
            case Bracketed():
                return None
            case _:
                return False if isinstance(shape, Several) or is_value(shape) else None
    return in_order(parts[0], parts[1], decide)


def _tuples(gold: Bracketed, given: Bracketed, decide: Decide) -> bool | None:
    same = (gold.opening, gold.closing) == (given.opening, given.closing)
    if not same and len(gold.items) == len(given.items) == 2:
        return False  # an open and a closed interval
    return in_order(gold.items, given.items, decide)


def _matrices(gold: Sequence[Sequence[str]], given: Sequence[Sequence[str]], decide: Decide) -> bool | None:
    if [len(row) for row in gold] != [len(row) for row in given]:
        return False
    return in_order([cell for row in gold for cell in row], [cell for row in given for cell in row], decide)


def _vector(matrix: Matrix) -> tuple[str, ...]:
    """The entries of one row or column; none of a larger matrix."""
    return tuple(cell for row in matrix.rows for cell in row) if 1 in (len(matrix.rows), len(matrix.rows[0])) else ()


def _ratios(gold: Sequence[str], given: Sequence[str]) -> bool | None:
    if len(gold) != len(given) or _is_time(gold) or any(_NO_TERM.search(term) for term in (*gold, *given)):
        return False
    if _TIME.fullmatch(":".join(gold)) and _TIME.fullmatch(":".join(given)):
        return tuple(gold) == tuple(given)
    pairs = [(as_number(left), as_number(right)) for left, right in zip(gold, given, strict=True)]
    known = [(left, right) for left, right in pairs if left is not None and right is not None]
    if any(left * known[0][1] != right * known[0][0] for left, right in known):
        return False
    return True if len(known) == len(pairs) and any(left for left, _ in known) else None


def _is_time(terms: Sequence[str]) -> bool:
    """Whether `12:24` or `3:30` is a time of day rather than a ratio, which people reduce."""
    return bool(_TIME.fullmatch(":".join(terms))) and math.gcd(int(terms[0]), int(terms[1])) > 1


def _ratio_and_quotient(terms: Sequence[str], text: str) -> bool | None:
    """`3:4` equals `3/4`, and `1:2:3` no number."""
    value, numbers = as_number(text), [as_number(term) for term in terms]
    if _is_time(terms):
        return False
    if value is None or None in numbers:
        return None
    return len(numbers) == 2 and bool(numbers[1]) and numbers[0] == value * numbers[1]  # type: ignore[operator]


def _key(text: str) -> Hashable:
    number = as_number(text)
    return _stripped(text) if number is None else number
