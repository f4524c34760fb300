r"""Reads number literals exactly: integers, decimals, fractions, mixed numbers, powers of ten, repeating decimals."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

_WHOLE = r"(?:[1-9]\d{0,2}(?:(?:,\d{3})+(?![\d,])|(?: \d{3})+(?! ?[\d/]))|\d+)"
_DECIMAL = rf"(?:{_WHOLE}(?:\.\d+)?|\.\d+)"
_PERIOD = (
    r"\\(?:overline|bar)\s*(?:{(?P<over>\d+)}|(?P<over_one>\d))"
    r"|\\dot\s*(?:{(?P<dot>\d)}|(?P<dot_one>\d))(?:(?P<between>\d*)\\dot\s*(?:{(?P<last>\d)}|(?P<last_one>\d)))?"
    r"|(?P<marked>(?:\d[\u0304\u0305\u0307])+)"
)
_FRACTION = (
    r"\\[dtc]?frac\s*(?:{\s*(?P<%s>[+-]?\d+(?:\.\d+)?)\s*}|(?P<%s>\d))\s*(?:{\s*(?P<%s>\d+(?:\.\d+)?)\s*}|(?P<%s>\d))"
)
_LITERAL = re.compile(
    r"(?P<sign>[+-]?)\s*(?:"
    rf"(?P<fixed>\d*\.\d*)(?:{_PERIOD})|(?P<bare>\d*\.)\((?P<bracketed>\d+)\)"
    rf"|(?P<mixed>\d+)\s*{_FRACTION % tuple(f'mixed_{part}' for part in ('above', 'one', 'below', 'two'))}"
    r"|(?P<spaced>\d+)(?: +and +| +)(?P<spaced_above>\d+)\s*/\s*(?P<spaced_below>\d+)"
    rf"|{_FRACTION % ('above', 'one', 'below', 'two')}"
    r"|(?P<over_slash>\d+(?:\.\d+)?)\s*/\s*(?P<under_slash>\d+(?:\.\d+)?)"
    rf"|(?:(?P<mantissa>{_DECIMAL})\s*(?:×|\\times|x|\*)\s*)?10\s*\^\s*(?:{{\s*(?P<power>[+-]?\d{{1,3}})\s*}}|(?P<power_one>\d))"
    rf"|(?P<decimal>{_DECIMAL})(?:[eE](?P<exponent>[+-]?\d{{1,3}})(?!\w))?"
    r")(?![\d.,^!_'])",
    re.ASCII,
)
_PLAIN = re.compile(
    r"[+-]?\d+(?:\.(\d+))?(?= ?[b-df-wyzB-DF-WYZ%°\u4e00-\u9fff]|$)", re.ASCII
)  # fast for the usual case
_GOES_ON = re.compile(r"([+-]?)(\d*\.)(\d{1,60}) ?(?:\\[lc]?dots|\.{3}|…)", re.ASCII)
_COMMA = re.compile(r"([+-]?)(\d{1,3}(?:[. ]\d{3})+|\d+)(?:\{,\}|,)(\d+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Literal:
    """A number literal at the start of a text: its value, the digits behind its point, and where it ends."""

    value: Fraction
    decimals: int | None
    end: int


def literal(text: str) -> Literal | None:
    r"""The longest literal that the text begins with; None for none, or where it goes on as mathematics (`2^3`, `5!`).

    A mixed number needs a proper fraction: `2\frac{1}{2}` is 5/2, while `2\frac{5}{2}` may be a product and is None.
    """
    if plain := _PLAIN.match(text):
        return Literal(Fraction(plain[0]), len(plain[1]) if plain[1] else None, plain.end())
    if (going_on := _GOES_ON.fullmatch(text)) and (value := _recurring(going_on[2], going_on[3])) is not None:
        return Literal(-value if going_on[1] == "-" else value, None, len(text))
    match = _LITERAL.match(text)
    if match is None:
        return None
    try:
        value = _value(match)
    except ZeroDivisionError:
        return None
    if value is None:
        return None
    point = (match["decimal"] or "").partition(".")[2] if match["exponent"] is None else ""
    decimals = len(point) or None
    return Literal(-value if match["sign"] == "-" else value, decimals, match.end())


def decimal_comma(text: str) -> Fraction | None:
    """The value of "1,5" or "1.234,5", where the comma may be the decimal one; None if it can't.

    Use it only against a plain decimal: "1,5" may also be a list. Exactly three digits behind the comma are thousands,
    unless a zero stands before it.
    """
    match = _COMMA.fullmatch(text.strip())
    if match is None or (len(match[3]) == 3 and match[2] != "0"):
        return None
    return Fraction(f"{match[1]}{match[2].replace('.', '').replace(' ', '')}.{match[3]}")


def _value(match: re.Match[str]) -> Fraction | None:
    part = match.groupdict()
    if part["fixed"] is not None:
        return _repeating(part["fixed"], _period(part))
    if part["bracketed"]:
        return _repeating(part["bare"], part["bracketed"])
    if whole := part["mixed"] or part["spaced"]:
        above = part["mixed_above"] or part["mixed_one"] or part["spaced_above"]
        below = part["mixed_below"] or part["mixed_two"] or part["spaced_below"]
        fraction = Fraction(above) / Fraction(below)
        proper = above.isdigit() and below.isdigit() and 0 < fraction < 1
        return int(whole) + fraction if proper else None
    if above := part["above"] or part["one"]:
        return Fraction(above) / Fraction(part["below"] or part["two"])
    if part["over_slash"]:
        return Fraction(part["over_slash"]) / Fraction(part["under_slash"])
    if power := part["power"] or part["power_one"]:
        return Fraction(_joined(part["mantissa"] or "1")) * Fraction(10) ** int(power)
    value = Fraction(_joined(part["decimal"]))
    return value * Fraction(10) ** int(part["exponent"]) if part["exponent"] else value


def _joined(digits: str) -> str:
    return digits.replace(",", "").replace(" ", "")


def _recurring(whole: str, digits: str) -> Fraction | None:
    """The value of `0.1666…`, where the last digits stand there three times (or make up all of them, twice)."""
    for length in range(1, len(digits) // 2 + 1):
        period, before = digits[-length:], digits[: -3 * length]
        if digits.endswith(3 * period) or digits == 2 * period != 2 * length * period[0]:
            return _repeating(whole + before if 3 * length <= len(digits) else whole, period)
    return None


def _period(part: dict[str, str | None]) -> str:
    if marked := part["marked"]:
        return "".join(character for character in marked if character.isdigit())
    if over := part["over"] or part["over_one"]:
        return over
    first, last = part["dot"] or part["dot_one"] or "", part["last"] or part["last_one"] or ""
    return first + (part["between"] or "") + last


def _repeating(fixed: str, period: str) -> Fraction:
    """The value of the digits "0.1" followed by "6" for ever: 1/6."""
    whole, _, decimals = fixed.partition(".")
    nines = Fraction(int(period), 10 ** len(period) - 1)
    return (int(whole + decimals or "0") + nines) / 10 ** len(decimals)
