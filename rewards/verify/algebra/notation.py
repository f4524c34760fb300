r"""Prepares answers for math-verify's LaTeX parser: Unicode, mixed numbers, repeating decimals, braces, arrays."""

from __future__ import annotations

import re
import unicodedata

from ..english import number_words
from ..latex import normalise
from ..unit_reader import unit
from ..units import PERCENT, UNITS, Unit

_LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ₙᵢₓ", "0123456789+-nix", strict=True))
_SUBSCRIPT = re.compile(f"[{''.join(_LOWERED)}]+")
_UNICODE = {
    "√": "\\sqrt ", "π": "\\pi ", "∞": "\\infty ", "×": "\\times ", "÷": "/", "·": "*", "±": "\\pm ", "∪": "\\cup ",
    "≤": "\\le ", "≥": "\\ge ", "−": "-",
    "⁄": "/", "∕": "/", "⋅": "\\cdot ", "∙": "\\cdot ", "∗": "*", "∖": "\\setminus ", "∩": "\\cap ", "∈": "\\in ",
    "∉": "\\notin ", "∅": "\\emptyset ", "ℝ": "\\mathbb{R}", "ℤ": "\\mathbb{Z}", "ℕ": "\\mathbb{N}", "≠": "\\ne ",
    "≈": "\\approx ", "∓": "\\mp ", "∛": "\\sqrt[3]", "∜": "\\sqrt[4]", "…": "\\ldots ", "⌊": "\\lfloor ",
    "⌋": "\\rfloor ", "⌈": "\\lceil ", "⌉": "\\rceil ", "∠": "\\angle ",
    "△": "\\triangle ", "∑": "\\sum ", "∫": "\\int ", "′": "'", "\\lbrack": "[", "\\rbrack": "]", "\\lparen": "(",
    "\\rparen": ")", "\\lvert": "|", "\\rvert": "|", "\\vert": "|", "\\mid": "|", "\\varnothing": "\\emptyset",
    "\\leqslant": "\\le", "\\geqslant": "\\ge", "\\neq": "\\ne", "\\lt": "<", "\\gt": ">", "\\thinspace": "",
    "\\negthinspace": "", "\\displaystyle": "", "\\textstyle": "", "\\limits": "", "\\ast": "*", "\\colon": ":",
    "\\backslash": "\\setminus", "⩽": "\\le ", "⩾": "\\ge ",
    "\\land": " and ", "\\wedge": " and ", "\\lor": " or ", "\\vee": " or ",
}  # fmt: skip
_COMMAND = re.compile(r"\\[A-Za-z]+|[^\x00-\x7f]")
_ARRAY = re.compile(r"\\begin\s*{(?:array|smallmatrix)}(?:\s*{[^{}]*})?(.*?)\\end\s*{(?:array|smallmatrix)}", re.DOTALL)
_FENCED = re.compile(
    r"(?:\\left\s*)?(\(|\[|\|)\s*(\\begin{matrix}.*?\\end{matrix})\s*(?:\\right\s*)?([)\]|])", re.DOTALL
)
_FENCES = {"()": "matrix", "[]": "matrix", "||": "determinant"}
_CASES = re.compile(r"(?:\\left\s*\\{\s*)?\\begin{(cases|matrix)}([^&]*?)\\end{\1}(?:\s*\\right\s*\.)?", re.DOTALL)
_REPEATING = re.compile(
    r"(\d*)\.(\d*)(?:\\(?:overline|bar|dot){(\d+)}|\\dot\s*(\d))(?:(\d*)\\dot{?(\d)}?)?(?!\d)", re.ASCII
)
_MIXED = re.compile(r"(?<![\d.^_{}A-Za-z)])(\d+)(?:\s*\\frac{(\d+)}{(\d+)}| (\d+)/(\d+))(?![\d!^])", re.ASCII)
_THOUSANDS = re.compile(r"(?<![\d.,_^{(\[])[1-9]\d{0,2}(?:,\d{3}|(?<!,\d\d\d) \d{3})+(?:\.\d+)?(?![\d,)\]])", re.ASCII)
_NAMES = re.compile(
    r"(?<![\\A-Za-z])(arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|lg|sqrt|exp|pi|infty|infinity|oo)"
    r"(?![A-Za-z])"
)
_SYNONYMS = {"lg": "\\log_{10}", "infinity": "\\infty", "oo": "\\infty"}
_SYNONYMOUS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in {
        r"\\lg(?![A-Za-z])": r"\\log_{10}",
        r"\\log_{?e}?(?![A-Za-z])": r"\\ln ",
        r"\\langle(?![a-z]) ?": "⟨",
        r" ?\\rangle(?![a-z])": "⟩",
        r"_{?two}?": "_2",
        r" *\(([^()]*\\in[ \\][^()]*)\)$": r", \1",
        r"\\(?:underline|mathit|mathsf|bm|boldsymbol){([^{}]*)}": r"\1",
        r"{([^{}]+)\\choose ?([^{}]+)}": r"\\binom{\1}{\2}",
        r"(?<![A-Za-z\\])C_{?(\d+)}?\^{?(\d+)}?": r"\\binom{\1}{\2}",
        r"(?<=\d) to (?=\d)": ":",
        r"(?<=\d)[eE]([+-]?\d+)(?![\d.])": r"*10^{\1}",
        r"^(?:\\approx|≈)\s*": "",
        r"(?:all real numbers|all reals|\\Reals)": r"\\mathbb{R}",
        r"\^{\\circ}|°|\\degree(?![a-z])": r"^\\circ",
    }.items()
]
_ELLIPSIS = re.compile(r"\\(?:[cdv]dots|dots[cbmio]?)(?![a-z])|\.\.\.|⋯")
_CONTINUED = re.compile(r"(\d+)\.(\d*?)(\d{1,3}?)\3{2,}\s*\\ldots", re.ASCII)
_INTRODUCTION = re.compile(
    r"(?:so )?(?:the )?(?:final )?(?:answer|result)(?: is)?:? *|(?:about|approximately|exactly|roughly) +",
    re.IGNORECASE,
)
_SPELLED = re.compile(r"(\d{1,9}) *\(([A-Za-z -]+)\)", re.ASCII)
_PERCENT = re.compile(r"(?<=[\d}])\s*\\?(?:text{\s*)?(?:percentage|percent|pct)(?![A-Za-z])}?")
_UNIT = re.compile(
    r"(?:\\[ ,;:!]|[\s~])*\\(?:text(?:bf|rm|it|normal)?|mathrm|mbox)\s*{\s*([^{}\\]+?)\s*}\s*(\^\s*{?[123]}?)?[\s.]*$"
)
_ANGLES = (PERCENT.dimension, UNITS["rad"].dimension, UNITS["degree"].dimension)
_SUFFIXES = ("%", "\\circ", "\\circ}", "°")
_MONEY = re.compile(r"\s*\\?\$\s*(?=[\d.])(?![^$]*\$)")


