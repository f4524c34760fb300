"""Comparison of two expressions: exactly where that is proven, by certified bounds otherwise."""

from __future__ import annotations

from .bounds import different
from .exact import equal
from .tree import Expression


def compare(left: Expression, right: Expression) -> bool | None:
    """Whether two expressions are equal; None where that isn't decided here."""
    verdict = equal(left, right)
    if verdict is None and different(left, right):
        return False
    return verdict
