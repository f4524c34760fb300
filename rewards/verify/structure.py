r"""Compares answers with several parts: tuples, intervals, sets, lists, unions, `\pm` and matrices."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from .latex import split_at

_MATRIX = re.compile(r"\\begin{matrix}(.*)\\end{matrix}", re.DOTALL)
_OR = re.compile(r"\s+(?:or|and)\s+|(?<![A-Za-z\\])(?:或|和)|\\cup(?![A-Za-z])")
Decide = Callable[[str, str], bool | None]
Parts = tuple[str, list[str]]


def parts_of(text: str) -> Parts | None:
    """The kind and the parts of a normalised answer; None if it has no parts.

    The kind is a pair of brackets such as "()" or "[)" for ordered parts, "set" for unordered parts and for lists
    without brackets, or a matrix's size such as "matrix 2x3".
    """
    if match := _MATRIX.fullmatch(text):
        rows = [
            [cell.strip() for cell in row.split("&")] for row in match[1].strip().removesuffix("\\\\").split("\\\\")
        ]
        return f"matrix {len(rows)}x{len(rows[0])}", [cell for row in rows for cell in row]
    if len(pieces := _OR.split(text)) > 1:
        return "set", [piece.strip() for piece in pieces]
    if text.count("\\pm") == 1:
        return "set", [text.replace("\\pm", "+").removeprefix("+").strip(), text.replace("\\pm", "-")]
    if text.startswith("\\{") and text.endswith("\\}"):
        return "set", split_at(text[2:-2], ",;")
    if len(text) > 1 and text[0] in "([" and text[-1] in ")]" and len(split_at(text, ",;")) == 1 and _encloses(text):
        pieces = split_at(text[1:-1], ",;")
        return (text[0] + text[-1], pieces) if len(pieces) > 1 or text[0] == "[" else None
    pieces = split_at(text, ",;")
    return ("set", pieces) if len(pieces) > 1 and all(pieces) else None


def same_parts(gold: Parts, given: Parts, decide: Decide) -> bool | None:
    """Whether two answers with parts are equal; None if the rules can't decide a part."""
    if gold[0] != given[0] or len(gold[1]) != len(given[1]):
        return False
    if gold[0] == "set":
        return _matched(gold[1], given[1], decide)
    verdicts = [decide(left, right) for left, right in zip(gold[1], given[1], strict=True)]
    return False if False in verdicts else (None if None in verdicts else True)


def _matched(gold: Sequence[str], given: Sequence[str], decide: Decide) -> bool | None:
    rest, undecided = list(given), False
    for left in gold:
        verdicts = [decide(left, right) for right in rest]
        if True in verdicts:
            rest.pop(verdicts.index(True))
        elif None in verdicts:
            undecided = True
        else:
            return False
    return None if undecided else True


def _encloses(text: str) -> bool:
    """Whether the last bracket closes the first one."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0:
            return position == len(text) - 1
    return False
