r"""Labels of answers: what stands before `=` in `x = 5`, `\angle ABC = 30^\circ` and `area = 12`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from .quantity import NO_LABEL
from .structure import Relation, Several, Shape, read
from .tokens import GREEK

_LABEL = re.compile(
    rf"""(?:m ?)?(?:
        [A-Za-z](?:_{{?\\?[A-Za-z0-9 ]+}}?)?'*(?:\ ?\([^()]*\))?  # x, x_1, f(x), P(A), S_{{\triangle ABC}}
        | \\(?:{"|".join(sorted(GREEK))})(?:_{{?\w+}}?)?
        | \\(?:angle|triangle|overline|widehat|vec)\ ?{{?[A-Za-z]+}}?
        | \|?[A-Z]{{2,4}}\|?                                      # AB, |AB|
        | [A-Za-z]{{3,}}(?:\ [A-Za-z]+)*                          # area, the total cost
        | \([A-Za-z](?:,\ ?[A-Za-z])+\)                           # (x, y)
    )""",
    re.VERBOSE,
)
APPROXIMATE = frozenset({"\\approx", "≈"})
_EQUAL = frozenset({"=", ":="})
_FUNCTION = re.compile(r"[A-Za-z]\([A-Za-z]\)")
Decide = Callable[[str, str], bool | None]


@dataclass(frozen=True, slots=True)
class Labelled:
    """The value that a chain of equalities gives to a label, or to none; `chain` are the sides that must be equal."""

    label: str | None
    chain: tuple[str, ...]

    @property
    def value(self) -> str:
        return self.chain[-1]


def label_of(text: str) -> str | None:
    """The label that a text is, without spaces; None for any other text."""
    return text.replace(" ", "") if _LABEL.fullmatch(text) and not NO_LABEL.search(text) else None


def labelled(shape: Relation) -> Labelled | None:
    r"""A relation read as a value with its label; None for inequalities.

    `x = 5`, `5 = x`, `x = y = 5`, `x \in A` and `x \approx 5` have a label, `2 + 3 = 5` and `2x + 3 = 5` have none.
    """
    sides = list(shape.sides)
    if not all(sides):
        return None
    if len(sides) == 2 and shape.signs[0] in {"\\in", "∈", *APPROXIMATE}:
        label = label_of(sides[0])
        return Labelled(label, (sides[1],)) if label else None
    if not set(shape.signs) <= _EQUAL:
        return None
    if label_of(sides[-1]) and not label_of(sides[0]):
        sides.reverse()
    label = label_of(sides[0])
    while len(sides) > 1 and label_of(sides[0]):
        del sides[0]
    return Labelled(label, tuple(sides))


def chain_holds(found: Labelled, decide: Decide) -> bool | None:
    """Whether all sides of a chain are equal; None if that is undecided."""
    verdicts = [decide(left, right) for left, right in zip(found.chain, found.chain[1:], strict=False)]
    return False if False in verdicts else (None if None in verdicts else True)


def same_label(left: str | None, right: str | None) -> bool:
    """Whether two labels may name the same thing: one is missing, they are equal, or they are `y` and `f(x)`."""
    names = {left, right}
    return len(names) == 1 or None in names or ("y" in names and any(_FUNCTION.fullmatch(name or "") for name in names))


@dataclass(frozen=True, slots=True)
class Assignment:
    """The values of several unknowns, by label."""

    values: dict[str, str]

    @property
    def numbered(self) -> bool:
        """Whether the labels differ in their subscripts only, as roots and the terms of a sequence do."""
        return len({label.partition("_")[0] for label in self.values}) == 1

    def in_order(self) -> tuple[str, ...]:
        """The values in the alphabetical order of their labels, as a point (x, y, z) has them."""
        return tuple(self.values[label] for label in sorted(self.values))


def resolved(shape: Several) -> Several | Assignment:
    """Answers side by side without their labels, or by their labels.

    `x = 1 or x = 2` and `x = 1, 2` are solutions for one unknown, `x = 1, y = 2` assigns two. In other mixtures each
    item stays as it is.
    """
    found = [_one(item) for item in shape.items]
    labels = [item.label if item else None for item in found]
    values = [item.value if item and item.label else text for item, text in zip(found, shape.items, strict=True)]
    chained = any(item and len(item.chain) > 1 for item in found)
    if chained or not any(labels):
        return shape
    if all(labels) and len(set(labels)) == len(labels) > 1 and not shape.choice:
        return Assignment({str(label): value for label, value in zip(labels, values, strict=True)})
    if (
        len(set(filter(None, labels))) == 1
        and labels[0]
        and not any(
            isinstance(read(text), Relation) for text, label in zip(shape.items, labels, strict=True) if not label
        )
    ):
        return Several(tuple(values), shape.braces, shape.choice)
    return shape


def _one(item: str) -> Labelled | None:
    shape: Shape = read(item)
    return labelled(shape) if isinstance(shape, Relation) else None
