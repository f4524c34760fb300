"""Lists and sets of short answers, compared in order or in any order. A set is a multiset: repeated items count."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Mapping
from itertools import product
from typing import Any

from .equality import quick_equal
from .latex import normalise, split_at
from .matching import matched
from .quantity import as_number
from .words import plain

_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "「": "」", "『": "』"}
_AND = r"\band\b|&|以及|[和与及]"
_OPENING = re.compile(  # each line break starts anew, so that many of them cost one pass
    rf"(?:^|[,;，；、(\[{{（【\n]|{_AND})[^\S\n]*([{''.join(_QUOTES)}])", re.IGNORECASE
)
_ENDS = {
    opening: re.compile(rf"{closing}(?=\s*(?:[,;，；、)\]}}）】]|{_AND}|\\}}|\Z))", re.IGNORECASE)
    for opening, closing in _QUOTES.items()
}
# These stand for a quoted text, for a comma within a number, and for a separator other than a comma or semicolon.
_QUOTED, _COMMA, _BREAK = "\ue000", "\ue001", "\ue002"
_THOUSANDS = re.compile(r"(?<!\d)\d{1,3}(?:,\d{3})+(?!\d)", re.ASCII)
_CONNECTIVE = re.compile(r"(?:^|(?<=\s))(?:and|&)\s|(?<=\S)(?:以及|[和与及])(?=\S)", re.IGNORECASE)
_PROSE = re.compile(r"[\w\s.'’\"?-]+")  # no operators
_DIGIT = re.compile(r"\d")
_WORD = re.compile(r"[^\W\d_]{2}")


def items(answer: Any) -> list[str]:
    r"""The items of a list, or of a text such as `red, green and blue`, `["a, b", "c"]`, `(1,2); (3,4)`, `甲、乙和丙`.

    Commas, semicolons, 、 and line breaks separate items, except inside quotes and brackets; of semicolons and others,
    only semicolons do. One pair of brackets or braces around the whole text is left out, and so are quotes around an
    item. "and" or 和 separates the last two items. A comma in a number such as 1,000 separates thousands if the items'
    separators look different. `\pm 2` is two items.
    """
    return next(_readings(answer))


def check(gold: Any, row: Mapping[str, Any]) -> None:
    """Raise ValueError for a gold answer without items."""
    if not items(gold):
        raise ValueError(f"the gold answer {gold!r} has no items")


def score_ordered(gold: Any, given: str, row: Mapping[str, Any]) -> float:
    """1 if both have the same items in the same order, else 0."""
    right = items(gold)
    return float(any(all(map(same_item, right, answer)) for answer in _answers(given, len(right))))


def score_set(gold: Any, given: str, row: Mapping[str, Any]) -> float:
    """1 if both have the same items in any order and equally often, else 0."""
    right = items(gold)
    return float(any(matched(right, answer, same_item, _key) is True for answer in _answers(given, len(right))))


def _answers(given: str, count: int) -> Iterator[list[str]]:
    """The readings of an answer that have `count` items; as a single item, `(1, 2)` is also one point."""
    readings = [answer for answer in _readings(given) if len(answer) == count] + ([[given]] if count == 1 else [])
    yield from (answer for number, answer in enumerate(readings) if answer not in readings[:number])


def _readings(answer: Any) -> Iterator[list[str]]:
    """The readings of a text as a list, the most likely one first; at most twelve."""
    if isinstance(answer, list | tuple):
        yield [sign for item in answer for sign in _signs(str(item))]
        return
    text, quoted = _hide_quoted(re.sub(f"[{_QUOTED}{_COMMA}{_BREAK}]", "", str(answer)))
    text = _unbracketed(normalise(re.sub(r"[、\n]", _BREAK, text.strip().replace("{,}", ""))))
    joined = _THOUSANDS.sub(lambda match: match[0].replace(",", _COMMA), text)
    thousands = re.search(r",\S", joined) is None and re.search(f"[,;{_BREAK}]", joined) is not None
    separators = [";", f",;{_BREAK}"] if ";" in text and re.search(f"[,{_BREAK}]", text) else [f",;{_BREAK}"]
    for form, split in product((joined,) if thousands else (text, joined), separators):
        *others, last = split_at(form, split)
        for parts in (
            [*others, *_CONNECTIVE.split(last)],
            [*others, last],
            [part for piece in [*others, last] for part in _CONNECTIVE.split(piece)],
        ):
            hidden = iter(quoted)
            shown = [_shown(part.strip(), hidden) for part in parts if part.strip()]
            yield [sign for item in shown for sign in _signs(item)]


def _signs(item: str) -> list[str]:
    r"""The two items that `\pm` stands for, or the item alone."""
    before, found, after = item.partition("\\pm")
    if not found or "\\pm" in after:
        return [item]
    after = after.lstrip()
    return [f"{before}+{after}".removeprefix("+"), f"{before}-{after}"]


def _hide_quoted(text: str) -> tuple[str, list[str]]:
    """The text with _QUOTED in place of each quoted text at the start of an item, and the quoted texts."""
    pieces, quoted, position, unpaired = [], [], 0, set[str]()
    for match in _OPENING.finditer(text):
        start, quote = match.start(1), match[1]
        if start < position or quote in unpaired:
            continue
        if end := _ENDS[quote].search(text, start + 1):
            pieces += [text[position:start], _QUOTED]
            quoted.append(text[start : end.end()])
            position = end.end()
        else:
            unpaired.add(quote)  # no later one has a partner either, which keeps the time linear
    return "".join([*pieces, text[position:]]), quoted


def _shown(item: str, quoted: Iterator[str]) -> str:
    """The item with its quoted texts and its commas; quotes around all of it are left out."""
    if item == _QUOTED:
        return next(quoted)[1:-1].replace('\\"', '"').strip()
    return re.sub(_QUOTED, lambda _: next(quoted), item.replace(_COMMA, ",").replace(_BREAK, ","))


def _unbracketed(text: str) -> str:
    """The text without the brackets around all of it."""
    start, end = (2 if text.startswith("\\{") else 1), (2 if text.endswith("\\}") else 1)
    if len(text) < start + end or text[start - 1] not in "([{" or text[-1] not in ")]}":
        return text
    depth = 0
    for position in range(len(text) - 1, -1, -1):
        depth += (text[position] in ")]}") - (text[position] in "([{")
        if depth == 0:
            return text[start:-end] if position == start - 1 else text
    return text


def same_item(left: str, right: str) -> bool | None:
    """Whether two items are equal: words in VQA's normal form, and everything else as mathematics."""
    if _is_prose(left) and _is_prose(right):
        equal = plain(left) == plain(right)
        if equal or not (_DIGIT.search(left) or _DIGIT.search(right)):
            return equal
    return quick_equal(left, right)


def _key(item: str) -> Hashable:
    number = as_number(normalise(item))
    return number if number is not None else (plain(item) if _is_prose(item) else item)


def _is_prose(item: str) -> bool:
    """Whether an item is text: in `x+1` or `1/2`, punctuation isn't a matter of style."""
    return bool(_PROSE.fullmatch(item) and _WORD.search(item))
