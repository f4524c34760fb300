r"""Rewrites single characters and digit groups that only typography sets apart: ४२ is 42, ½ a fraction, x⁴ a power."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱ", "0123456789+-()ni", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙᵢ", "0123456789+-()ni", strict=True))
_SCRIPT_RUN = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+|[{''.join(_SUBSCRIPTS)}]+")
_MARK = r"(?:,?\\! ?|\\,|\{,\}|[\u00a0\u2009\u202f])"  # `11,\! 111,\! 111`, but the pair `1,\,234` stays a pair
_GROUPED = re.compile(rf"(?<![0-9.])[1-9][0-9]{{0,2}}(?:{_MARK}[0-9]{{3}})+(?![0-9])")
_SAME = {"⁄": "/", "∕": "/", "∶": ":", "٫": ".", "٬": ",", "⩽": r"\le ", "≦": r"\le ", "⩾": r"\ge ", "≧": r"\ge "}
_UNUSUAL = re.compile(r"[^\x00-\x7f\u4e00-\u9fff]")


def plain_characters(text: str) -> str:
    r"""ASCII for digits of every script, `\frac{1}{2}` for ½, `^{4}` for ⁴, `_{2}` for ₂; digits without thin spaces.

    Letters of mathematical alphabets (𝑥) and wide characters (／) become ordinary ones.

    Apply it to the raw answer: later steps drop `\,` and `\!`, which set digit groups apart from a list of numbers.
    """
    if not text.isascii():
        text = _UNUSUAL.sub(lambda match: _in_ascii(match[0]), _SCRIPT_RUN.sub(_script, text))
    return _GROUPED.sub(_digits, text)


def _script(run: re.Match[str]) -> str:
    mark, plain = ("^", _SUPERSCRIPTS) if run[0][0] in _SUPERSCRIPTS else ("_", _SUBSCRIPTS)
    return f"{mark}{{{''.join(map(plain.__getitem__, run[0]))}}}"


def _digits(match: re.Match[str]) -> str:
    return "".join(character for character in match[0] if character in "0123456789")


@lru_cache(maxsize=4096)
def _in_ascii(character: str) -> str:
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    tag, *codes = unicodedata.decomposition(character).split() or [""]
    if tag == "<fraction>":  # ½ is "<fraction> 0031 2044 0032"; ⅟, the numerator one alone, has no denominator
        above, _, below = "".join(chr(int(code, 16)) for code in codes).partition("⁄")
        return rf"\frac{{{above}}}{{{below}}}" if below else "1/"
    if (tag == "<wide>" and character != "＄") or (tag == "<font>" and character >= "\U0001d400"):  # 𝑥, but not ℝ
        return chr(int(codes[0], 16))
    return _SAME.get(character, character)
