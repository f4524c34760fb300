r"""The tokens of mathematical notation: numbers, commands, letters and signs; words between them are found, too."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .tree import FUNCTIONS

MAX_TOKENS = 600
GREEK = frozenset({
    "alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "vartheta", "iota", "kappa",
    "lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "upsilon", "phi", "varphi", "chi", "psi", "omega", "Gamma",
    "Delta", "Theta", "Lambda", "Xi", "Sigma", "Phi", "Psi", "Omega", "ell", "hbar",
})  # fmt: skip
ALIASES = {"acos": "arccos", "asin": "arcsin", "atan": "arctan", "arctg": "arctan", "tg": "tan", "ctg": "cot"}
NAMES = frozenset({*FUNCTIONS, *ALIASES, "ln", "log", "lg", "exp", "sqrt", "pi"}) - {"abs", "floor", "ceil"}
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.?\d*|\.\d+)|\\(?P<command>[A-Za-z]+)|(?P<letters>[A-Za-z]+)"
    r"|(?P<symbol>\\[{}|]|[-+*/^!(){}\[\]|_%'√∛]))",
    re.ASCII,
)
_WORDS = re.compile(
    r"(?<=[A-Za-z0-9)}%]) ([A-Za-z]{2,})(?![A-Za-z])|(?<![A-Za-z\\])([A-Za-z]{2,}) (?=[A-Za-z0-9\\({])|^([A-Za-z]{4,})$"
)
_SHORT = frozenset({"or", "is", "to", "no", "if", "of", "at", "in", "by"})
Token = tuple[str, str]


class Unread(Exception):  # noqa: N818 — control flow, not an error
    """The text has no certain meaning as an expression."""


def has_words(text: str) -> bool:
    """Whether the text has words: three letters or more between spaces, or a short word such as "or"."""
    return any(len(word) > 2 or word in _SHORT for word in words(text))


def words(text: str) -> Iterator[str]:
    """What stands between spaces like a word and names no function; two letters may be a product, as in `x dx`."""
    found = (match[1] or match[2] or match[3] for match in _WORDS.finditer(text))
    return (word for word in found if word not in NAMES)


def tokens_of(text: str) -> list[Token]:
    """The tokens that fill a text, as (kind, text); raises Unread for other characters, and beyond MAX_TOKENS."""
    tokens: list[Token] = []
    position = 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or len(tokens) > MAX_TOKENS:
            raise Unread
        kind = match.lastgroup or ""
        word = match[kind]
        if kind == "letters" and word not in NAMES:
            tokens += [("letter", letter) for letter in word]
        else:
            tokens.append(("command" if kind == "letters" else kind, word))
        position = match.end()
    return tokens