def without_unit(answer: str) -> tuple[str, Unit | None]:
    r"""The answer without the unit at its end, as in `2\pi\text{ cm}`, or the dollar sign before it; and that unit."""
    if money := _MONEY.match(answer := answer.removesuffix("$")):
        return answer[money.end() :], UNITS["$"]
    if (match := _UNIT.search(answer)) is None or answer[: match.start()].endswith(_SUFFIXES):
        return answer, None
    found = unit(match[1] + (match[2] or ""), attached=False, one=False)
    if found is None or found.doubtful or found.dimension in _ANGLES:
        return answer, None
    return answer[: match.start()], found


def prepared(answer: str) -> str:
    """The answer in notation that the parser reads as people do; determinants stay apart from matrices."""
    text = answer if "\\begin" in answer else re.sub(r"\\\\(?=[A-Za-z{}|])", r"\\", answer)  # escaped twice
    text = _PERCENT.sub("%", _spelled(text))
    text = _ARRAY.sub(r"\\begin{matrix}\1\\end{matrix}", text)
    text = _FENCED.sub(_unfenced, text)
    text = _CASES.sub(lambda match: ", ".join(filter(str.strip, match[2].split("\\\\"))), text)
    text = text.replace("{vmatrix}", "{determinant}")
    text = normalise(text + "{}").removesuffix("{}").replace("{determinant}", "{vmatrix}")  # X isn't x
    for pattern, replacement in _SYNONYMOUS:
        text = pattern.sub(replacement, text)
    text = _NAMES.sub(lambda match: _SYNONYMS.get(match[1], "\\" + match[1]), text)
    text = _THOUSANDS.sub(lambda match: re.sub("[ ,]", "", match[0]), text)
    text = _REPEATING.sub(_as_fraction, _CONTINUED.sub(r"\1.\2\\overline{\3}", text))
    return _MIXED.sub(_as_sum, _braced(_bare(text))).strip()


