"""Reads numbers in English words: two hundred and five, twenty-one, two and a half, three quarters, half a million."""

from __future__ import annotations

import re
from fractions import Fraction

_FIRST = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen"
)
_ORDINALS = (
    "fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth"
    " seventeenth eighteenth nineteenth twentieth"
)
_TIES = "twenty thirty forty fifty sixty seventy eighty ninety"
UNITS = {word: value for value, word in enumerate(_FIRST.split())}
_TENS = {word: 10 * value for value, word in enumerate(_TIES.split(), start=2)} | {"fourty": 40}
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "quadrillion": 10**15}
_BEHIND_DIGITS = {"hundred": 100, **_SCALES, "dozen": 12, "lakh": 10**5, "crore": 10**7}
SCALES = _BEHIND_DIGITS | {scale + "s": size for scale, size in _BEHIND_DIGITS.items()}
_PARTS = {"half": 2, "third": 3, "quarter": 4, "hundredth": 100, "thousandth": 1000, "millionth": 10**6}
_PARTS |= {ordinal: value for value, ordinal in enumerate(_ORDINALS.split(), start=4)}
_SEVERAL_PARTS = {"halves": 2, "quarters": 4} | {part + "s": size for part, size in _PARTS.items() if part != "half"}
WORDS = frozenset(
    [*UNITS, *_TENS, *SCALES, *_PARTS, *_SEVERAL_PARTS, "a", "an", "and", "point", "minus", "negative", "of"]
)
_TRAILING = frozenset(["a", "an", "and", "point", "of", "minus", "negative"])
_WORD = re.compile(r"([ -]*)([A-Za-z]+)")
_MAX_WORDS = 40


def number_words(text: str) -> tuple[Fraction, int] | None:
    """The number that the words at the start of a text make, and where they end; None if they make none.

    All number words that follow each other must belong to it: "three four" and "twenty second" are None.
    """
    words, ends = _run(text)
    if not words:
        return None
    value = _signed(words)
    return None if value is None else (value, ends[len(words) - 1])


def scale(text: str) -> tuple[int, int]:
    """The product of the scale words ("hundred thousand") at the start of a text, and where they end; (1, 0) for none.

    The words must grow from left to right.
    """
    size, last, end = 1, 1, 0
    while match := _WORD.match(text, end):
        factor = SCALES.get(match[2].lower(), 0)
        if factor <= last:
            break
        size, last, end = size * factor, factor, match.end()
    return size, end


def part(text: str) -> tuple[Fraction, int] | None:
    """The fraction in words behind "and" at the start of a text, as in "2 and a half", and where it ends."""
    words, ends = _run(text)
    value = _fraction(words[1:]) if words[:1] == ["and"] else None
    return None if value is None else (value, ends[len(words) - 1])


def parts(text: str, count: int) -> tuple[int, int]:
    """The denominator in words behind a whole number, as in "7 eighths", and where it ends; (1, 0) for none.

    "3 quarters" may be coins, so quarters aren't read.
    """
    match = _WORD.match(text)
    word = match[2].lower() if match else ""
    size = (_PARTS if abs(count) == 1 else _SEVERAL_PARTS).get(word, 1)
    return (1, 0) if match is None or size == 1 or word.startswith("quarter") else (size, match.end())


def _run(text: str) -> tuple[list[str], list[int]]:
    """The number words at the start of a text, and where each of them ends."""
    words: list[str] = []
    ends: list[int] = []
    position = 0
    while match := _WORD.match(text, position):
        word, position = match[2].lower(), match.end()
        if word not in WORDS:
            break
        if len(words) == _MAX_WORDS or (match[1] == "-" and words and words[-1] in _TENS and word in _SEVERAL_PARTS):
            return [], []  # twenty-fifths aren't twenty fifths
        words.append(word)
        ends.append(position)
    while words and words[-1] in _TRAILING:
        words.pop()
    return words, ends


def _signed(words: list[str]) -> Fraction | None:
    if words[0] in ("minus", "negative"):
        value = _scaled(words[1:]) if len(words) > 1 else None
        return None if value is None else -value
    return _scaled(words)


