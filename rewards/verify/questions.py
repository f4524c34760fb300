"""The questions that verification processes answer: the quick rules, sympy, and the guards' comparisons."""

from __future__ import annotations

from typing import Any

from .equality import quick_equal
from .latex import impossible, normalise
from .options import chosen, options_of
from .symbolic import SymbolicEquality
from .verifiers import VERIFIERS, Row


class Questions:
    """The callable of a verification process: the name of one of the methods, and its arguments.

    It is made once, before the process forks, so that imports and grammars count towards no time limit.
    """

    def __init__(self) -> None:
        self._symbolic = SymbolicEquality()

    def __call__(self, question: str, *arguments: Any) -> Any:
        """Answer one question."""
        return getattr(self, question)(*arguments)

    def rules(self, kind: str, gold: Any, given: str, row: Row) -> float | None:
        """The score of an answer by the rules of its kind; None where sympy must decide."""
        return VERIFIERS[kind].score(gold, given, row)

    def symbolic(self, gold: str, given: str | None) -> bool:
        """The verdict of sympy, see `SymbolicEquality`; False for an answer that no LaTeX reader can take."""
        return not (given and impossible(given)) and self._symbolic(gold, given)

    def differ(self, left: str, right: str) -> bool:
        """Whether a rule is certain that two answers differ."""
        return quick_equal(left, right) is False

    def names_several(self, answer: str, gold: str | None, row: Row) -> bool | None:
        """Whether an answer names more options than are right; None for a row without options."""
        options = options_of(row)
        if not options:
            return None
        text = normalise(answer).casefold()
        named = sum(bool(option) and option.casefold() in text for option in options.values())
        right = len(chosen(gold, options)) if gold is not None else 1
        return max(named, len(chosen(answer, options))) > max(1, right)