def _bare(text: str) -> str:
    """The answer without "the answer is", "about" and the like before it, and without its number in words behind it."""
    text = text[found.end() :] if (found := _INTRODUCTION.match(text)) else text
    spelled = _SPELLED.fullmatch(text)
    said = number_words(spelled[2]) if spelled else None
    return spelled[1] if spelled and said and said[0] == int(spelled[1]) else text


def _spelled(answer: str) -> str:
    """The answer with LaTeX commands for Unicode signs and subscripts, and one command for each meaning."""
    text = _SUBSCRIPT.sub(lambda run: "_{" + "".join(map(_LOWERED.__getitem__, run[0])) + "}", answer)
    text = _ELLIPSIS.sub(r"\\ldots ", text)
    return _COMMAND.sub(lambda match: _UNICODE.get(match[0]) or _plain(match[0]), text)


def _plain(text: str) -> str:
    """ASCII for a letter or digit in a mathematical or full-width font; any other text as it is."""
    return unicodedata.normalize("NFKC", text) if "\U0001d400" <= text <= "\U0001d7ff" or "！" <= text <= "～" else text


def _unfenced(match: re.Match[str]) -> str:
    kind = _FENCES.get(match[1] + match[3])
    return match[0] if kind is None else match[2].replace("{matrix}", f"{{{kind}}}")


def _as_fraction(match: re.Match[str]) -> str:
    r"""`0.1\overline{6}`, `0.1\dot{6}` and `0.\dot{1}2\dot{3}` as fractions."""
    whole, fixed = match[1] or "0", match[2]
    repeating = (match[3] or match[4]) + ((match[5] or "") + match[6] if match[6] else "")
    above = int(whole + fixed + repeating) - int(whole + fixed)
    return f"(\\frac{{{above}}}{{{(10 ** len(repeating) - 1) * 10 ** len(fixed)}}})"


def _as_sum(match: re.Match[str]) -> str:
    whole, above, below = match[1], match[2] or match[4], match[3] or match[5]
    proper = int(above) < int(below)
    return f"({whole}+\\frac{{{above}}}{{{below}}})" if proper else match[0]


def _braced(text: str) -> str:
    r"""The text with the braces that `\frac12`, `\sqrt10`, `x^-1`, `2^(n+1)` and `sqrt(2)` leave out."""
    text = re.sub(r"\\frac\s*(\d|[A-Za-z])\s*(?={)", r"\\frac{\1}", text)
    text = re.sub(r"\\frac\s*([\dA-Za-z])\s*([\dA-Za-z])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"(\\frac\s*{[^{}]*})\s*(\d|[A-Za-z])", r"\1{\2}", text)
    text = re.sub(r"\\binom\s*(\d)\s*(\d)", r"\\binom{\1}{\2}", text)
    text = re.sub(r"\\sqrt\s*(\[[^\[\]]*\])?\s*(\d+|[A-Za-z]|\\pi)", r"\\sqrt\1{\2}", text)
    text = re.sub(r"\^\s*([+-])\s*(\d+|[A-Za-z])", r"^{\1\2}", text).replace("**", "^")
    for opening in (r"\^\s*\(", r"\\sqrt\s*(?:\[[^\[\]]*\])?\s*\("):
        text = _around(text, opening)
    return text


def _around(text: str, opening: str) -> str:
    """The text with braces instead of the parentheses that begin at the end of each match of `opening`."""
    pieces, stack, closing = list(text), [], {match.end() - 1 for match in re.finditer(opening, text)}
    for position, character in enumerate(text):
        if character == "(":
            stack.append(position)
        elif character == ")" and stack:
            start = stack.pop()
            if start in closing:
                pieces[start], pieces[position] = "{", "}"
    return "".join(pieces)
