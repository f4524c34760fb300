r"""The structure of a prepared answer: values, lists, tuples, intervals, sets, ratios, and chains: `1 < x \le 3`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .translation import Unreadable, expression

MAX_DEPTH = 8
_OPEN, _CLOSE = "([{⟨", ")]}⟩"
_LISTED = re.compile(
    r"\s*,\s*(?:and|or)\s+|\s+(?:and|or)\s+|(?<=[\d)\]}])(?:and|or)(?=[\d(\[{\\])|[,，、]|\s*(?:或|和|且)\s*"
)
_COMMA = re.compile("[,，]")
_SIGN = re.compile(r"<=|>=|!=|\\le(?![a-z])|\\ge(?![a-z])|\\ne(?![a-z])|\\approx|\\notin|\\in(?![a-z])|\\equiv|[<>=]")
_SIGNS = {"\\le": "<=", "\\ge": ">=", "\\ne": "!=", "\\equiv": "="}
_SETWISE = re.compile(r"\\cup(?![a-z])|\\cap(?![a-z])|\\setminus(?![a-z])")
_SETS = {"\\mathbb{R}": "R", "\\mathbb R": "R", "\\R": "R", "\\mathbb{Z}": "Z", "\\mathbb{N}": "N", "\\mathbb{Q}": "Q",
         "\\mathbb{C}": "C", "\\emptyset": "empty"}  # fmt: skip
_FACTOR = r"(?:\\[A-Za-z]+|[A-Za-z])(?:_(?:{[^{}]*}|\w))?'*"
_CALL = r"(?:\([^()]*\))?"
_NAME = re.compile(
    rf"(?:(?:\\(?:vec|overline|overrightarrow|hat|bar|widehat){{\w+}}|{_FACTOR}{_CALL})\s*)+"
    rf"|\|\s*[A-Z]+\s*\||\((?:\s*{_FACTOR}\s*,)+\s*{_FACTOR}\s*\)"
)
_QUOTIENT = re.compile(r"\\frac\s*{([^{}]*(?:{[^{}]*}[^{}]*)*)}\s*{([^{}]*(?:{[^{}]*}[^{}]*)*)}")
_NOT_NAMES = re.compile(
    r"\\(?:sqrt|frac|log|ln|exp|pi|infty|pm|mp|cdot|times|div|begin|int|sum|prod|lim|binom)(?![a-z])"
)
_NUMERAL = re.compile(r"\(?([0-9][0-9A-Z]*)\)?_{?([1-9]\d?)}?", re.ASCII)  # with its base
_DECIMAL = re.compile(r"[+-]?\d*\.(\d+)\s*%?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Value:
    """An expression or a matrix; `decimals` counts the digits behind the point of a decimal number."""

    text: str
    expression: Any
    decimals: int | None = None


@dataclass(frozen=True, slots=True)
class Parts:
    """Several forms; `kind` is a pair of brackets such as "(]" or "{}", or the "," or "or" between them."""

    kind: str
    items: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Ratio:
    """`1:2:3`, and also a time of day."""

    text: str
    items: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Combined:
    r"""Sets that one operator, `\cup`, `\cap` or `\setminus`, connects from left to right."""

    operators: tuple[str, ...]
    items: tuple[Form, ...]


@dataclass(frozen=True, slots=True)
class Chain:
    r"""Terms and the signs between them: =, !=, <, >, <=, >=, \approx, \in, \notin."""

    terms: tuple[Form, ...]
    signs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Named:
    """A set with a name of its own: "R", "Z", "N", "Q", "C" or "empty"."""

    name: str


@dataclass(frozen=True, slots=True)
class Label:
    r"""What an answer may be called without being an equation: `x`, `f(2)`, `AB`, `|AB|`, `(p, q)`, `\frac{NO}{BO}`."""

    text: str


Form = Value | Parts | Ratio | Combined | Chain | Named | Label


def read(text: str, depth: int = 0) -> Form:
    """The form of a prepared text.

    Raises:
        Unreadable: if it has none, or if math-verify's parser can't read one of its expressions.
    """
    text = text.strip().rstrip(".").strip()
    if not text or depth > MAX_DEPTH:
        raise Unreadable(text)
    if text in _SETS:
        return Named(_SETS[text])
    if len(groups := _split(text, re.compile(";"))) > 1:
        return Parts(",", tuple(_group(group, depth + 1) for group in groups))
    if len(pieces := _split(text, _LISTED)) > 1:
        separators = text.replace(",", " ")
        kind = "or" if re.search(r"(?<![a-z])or(?![a-z])|或|\\cup", separators) else ","
        return Parts(kind, tuple(read(piece, depth + 1) for piece in pieces if piece.strip()))
    if len(pieces := _split(text, _SIGN)) > 1:
        signs = [_SIGNS.get(sign, sign) for sign in _separators(text, _SIGN)]
        return Chain(tuple(_term(piece, depth + 1) for piece in pieces), tuple(signs))
    if len(pieces := _split(text, _SETWISE)) > 1:
        items = tuple(read(piece, depth + 1) for piece in pieces)
        return Combined(tuple(_separators(text, _SETWISE)), items)
    return _bracketed(text, depth) or _plain(text, depth)


def is_label(text: str) -> bool:
    """Whether a text is a name that can stand before an answer and an equals sign."""
    if match := _QUOTIENT.fullmatch(text):
        return all(is_label(part.strip()) for part in match.groups())
    if ":" in text:
        return all(is_label(part.strip()) for part in text.split(":"))
    return bool(_NAME.fullmatch(text)) and not _NOT_NAMES.search(text) and text not in ("e", "i")


def _group(text: str, depth: int) -> Form:
    pieces = [piece for piece in _split(text, _LISTED) if piece.strip()]
    return read(text, depth) if len(pieces) == 1 else Parts("()", tuple(read(piece, depth + 1) for piece in pieces))


def _term(text: str, depth: int) -> Form:
    text = text.strip()
    return Label("".join(text.split())) if is_label(text) else read(text, depth)


def _bracketed(text: str, depth: int) -> Form | None:
    start, end = (2, -2) if text.startswith("\\{") and text.endswith("\\}") else (1, -1)
    if re.match(r"[A-Z]\(.*,.*\)$", text) and _encloses(text[1:]):  # the point P(2,-3)
        return _bracketed(text[1:], depth)
    if start == 2 or (text[0] in _OPEN and text[-1] in _CLOSE and _encloses(text)):
        inside, kind = text[start:end], "{}" if start == 2 else "," if text[0] == "{" else text[0] + text[-1]
    else:
        return None
    if not inside.strip():
        return Named("empty") if start == 2 else None
    if start == 2 and len(builder := _split(inside, re.compile(r"\||:"))) == 2:
        return _condition(builder[0], builder[1], depth)
    if len(groups := _split(inside, re.compile(";"))) > 1:
        return Parts(kind, tuple(read(group, depth + 1) for group in groups))
    pieces = _split(inside, _LISTED if kind in ("{}", ",") else _COMMA)
    if len(pieces) == 1 and start == 1:
        return read(inside, depth + 1) if kind in ("()", "[]", ",") else None
    items: list[Form] = []
    for piece in pieces:
        form = read(piece, depth + 1)
        items.extend(form.items if isinstance(form, Parts) and form.kind == "," and "\\pm" in piece else [form])
    return Parts(kind, tuple(items))


def _condition(variable: str, condition: str, depth: int) -> Form:
    r"""The condition of a set-builder such as `\{x \mid x < 1\}` about its own variable."""
    bare = re.sub(r"\\in ?(?:\\mathbb ?{?R}?|\\Reals)", "", variable).strip()
    form = read(condition, depth + 1)
    if not re.fullmatch(r"[A-Za-z]|\\[a-z]+", bare) or bare not in condition or isinstance(form, Value):
        raise Unreadable
    return form


def _plain(text: str, depth: int) -> Form:
    if "\\pm" in text or "\\mp" in text:
        upper = text.replace("\\pm", "+").replace("\\mp", "-")
        lower = text.replace("\\pm", "-").replace("\\mp", "+")
        return Parts(",", (read(upper.removeprefix("+"), depth + 1), read(lower.removeprefix("+"), depth + 1)))
    if len(pieces := _split(text, re.compile(":"))) > 1:
        return Ratio("".join(text.split()), tuple(Value(piece, expression(piece.strip())) for piece in pieces))
    if (numeral := _NUMERAL.fullmatch(text)) and all(int(digit, 36) < int(numeral[2]) for digit in numeral[1]):
        return _plain(numeral[1], depth) if numeral[2] == "10" else Label(f"{numeral[1]}_{numeral[2]}")
    decimal = _DECIMAL.fullmatch(text)
    return Value(text, expression(text), len(decimal[1]) if decimal else None)


def _encloses(text: str) -> bool:
    """Whether the last bracket closes the first one."""
    return all(depth for position, depth in _depths(text) if position < len(text) - 1)


def _depths(text: str) -> Iterator[tuple[int, int]]:
    """Each position, and the number of brackets that are open behind it."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character in _OPEN) - (character in _CLOSE)
        yield position, depth


def _outside(text: str, pattern: re.Pattern[str]) -> list[re.Match[str]]:
    """The matches outside all brackets, absolute values and matrices."""
    depths = [0, *(depth for _, depth in _depths(text))]
    bars = [match.start() for match in re.finditer(r"(?<!\\)\|", text)]
    inside_bars = bars if len(bars) % 2 == 0 else []
    found = []
    for match in pattern.finditer(text):
        before = sum(bar < match.start() for bar in inside_bars)
        environment = text.count("\\begin", 0, match.start()) - text.count("\\end{", 0, match.start())
        if depths[match.start()] == 0 and before % 2 == 0 and environment == 0:
            found.append(match)
    return found


def _split(text: str, pattern: re.Pattern[str]) -> list[str]:
    edges = [0, *(edge for match in _outside(text, pattern) for edge in match.span()), len(text)]
    return [text[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True)]


def _separators(text: str, pattern: re.Pattern[str]) -> list[str]:
    return [match[0] for match in _outside(text, pattern)]
