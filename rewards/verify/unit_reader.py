r"""Reads the unit behind a number: symbols, names, nouns, and compounds such as `kg*m/s^2` and `\frac{m}{s}`."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache

from .nouns import chinese_noun, noun
from .units import NONE, THING, UNITS, Unit, dimension_of

MAX_LENGTH = 60  # characters; longer texts aren't units
_TOKEN = re.compile(
    r" *(?:(?P<word>[A-Za-zμΩ]+|°[CF]?|[℃℉%‰]|[\u4e00-\u9fff]+)|\^ ?(?:{ ?(?P<power>[+-]?\d) ?}|(?P<digit>[+-]?\d))"
    r"|(?P<bare>(?<=m)[23](?!\d))|(?P<sign>[*/()]))"
)
_FRACTION = re.compile(r"\\frac ?{([^{}]*)} ?{([^{}]*)}")
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "squared": 2, "cubed": 3}
_CHINESE_POWERS = {"平方": 2, "立方": 3}
_PAIRS = "cm mm km kg mL ml Hz kW kJ kN eV ft GB MB KB TB kB dB cm^2 cm^3 mm^2 mm^3 km^2 ft^2 ft^3"
_RATES = "m/s m/s^2 m*s^-1 m*s^-2 ms^-1 ms^-2"
_SINGLE = "m^2 m^3 s^-1 N*m N/m N/C N/m^2 J/s J/K V/m C/s W/m^2 g/L A/m"
_CERTAIN = frozenset(f"{_PAIRS} {_RATES}".split())  # units even right behind a number; `2mg` may be a weight
_CERTAIN_APART = _CERTAIN | frozenset(_SINGLE.split())  # units behind a space; `g t^2` may be a distance
_AMBIGUOUS = frozenset(["K", "T"])  # thousand, trillion
_DIFFERENCES = {"celsius": (1, 1), "fahrenheit": (5, 9)}  # in compounds, a degree counts as a difference in kelvins


@lru_cache(maxsize=4096)
def unit(text: str, *, attached: bool, one: bool) -> Unit | None:
    """The unit that a whole text names; None if it isn't one.

    Args:
        text: the text behind the number.
        attached: whether the text follows the number without a space. Then letters may be variables, and the unit is
            doubtful unless it has a name or a symbol that nobody takes for a product.
        one: whether the number is 1, so that a noun may be in the singular.
    """
    bare = text.strip()
    if len(bare) > MAX_LENGTH:
        return None
    if bare[:1] == "(" and bare[-1:] == ")" and "(" not in bare[1:]:
        bare, attached = bare[1:-1].strip(), False
    if (known := _named(bare)) or (known := _compound(bare)):
        return replace(known, doubtful=_may_be_a_product(bare, attached=attached))
    if (counted := chinese_noun(bare)) is not None:
        return _noun_unit(counted or THING, known=True)
    found = None if attached else noun(bare, one=one)
    return _noun_unit(found[0], known=found[1]) if found else None


def _may_be_a_product(text: str, *, attached: bool) -> bool:
    """Whether a unit may be a product of variables: `m` and `mg` right behind a number, `g t^2` also behind a space."""
    if not text.isascii() or not text[:1].isalpha():
        return False
    words = re.findall("[A-Za-z]+", text)
    plain = re.sub(" ?([*/]) ?", r"\1", text.replace("{", "").replace("}", "")).replace(" ", "*")
    if attached:
        return plain not in _CERTAIN and all(len(word) < 3 for word in words)
    single = all(len(word) == 1 for word in words)
    return text in _AMBIGUOUS or (single and len(plain) > 1 and plain not in _CERTAIN_APART)


def _noun_unit(name: str, *, known: bool) -> Unit:
    return Unit(NONE.size, ((f"noun {name}", 1),), doubtful=not known)


def _named(text: str) -> Unit | None:
    if text in UNITS:
        return UNITS[text]
    return UNITS.get(text.lower()) if len(text) > 2 else None  # Meters, but not KN


def _compound(text: str) -> Unit | None:
    r"""Products, quotients and powers of units; None if a factor is no unit, or if it isn't clear what "/" divides."""
    text = _FRACTION.sub(r"(\1)/(\2)", text).replace("每", "/")
    tokens, end = [], 0
    while match := _TOKEN.match(text, end):
        tokens.append(match)
        end = match.end()
    if end != len(text) or not tokens:
        return None
    return _Compound(tokens).read()


class _Compound:
    """Multiplies the factors of a compound unit, token by token."""

    def __init__(self, tokens: list[re.Match[str]]) -> None:
        self.tokens = tokens
        self.position = 0

    def read(self) -> Unit | None:
        """The compound's unit, or None."""
        above = self.product(first=True)
        while above is not None and self.position < len(self.tokens):
            if not self.take("/"):
                return None
            below = self.group() if self.peek("(") else self.factor()
            above = above.times(below.power(-1)) if below else None
        return above

    def group(self) -> Unit | None:
        """A product in parentheses."""
        self.position += 1
        inside = self.product(first=False)
        return inside if self.take(")") else None

    def product(self, *, first: bool) -> Unit | None:
        """Factors up to "/", ")" or the end."""
        result = self.group() if first and self.peek("(") else self.factor()
        while result is not None and self.position < len(self.tokens) and not (self.peek("/") or self.peek(")")):
            self.take("*")
            factor = self.factor()
            result = result.times(factor) if factor else None
        return result

    def factor(self) -> Unit | None:
        """One unit with its power, before it ("square", 平方) or behind it (`^2`, "squared")."""
        word = self.word()
        power = _POWERS.get(word, 1)
        if power > 1:
            word = self.word()
        for prefix, exponent in _CHINESE_POWERS.items():
            if word.startswith(prefix) and power == 1:
                word, power = word.removeprefix(prefix), exponent
        found = _named(word) if word else None
        if found is None and len(self.tokens) > 1 and (counted := noun(word, one=True)) and counted[1]:
            found = _noun_unit(counted[0], known=True)
        if found is None:
            return None
        power *= self.exponent()
        if power == 0 or abs(power) > 9:
            return None
        if word == "ms" and power < 0:  # metres per second, written close together
            return UNITS["m"].times(UNITS["s"].power(power))
        return _as_difference(found).power(power) if len(self.tokens) > 1 else found.power(power)

    def exponent(self) -> int:
        """The power behind a unit, 1 if there is none."""
        if self.position == len(self.tokens):
            return 1
        token = self.tokens[self.position]
        power = token["power"] or token["digit"] or token["bare"] or str(_POWERS.get(token["word"] or "", ""))
        if not power or token["word"] in ("square", "cubic", "sq", "cu"):
            return 1
        self.position += 1
        return int(power)

    def word(self) -> str:
        """The next token if it is a word, else ""."""
        if self.position == len(self.tokens) or (word := self.tokens[self.position]["word"]) in (None, "per"):
            return ""
        self.position += 1
        return str(word)

    def peek(self, sign: str) -> bool:
        """Whether the next token is a sign; "per" is "/"."""
        if self.position == len(self.tokens):
            return False
        token = self.tokens[self.position]
        return token["sign"] == sign or (sign == "/" and token["word"] == "per")

    def take(self, sign: str) -> bool:
        """Pass over a sign if it is the next token."""
        taken = self.peek(sign)
        self.position += taken
        return taken


def _as_difference(unit: Unit) -> Unit:
    if len(unit.dimension) == 1 and (scale := _DIFFERENCES.get(unit.dimension[0][0])):
        return Unit(unit.size * scale[0] / scale[1], dimension_of("K"))
    return unit
