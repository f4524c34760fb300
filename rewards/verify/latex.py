r"""Normalises the notation of answers in LaTeX, Unicode and Chinese typing."""

from __future__ import annotations

import re
from functools import lru_cache

from .characters import plain_characters

_WRAPPERS = re.compile(
    r"\\(?:text|textbf|textrm|textit|emph|mathrm|mathbf|mathit|underline|operatorname|mbox|boxed)\s*{|[{}]"
)
_UPRIGHT_UNIT = re.compile(r"(?<=[0-9A-Za-z}])(?=\\(?:text|textrm|mathrm|mbox)\s*{\s*[A-Za-z])")  # 2m may be a product
_SIZES = re.compile(r"\\(?:left|right|bigl?|bigr?|Bigl?|Bigr?|displaystyle|bf|it|rm|sf)(?![A-Za-z])")  # not \leftarrow
_SPACE = re.compile(r"(?<!\\)\\ ")  # not the second backslash that ends a matrix row
_REPLACED = {
    "\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\cfrac": "\\frac", "\\dbinom": "\\binom", "\\tbinom": "\\binom",
    "{,}": ",", "\\%": "%", "\\$": "＄", "$": "", "＄": "$", "\\(": "", "\\)": "", "−": "-", "–": "-",
    "\\,": " ", "\\!": "", "\\;": " ", "\\:": " ", "~": " ", "\\quad": " ", "\\qquad": " ",
    "\\lbrace": "\\{", "\\rbrace": "\\}", "\\degree": "^\\circ", "°": "^\\circ", "^{\\circ}": "^\\circ",
    "π": "\\pi", "∞": "\\infty", "×": "\\times", "÷": "/", "\\div": "/", "\\cdot": "*", "·": "*",
    "±": "\\pm", "∪": "\\cup", "\\leq": "\\le", "\\geq": "\\ge", "≤": "\\le",
    "≥": "\\ge", "\\infinity": "\\infty", "，": ",", "、": ",", "。": ".", "；": ";", "：": ":", "（": "(", "）": ")",
    "【": "[", "】": "]", "％": "%", "＝": "=", "＋": "+", "－": "-", "．": ".", "￥": "¥", "\u3000": " ",
}  # fmt: skip
_ORDINARY = re.compile(r"[A-Za-z0-9 .,+\-*/()=<>:;!?'\"|\[\]^]*")  # characters that nothing below replaces
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF10, 0xFF5B)}  # digits and letters
_MATRICES = re.compile(r"\\(begin|end){[pbB]?matrix}")  # vmatrix is a determinant
_SCRIPTS = re.compile(r"(?:[\^_]\s*[^\s{\\]\s*){3}")
_LETTER = re.compile(r"\b[B-Z]\b")  # "A" may be an article
MAX_NESTING = 40
WORDS = re.compile(r"[A-Za-z][A-Za-z ]*")


@lru_cache(maxsize=64)
def normalise(answer: str) -> str:
    r"""Remove what doesn't change an answer: math dollars, `\text{}`, spaces, a last period, the case of words."""
    text = " ".join((answer if _ORDINARY.fullmatch(answer) else _without_notation(answer)).split())
    text = text[1:-1].strip() if re.fullmatch(r"{[^{}]*}", text) else text
    text = text if text.endswith("..") else text.removesuffix(".").rstrip()  # 0.33... isn't 0.33
    words = len(text) > 2 and WORDS.fullmatch(text) and not _LETTER.search(text)
    return text.casefold() if words else text  # X isn't x, and AB isn't ab


def _without_notation(text: str) -> str:
    text = plain_characters(text)
    if text.count("$") == 1:  # money; a formula has two
        text = text.replace("\\$", "$").replace("$", "\\$")
    text = unwrapped(_UPRIGHT_UNIT.sub(" ", text))
    text = _SPACE.sub(" ", _SIZES.sub("", text).translate(_FULL_WIDTH))
    for old, new in _REPLACED.items():
        text = text.replace(old, new)
    return _MATRICES.sub(r"\\\1{matrix}", text)


def unwrapped(text: str) -> str:
    r"""The text without wrappers such as `\text{…}` around contents that have no other braces, in one pass."""
    pieces: list[str] = []
    opened: list[int] = []  # the indices of open braces and wrappers in `pieces`
    kept = -1  # the index of the last brace that stays
    end = 0
    for match in _WRAPPERS.finditer(text):
        pieces.append(text[end : match.start()])
        end = match.end()
        if match[0] != "}":
            opened.append(len(pieces))
        elif opened and pieces[start := opened.pop()] != "{" and kept < start:
            pieces[start] = ""
            continue
        else:
            kept = len(pieces)
        pieces.append(match[0])
    return "".join([*pieces, text[end:]])


def impossible(text: str) -> bool:
    """Whether brackets are nested deeper than MAX_NESTING, or scripts follow each other, as LaTeX forbids (`x^x^x^x`).

    math-verify's parser needs exponential time to find out.
    """
    depth = deepest = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest > MAX_NESTING or bool(_SCRIPTS.search(text))


def split_at(text: str, separators: str) -> list[str]:
    r"""Split at separators outside all brackets; escaped brackets count as brackets."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character in separators and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [part.strip() for part in [*parts, text[start:]]]
