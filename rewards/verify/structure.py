r"""Reads the outermost structure of a normalised answer: lists, relations, brackets, matrices, ratios.

Every reader here takes one pass over the text. What it doesn't know stays `Plain`, for the readers of values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_SCAN = re.compile(
    r"(?P<open>\\\{|[(\[{]|\\begin{|\\lfloor|\\lceil|\\langle)|(?P<close>\\\}|[)\]}]|\\end{|\\rfloor|\\rceil|\\rangle)"
    r"|(?P<comma>[,;]|\s(?:or|and)(?=\s)|(?<![A-Za-z\\])[或和])|(?P<colon>(?<!:):(?![:=]))"
    r"|(?P<relation>\\not ?(?:\\in(?![A-Za-z])|[<>=])"
    r"|\\(?:le|ge|ne|neq|lt|gt|in|notin|approx|equiv|sim|subset|subseteq|to)(?![A-Za-z])"
    r"|\\(?:Right|Left|Leftright|left|right|leftright)arrow(?![A-Za-z])|\\implies(?![A-Za-z])|[<>]=?|:?==?|≠|≈|≡|∈)"
    r"|(?P<union>\\(?:cup|cap|setminus)(?![A-Za-z]))|\\[A-Za-z]+|\\."
)
_SIGNS = re.compile(r"\\[pm]{2}(?![A-Za-z])")  # ±, ∓
_NUMBERED = re.compile(r"\([1-9]\) ")
_POINT = re.compile(r"[A-Z]\(.*,")
_MATRIX = re.compile(r"(\[|\()? ?\\begin{(matrix|array)}(.*)\\end{\2} ?(\]|\))?", re.DOTALL)
_COLUMNS = re.compile(r"{[clr ]*}")
_OR = frozenset({"or", "或", "或者"})
EMPTY_SETS = frozenset({"\\emptyset", "\\varnothing", "∅", "\\{\\}", "\\{ \\}"})


@dataclass(frozen=True, slots=True)
class Plain:
    """A text without outer structure."""

    text: str


@dataclass(frozen=True, slots=True)
class Several:
    r"""Answers side by side, `a, b`, `a or b`, `1 \pm 2`; in set `braces`, or as a `choice` with "or" or with ±."""

    items: tuple[str, ...]
    braces: bool = False
    choice: bool = False


@dataclass(frozen=True, slots=True)
class Bracketed:
    """A tuple, point, vector or interval, with its opening and closing bracket."""

    opening: str
    items: tuple[str, ...]
    closing: str


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix's rows of cells."""

    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Relation:
    r"""Sides with relation signs between them: `x = 5`, `-2 \le x \le 7`."""

    sides: tuple[str, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Terms with colons between them."""

    terms: tuple[str, ...]


Shape = Plain | Several | Bracketed | Matrix | Relation | Ratio


def read(text: str) -> Shape:
    """The outermost structure of a normalised text."""
    if text in EMPTY_SETS:
        return Several((), braces=True)
    if len(numbered := _NUMBERED.split(text)) > 2 and not numbered[0]:
        return Bracketed("(", tuple(item.strip(" ,;") for item in numbered[1:]), ")")  # (1) 5 (2) 3
    marks = list(_outer_marks(text))
    kinds = {kind for kind, _ in marks}
    if any(match[0] == ";" for _, match in marks) and any(match[0] == "," for _, match in marks):
        marks = [(kind, match) for kind, match in marks if match[0] != ","]  # p=5,q=2; p=7,q=2
    if "comma" in kinds:
        items = [item for item in _pieces(text, marks, "comma") if item]
        choice = any(kind == "comma" and match[0].strip() in _OR for kind, match in marks)
        return Several(tuple(signed for item in items for signed in _both_signs(item)), choice=choice)
    if "relation" in kinds:
        signs = tuple(match[0].strip() for kind, match in marks if kind == "relation")
        return Relation(tuple(_pieces(text, marks, "relation")), signs)
    if "union" in kinds:
        return Plain(text)
    if len(signed := _both_signs(text)) > 1:
        return Several(tuple(signed), choice=True)
    if "colon" in kinds:
        return Ratio(tuple(_pieces(text, marks, "colon")))
    return _enclosed(text)


def split(text: str, kind: str = "comma") -> list[str]:
    """The pieces between the outermost marks of a kind."""
    return _pieces(text, list(_outer_marks(text)), kind)


def _outer_marks(text: str) -> Iterator[tuple[str, re.Match[str]]]:
    """The marks that stand outside all brackets, in order."""
    depth = 0
    for match in _SCAN.finditer(text):
        kind = match.lastgroup
        if kind in ("open", "close"):
            depth += 1 if kind == "open" else -1
            if match[0] in ("\\begin{", "\\end{"):
                depth += 1  # its own braces: the closing one comes next
        elif kind and depth == 0:
            yield kind, match


def _pieces(text: str, marks: list[tuple[str, re.Match[str]]], kind: str) -> list[str]:
    pieces, start = [], 0
    for name, match in marks:
        if name == kind:
            pieces.append(text[start : match.start()].strip())
            start = match.end()
    return [*pieces, text[start:].strip()]


def _both_signs(text: str) -> list[str]:
    if len(pieces := _SIGNS.split(text)) != 2:
        return [text]
    before, after = pieces
    return [(before + "+" + after).strip().removeprefix("+").strip(), (before + "-" + after).strip()]


def _enclosed(text: str) -> Shape:
    if _POINT.match(text) and _closes_at_end(text[1:]) and isinstance(point := _enclosed(text[1:]), Bracketed):
        return point  # P(2,-3)
    if match := _MATRIX.fullmatch(text):
        return _matrix(match) or Plain(text)
    if text.startswith("\\{") and text.endswith("\\}") and _closes_at_end(text):
        return Several(tuple(item for item in split(text[2:-2]) if item), braces=True)
    if text.startswith("\\langle") and text.endswith("\\rangle"):
        text = "(" + text.removeprefix("\\langle").removesuffix("\\rangle").strip() + ")"
    if len(text) > 1 and text[0] in "([" and text[-1] in ")]" and _closes_at_end(text):
        items = split(text[1:-1])
        if len(items) > 1 or text[0] == "[":
            return Bracketed(text[0], tuple(items), text[-1])
        if text[-1] == ")" and items[0]:
            return read(items[0])  # (5)
    return Plain(text)


def _matrix(match: re.Match[str]) -> Matrix | None:
    left, name, body, right = match.groups()
    if name == "array":
        columns = _COLUMNS.match(body)
        if not columns or bool(left) != bool(right):
            return None
        body = body[columns.end() :]
    elif left or right or "\\begin" in body:
        return None
    rows = [tuple(cell.strip() for cell in row.split("&")) for row in body.strip().removesuffix("\\\\").split("\\\\")]
    return Matrix(tuple(rows)) if len({len(row) for row in rows}) == 1 else None


def _closes_at_end(text: str) -> bool:
    """Whether the last bracket closes the first one."""
    depth = 0
    for match in _SCAN.finditer(text):
        if match.lastgroup in ("open", "close"):
            depth += 1 if match.lastgroup == "open" else -1
            if match[0] in ("\\begin{", "\\end{"):
                depth += 1
            if depth == 0:
                return match.end() == len(text)
    return False
