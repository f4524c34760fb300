"""Numbers with units, compared with a relative tolerance: percent, degrees, money, metric and Chinese units."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from . import chinese
from .latex import normalise

_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,2})?|[+-]?\d+ ?/ ?\d+", re.ASCII | re.IGNORECASE)
_FRACTION = re.compile(r"([+-]?)\\frac(?:{([+-]?\d+)}{(\d+)}|(\d)(\d))", re.ASCII)
_SCIENTIFIC = re.compile(r"([+-]?\d+\.?\d*) ?(?:\\times|\*|x) ?10\^(?:{([+-]?\d{1,2})}|(\d))", re.ASCII)
_LEADING = re.compile(
    rf"({_SCIENTIFIC.pattern}|{_FRACTION.pattern}|[+-]?\d+/\d+|{_THOUSANDS.pattern}|[+-]?(?:\d+\.?\d*|\.\d+))\s*(.*)",
    re.ASCII | re.DOTALL,
)
_CHINESE_LEADING = re.compile(r"([负零〇一二两三四五六七八九十百千万亿点]+)(.*)")
_SIZES: dict[str, tuple[str, Fraction]] = {}
for _dimension, _units in {
    "length": {"mm": "1/1000", "cm": "1/100", "dm": "1/10", "m": "1", "km": "1000", "inch": "0.0254", "ft": "0.3048"},
    "area": {"mm^2": "1/1000000", "cm^2": "1/10000", "dm^2": "1/100", "m^2": "1", "km^2": "1000000"},
    "volume": {"mL": "1/1000", "L": "1", "cm^3": "1/1000", "dm^3": "1", "m^3": "1000"},
    "mass": {"mg": "1/1000000", "g": "1/1000", "kg": "1", "t": "1000"},
    "time": {"ms": "1/1000", "s": "1", "min": "60", "h": "3600", "day": "86400"},
    "speed": {"m/s": "1", "km/h": "5/18"},
    "share": {"%": "1/100"},
    "angle": {"degree": "1"},
    "dollars": {"dollar": "1", "cent": "1/100"},
    "yuan": {"yuan": "1"},
}.items():
    _SIZES |= {unit: (_dimension, Fraction(size)) for unit, size in _units.items()}
_NAMES = {
    "percent": "%", "^\\circ": "degree", "degrees": "degree", "deg": "degree", "度": "degree", "dollars": "dollar",
    "cents": "cent", "usd": "dollar", "元": "yuan", "rmb": "yuan", "meter": "m", "metre": "m", "meters": "m",
    "metres": "m", "centimeters": "cm", "centimetres": "cm", "kilometers": "km", "kilometres": "km", "inches": "inch",
    "in": "inch", "feet": "ft", "foot": "ft", "ml": "mL", "l": "L", "liters": "L", "litres": "L", "liter": "L",
    "grams": "g", "gram": "g", "kilograms": "kg", "seconds": "s", "second": "s", "sec": "s", "minutes": "min",
    "minute": "min", "hours": "h", "hour": "h", "hr": "h", "hrs": "h", "days": "day", "km/hr": "km/h", "kmh": "km/h",
    "square meters": "m^2", "square centimeters": "cm^2", "cubic meters": "m^3", "cubic centimeters": "cm^3",
    "sq m": "m^2", "sq cm": "cm^2", **chinese.UNITS,
}  # fmt: skip
Quantity = tuple[Fraction, str]


def as_number(normalised: str) -> Fraction | None:
    r"""The exact value of an integer, decimal, `1e-3`, `2 \times 10^5`, `a/b`, `\frac{a}{b}` or 三十五, or None.

    The number must fill the text, with or without thousands separators: `1\frac{1}{2}` and `1 2` give None.
    """
    text = normalised
    if len(text) > 60:
        return None
    if digits := chinese.numeral(text) if chinese.is_chinese(text) else None:
        text = digits
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    if match := _SCIENTIFIC.fullmatch(text):
        return Fraction(match[1]) * Fraction(10) ** int(match[2] or match[3])
    if match := _FRACTION.fullmatch(text):
        sign, *parts = match.groups()
        text = sign + "/".join(part for part in parts if part is not None)
        text = text.replace("--", "").replace("+-", "-")
    if not _NUMBER.fullmatch(text):
        return None
    try:
        return Fraction(text.replace(" ", ""))
    except ZeroDivisionError:
        return None


def as_quantity(normalised: str) -> Quantity | None:
    """A number and its unit ("" if it has none, a noun if it counts things), or None."""
    text = chinese.unframed(normalised)
    if text[:1] in ("¥", "€", "£"):
        value = as_number(text[1:].strip())
        return None if value is None else (value, "yuan" if text[0] == "¥" else text[0])
    match = _LEADING.fullmatch(text)
    number, unit = (match[1], match[match.lastindex or 1]) if match else ("", "")
    if not match and (han := _CHINESE_LEADING.fullmatch(text)):
        number, unit = han[1], han[2]
    value = as_number(number.strip()) if number else None
    unit = _unit(unit.strip())
    return None if value is None or unit is None else (value, unit)


def same_quantity(gold: Quantity, given: Quantity, *, tolerance: float | Fraction = 0) -> bool:
    """Whether two quantities are equal within `tolerance`, relative to the gold one.

    A unit that only one of them has is ignored (both 50 and 0.5 equal 50 %). Units of one dimension are converted, and
    other units must be the same word.
    """
    (right, unit), (value, other) = gold, given
    candidates = [value]
    if unit and other and unit != other:
        if unit not in _SIZES or other not in _SIZES or _SIZES[unit][0] != _SIZES[other][0]:
            return False
        candidates = [value * _SIZES[other][1] / _SIZES[unit][1]]
    elif (unit == "%") != (other == "%"):
        candidates.append(value * 100 if unit == "%" else value / 100)
    return any(abs(right - candidate) <= Fraction(tolerance) * abs(right) for candidate in candidates)


def check(gold: Any, row: Mapping[str, Any]) -> None:
    """Raise ValueError for a gold answer that isn't a number, with or without a unit."""
    if as_quantity(normalise(str(gold))) is None:
        raise ValueError(f"the gold answer {gold!r} isn't a number, with or without a unit")


def score(gold: Any, given: str, row: Mapping[str, Any]) -> float:
    """1 for the same quantity within the row's relative `tolerance` (1e-4 by default), else 0."""
    right, answer = as_quantity(normalise(str(gold))), as_quantity(normalise(given).rpartition("=")[2].strip())
    assert right is not None, "checked when the data was loaded"
    tolerance = row.get("tolerance")
    return float(
        answer is not None and same_quantity(right, answer, tolerance=1e-4 if tolerance is None else tolerance)
    )


def _unit(text: str) -> str | None:
    """The standard name of a unit, or a noun in the singular; None for any other text."""
    bare = text.strip("() ").replace("^{2}", "^2").replace("^{3}", "^3")
    for name in (bare, bare.lower()):
        if name in _SIZES or name == "":
            return name
        if name in _NAMES:
            return _NAMES[name]
    if len(bare) == 1 and bare in chinese.COUNTERS:
        return ""
    if re.fullmatch(r"[A-Za-z]{2,}(?: [A-Za-z]+)*(?:\^[23])?|[\u4e00-\u9fff]+", bare):
        return bare.lower().removesuffix("s")
    return None
