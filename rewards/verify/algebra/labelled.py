"""Labels before answers: `x = 5` is the number 5, `x = 1 or x = 2` two numbers, `x = 1, y = 2` an assignment."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from .forms import Chain, Form, Label, Named, Parts, Value
from .translation import expression

UNORDERED = frozenset([",", "or", "{}"])
_FUNCTION = re.compile(r"[A-Za-z]\([A-Za-z]\)")
Same = Callable[[Form, Form], bool]


class FalseLink(Exception):  # noqa: N818 — control flow, not an error
    """A chain of equalities claims that two different values are equal."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A form with the labels that a chain of equalities gives it."""

    labels: tuple[str, ...]
    value: Resolved


@dataclass(frozen=True, slots=True)
class Assignment:
    """The values of several unknowns, in the order of the text."""

    labels: tuple[str, ...]
    items: tuple[Resolved, ...]

    def solutions(self) -> Labelled | None:
        """`x_1 = 2, x_2 = 3` as two values of x; None for other labels."""
        bases = {label.split("_")[0] for label in self.labels}
        numbers = [re.sub(r"\D", "", label) for label in self.labels]
        if len(bases) > 1 or numbers != [str(number) for number in range(1, len(numbers) + 1)]:
            return None
        return Labelled((bases.pop(),), Parts(",", self.items))


Resolved = Form | Labelled | Assignment


def same_label(left: tuple[str, ...], right: tuple[str, ...]) -> bool:
    """Whether labels may name the same thing: one is common, or they are `y` and `f(x)`."""
    names = {*left, *right}
    return bool(set(left) & set(right)) or ("y" in names and any(_FUNCTION.fullmatch(name) for name in names))


def resolved(form: Form, same: Same | None) -> Resolved:
    """The form with its labels set apart.

    Args:
        form: what was read.
        same: compares the links of chains; None to take the last link of a chain on trust, as for a gold answer.

    Raises:
        FalseLink: if a chain has two different values.
    """
    if isinstance(form, Chain):
        return _chain(form, same)
    if isinstance(form, Parts):
        return _parts(form.kind, [resolved(item, same) for item in form.items])
    return form


def _chain(form: Chain, same: Same | None) -> Resolved:
    terms = form.terms
    if form.signs == ("\\in",) and isinstance(terms[0], Label):
        if isinstance(terms[1], Named) and terms[1].name not in ("R", "empty"):
            return form  # a condition such as k in Z
        return Labelled((terms[0].text,), resolved(terms[1], same))
    if not set(form.signs) <= {"=", "\\approx"}:
        return form
    if "\\approx" in form.signs:  # the exact value stands before the approximate one, if there is one
        exact = terms[: form.signs.index("\\approx") + 1]
        terms = exact if any(not isinstance(term, Label) for term in exact) else terms
    if isinstance(terms[-1], Label) and not isinstance(terms[0], Label):
        terms = terms[::-1]
    count = next((index for index, term in enumerate(terms) if not isinstance(term, Label)), len(terms) - 1)
    labels = tuple(term.text for term in terms[:count] if isinstance(term, Label))
    trusted = same is None and (bool(labels) or len(terms) > 2)
    sides = [as_value(term) for term in (terms[-1:] if trusted else terms[count:])]
    equal = len(sides) == 1 or _all_same(sides, same or _identical)
    if not labels:
        return sides[-1] if equal else form
    if not equal:
        raise FalseLink
    names = tuple(labels[0][1:-1].split(",")) if labels[0].startswith("(") else ()
    value = resolved(sides[-1], same)
    if names and isinstance(value, Parts) and len(names) == len(value.items):
        return Assignment(names, value.items)
    return Labelled(labels, value)


def _parts(kind: str, items: list[Resolved]) -> Resolved:
    if kind in UNORDERED:
        items = [part for item in items for part in _flat(item)]
    labelled = [item for item in items if isinstance(item, Labelled)]
    labels = [item.labels[0] for item in labelled]
    first, *rest = items
    if isinstance(first, Assignment) and not any(isinstance(item, Labelled | Assignment) for item in rest):
        return Parts(kind, (Parts("()", first.items), *rest))  # (x, y) = (1, 2), (3, 4)
    if (
        isinstance(first, Labelled)
        and len(labelled) == 1
        and not any(isinstance(item, Chain | Assignment) for item in rest)
    ):
        return Labelled(first.labels, Parts(kind, (first.value, *rest)))  # n = 1, 2, 3
    if not labelled or len(labelled) < len(items):
        return Parts(kind, tuple(items))
    values = tuple(item.value for item in labelled)
    if len(set(labels)) == 1:
        return Labelled(labelled[0].labels, Parts(kind, values))
    period = len(set(labels))
    if period == len(labels) and kind == "or":
        return Parts(kind, tuple(items))
    if period == len(labels):
        return Assignment(tuple(labels), values)
    if len(labels) % period == 0 and labels == labels[:period] * (len(labels) // period):
        groups = [values[start : start + period] for start in range(0, len(values), period)]
        return Parts(",", tuple(Assignment(tuple(labels[:period]), group) for group in groups))
    return Parts(kind, tuple(items))


def _flat(item: Resolved) -> list[Resolved]:
    r"""The values of `1 \pm 2` and of `x = 1 \pm 2` one by one."""
    if isinstance(item, Parts) and item.kind in (",", "or"):
        return list(item.items)
    if isinstance(item, Labelled) and isinstance(item.value, Parts) and item.value.kind in (",", "or"):
        return [Labelled(item.labels, value) for value in item.value.items]
    return [item]


def as_value(form: Form) -> Form:
    """A label as the expression that it also is; Unreadable if it is none."""
    return Value(form.text, expression(form.text)) if isinstance(form, Label) else form


def _all_same(sides: list[Form], same: Same) -> bool:
    return all(same(left, right) for left, right in pairwise(sides))


def _identical(left: Form, right: Form) -> bool:
    return left == right
