"""Whether two answers are equal: cheap rules that decide most pairs, then math-verify and sympy for the rest."""

from __future__ import annotations

import re
from fractions import Fraction

_WRAPPERS = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*{([^{}]*)}")
_SIZES = re.compile(r"\\(?:left|right)(?![A-Za-z])")  # not \leftarrow
_REPLACED = {
    "\\dfrac": "\\frac", "\\tfrac": "\\frac", "{,}": ",", "\\%": "%", "\\$": "", "$": "", "−": "-",
    "\\,": "", "\\!": "", "\\;": " ", "\\:": " ", "\\ ": " ",
}  # fmt: skip
_WORDS = re.compile(r"[A-Za-z][A-Za-z ]*")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,2})?|[+-]?\d+ ?/ ?\d+", re.ASCII | re.IGNORECASE)
_FRACTION = re.compile(r"([+-]?)\\frac(?:{(\d+)}{(\d+)}|(\d)(\d))", re.ASCII)
_CLOSE = Fraction(1, 10**5)


def normalise(answer: str) -> str:
    r"""Strip what doesn't change an answer: dollars, `\text{}`, spacing commands, a final period; the case of words."""
    text = _SIZES.sub("", _WRAPPERS.sub(r"\1", answer))
    for old, new in _REPLACED.items():
        text = text.replace(old, new)
    text = " ".join(text.split()).rstrip(".").strip()
    return text.casefold() if _WORDS.fullmatch(text) else text  # \Delta isn't \delta


def as_number(normalised: str) -> Fraction | None:
    r"""The exact value of an integer, decimal, `1e-3`, `a/b` or `\frac{a}{b}` (thousands separators allowed), or None.

    All of the text has to be the number: `1\frac{1}{2}` and `1 2` aren't decided here.
    """
    text = normalised
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    if match := _FRACTION.fullmatch(text):
        sign, *parts = match.groups()
        text = sign + "/".join(part for part in parts if part is not None)
    if not _NUMBER.fullmatch(text) or len(text) > 60:
        return None
    try:
        return Fraction(text.replace(" ", ""))
    except ZeroDivisionError:
        return None


def quick_equal(gold: str, answer: str) -> bool | None:
    """Decide without sympy where possible: equal text, or two plain numbers; None when it takes more.

    Numbers that differ in the sixth digit (1/3 and 0.333333) are left to math-verify's rounding. A word as gold is
    text: nothing symbolic equals it (as products of letters, "cat" and "act" would be equal).
    """
    left, right = normalise(gold), normalise(answer)
    if left == right:
        return True
    if not right:
        return False
    x, y = as_number(left), as_number(right)
    if x is not None and y is not None:
        return True if x == y else (None if abs(x - y) <= _CLOSE * abs(x) else False)
    if _WORDS.fullmatch(left) and (len(left) > 1 or _WORDS.fullmatch(right)):
        return False
    return None


def symbolic_equal(gold: str, answer: str) -> bool:
    """math-verify's verdict, without its time limit (SIGALRM, main thread only): run it in a killable process."""
    from math_verify import parse, verify

    parsed = [parse(f"${text}$", parsing_timeout=None) for text in (gold, answer)]
    return bool(verify(parsed[0], parsed[1], timeout_seconds=None))