def _scaled(words: list[str]) -> Fraction | None:
    """A number with a part (two and a half, half a) before a last scale word, or a plain one."""
    if words[:1] == ["half"] and len(words) > 1:
        rest = words[2:] if words[1] in ("a", "of") else words[1:]
        return Fraction(SCALES[rest[0]], 2) if len(rest) == 1 and rest[0] in _BEHIND_DIGITS else None
    plain = _plain(words)
    if plain is None and len(words) > 1 and words[-1] in _BEHIND_DIGITS:
        before = _plain(words[:-1])
        return None if before is None or before.denominator == 1 else before * _BEHIND_DIGITS[words[-1]]
    return plain


def _plain(words: list[str]) -> Fraction | None:
    if "point" in words:
        return _decimal(words)
    readings = {_fraction(words), *_sums(words)}
    whole = _cardinal(words)
    readings.add(None if whole is None else Fraction(whole))
    readings.discard(None)
    return readings.pop() if len(readings) == 1 else None  # "two hundred and three quarters" has two readings


def _sums(words: list[str]) -> list[Fraction | None]:
    """The readings as a whole number and a fraction: "two and a half"."""
    sums: list[Fraction | None] = []
    for position, word in enumerate(words):
        if word == "and" and (fraction := _fraction(words[position + 1 :])) is not None and fraction < 1:
            whole = _cardinal(words[:position])
            sums.append(None if whole is None else whole + fraction)
    return sums


def _fraction(words: list[str]) -> Fraction | None:
    """A half, one third, three quarters, or half."""
    if words == ["half"]:
        return Fraction(1, 2)
    if len(words) < 2:
        return None
    last, above = words[-1], words[:-1]
    if last in _PARTS:
        return Fraction(1, _PARTS[last]) if above in (["a"], ["an"], ["one"]) else None
    if last not in _SEVERAL_PARTS or above in (["a"], ["an"], ["one"]):
        return None
    count = _cardinal(above)
    return None if count is None else Fraction(count, _SEVERAL_PARTS[last])


def _decimal(words: list[str]) -> Fraction | None:
    point = words.index("point")
    whole, digits = _cardinal(words[:point]), [UNITS.get(word, 10) for word in words[point + 1 :]]
    if whole is None or not digits or max(digits) > 9:
        return None
    return Fraction(f"{whole}.{''.join(map(str, digits))}")


def _cardinal(words: list[str]) -> int | None:
    """Groups below a thousand with scales that fall from left to right; "twelve hundred" and "a dozen" too."""
    if words == ["a"]:
        return None
    if words and words[-1].startswith("dozen"):
        count = 1 if words[:-1] == ["a"] else _cardinal(words[:-1])
        return None if count is None or words[-2].startswith("dozen") else 12 * count
    total, start, last = 0, 0, 10**18
    for position, word in enumerate(words):
        if (size := _SCALES.get(word)) is None:
            continue
        group = _group(words[start:position], first=start == 0)
        if group is None or not 0 < group < 1000 or size >= last:
            return None
        total, start, last = total + group * size, position + 1, size
    if start == len(words):
        return total if words else None
    group = _group(words[start:], first=start == 0)
    return None if group is None or (total and not 0 < group < min(last, 1000)) else total + group


def _group(words: list[str], *, first: bool) -> int | None:
    """A number below 10,000 in hundreds, tens and ones."""
    if not first and words[:1] == ["and"]:
        words = words[1:]
    if words[:1] == ["a"]:  # a hundred, a million
        words = ["one", *words[1:]] if len(words) == 1 or words[1] == "hundred" else []
        if words == ["one"] and not first:
            return None
    if "hundred" not in words:
        return _below_hundred(words)
    position = words.index("hundred")
    hundreds, rest = _below_hundred(words[:position]), words[position + 1 :]
    if not hundreds:
        return None
    if rest[:1] == ["and"] and len(rest) > 1:
        rest = rest[1:]
    ones = _below_hundred(rest) if rest else 0
    return None if ones is None or (rest and not ones) else 100 * hundreds + ones


def _below_hundred(words: list[str]) -> int | None:
    if len(words) == 1:
        return UNITS.get(words[0], _TENS.get(words[0]))
    if len(words) == 2 and words[0] in _TENS and 0 < UNITS.get(words[1], 0) < 10:
        return _TENS[words[0]] + UNITS[words[1]]
    return None
