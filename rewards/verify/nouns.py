"""Nouns of things counted: "12 apples" and 12 are the same answer, but "12 less" and "12 sin" count nothing."""

from __future__ import annotations

import re

from .english import WORDS

_IRREGULAR = {
    "people": "person", "children": "child", "men": "man", "women": "woman", "feet": "foot", "teeth": "tooth",
    "mice": "mouse", "geese": "goose", "halves": "half", "knives": "knife", "leaves": "leaf", "loaves": "loaf",
    "wolves": "wolf", "shelves": "shelf", "vertices": "vertex", "indices": "index", "matrices": "matrix",
    "bases": "base", "axes": "axis", "digits": "digit", "dice": "die", "oxen": "ox", "fish": "fish", "sheep": "sheep",
    "deer": "deer", "series": "series", "faces": "face", "cookies": "cookie", "movies": "movie", "pies": "pie",
    "ties": "tie", "shoes": "shoe", "toes": "toe", "buses": "bus", "glasses": "glass", "zeroes": "zero",
}  # fmt: skip
_COMMON = """
    act adult age animal ant apple arc arrangement arrow baby bag ball balloon banana bar base basket bead bean bear
    bed bee bike bill bird block boat book bottle bowl box boy branch bread brick bridge brother brush bucket bug
    building bus bush butterfly button cake camera can candle candy car card carrot cat cell chair chicken child chip
    chocolate choice circle class clock coin color colour column combination cookie corner couple cow crayon cube
    customer cycle daughter deer degree desk diagonal diamond die digit diode dish divisor dog doll dolphin donut door
    dot drawer dress drink driver duck edge egg element elephant employee engine equation error event eye face factor
    family fan farmer fence field finger fish flag floor flower fly foot fork frame friend frog fruit function game
    garden giraffe girl glass goal goat goose grade grape graph group guest guitar hand handshake hat head heart hen
    hexagon hole horse house icon index inhabitant integer intersection item jar joke key kid king kite knife lady
    lake lamp lap leaf leg lemon lesson letter light line lion loaf lock log man map marble mark match matrix meal
    member message minister mistake monkey motorcycle mountain mouse move movie mug mushroom nail necklace needle
    nickel node notebook number object onion orange outcome outfit ox pack packet page painting pair palindrome pan
    paper parent part passenger path pattern pea peach pear pen pencil penguin pentagon person petal phone photo piano
    picture pie piece pig pile pin pineapple pizza plane planet plant plate player point polygon pot potato prime
    prize problem puppy purchase pyramid quadrilateral question rabbit rectangle region ribbon ring river road robot
    rod room root rope rose rotation round row rule sandwich scarf school seat seed segment sequence series set shape
    sheep shelf shell shirt shoe shop side sign sister skirt slice snail snake sock sofa solution son song spider
    spoon square stamp star state step stick sticker stone store story strawberry student subset suitcase sum surfer
    symmetry table tail teacher team tent term test ticket tie tile toe tomato tooth toothbrush toy train tree
    triangle trip truck tulip turtle umbrella value vase vehicle vertex visitor vote voter wall watch watermelon way
    week wheel window wolf woman word worker zebra zero
"""
NOUNS = frozenset(_COMMON.split())
_QUALITIES = """
    big black blue brown complex different distinct empty full gray green grey integer large long natural negative new
    old orange ordered pink positive possible purple real red round short small tall unique white whole wooden yellow
    young
"""
_ADJECTIVES = frozenset(_QUALITIES.split())
_OPERATORS = """
    or nor but plus minus times over by to from than then divided multiplied subtracted added less more most least
    fewer greater larger smaller bigger about around approximately roughly nearly almost exactly maybe perhaps not no
    none never without except neither either both if unless when each every per apiece squared cubed percent percents
    pct mod modulo choose factorial power powers root log logs ln lg sin cos tan sec csc cot arcsin arccos arctan sinh
    cosh tanh exp lim max min sup inf det gcd lcm sum is are was were equals equal remainder remainders tens ones twos
    threes fours fives sixes sevens eights nines fifth second seconds few several many some any all other others
    another again extra infinity infinite inverse mean average sqrt pi alpha beta gamma delta theta lambda omega sigma
    phi plusminus versus vs up down off below above under between through until before after since plusses minuses
"""
_NEVER = WORDS | frozenset(_OPERATORS.split())
_PHRASE = re.compile(r"[A-Za-z]{2,}(?:[ -][A-Za-z]{2,}){0,2}")
_COUNTERS = (
    "个只条张本人名位次件种支辆间棵头匹朵枚岁分页章组套层户家道题步台瓶杯盒袋包箱份根片串"
    "座场班排列行圈遍趟轮颗粒架艘扇幅篇句字号倍"
)
_CHINESE = re.compile(rf"[{_COUNTERS}]?([\u4e00-\u9fff]{{0,8}})")
_CHINESE_NEVER = re.compile(
    "[零〇一二两三四五六七八九十百千万亿几半或和与及加减乘除到至多余左右上下内外以约不比少剩又再还另且每共负点之折成方]"
)


def noun(text: str, *, one: bool) -> tuple[str, bool] | None:
    """The noun, in the singular, behind a number, and whether it certainly counts things; None if it is no noun.

    A certain one is in the vocabulary, and in the plural unless the number is one (`one`): "5 square" may mean 25. A
    noun outside the vocabulary has three letters or more and a plural's form.
    """
    if not _PHRASE.fullmatch(text):
        return None
    words = re.split("[ -]", text.lower())
    if not _NEVER.isdisjoint(words):
        return None
    last = singular(words[-1])
    known = last in NOUNS and all(word in _ADJECTIVES or singular(word) in NOUNS for word in words[:-1])
    plural = words[-1] in _IRREGULAR or (words[-1].endswith("s") and words[-1][-2:] not in ("ss", "us", "is"))
    if not known and not (len(last) > 2 and (one or plural)):
        return None
    return " ".join([*words[:-1], last]), known and (one or plural)


def chinese_noun(text: str) -> str | None:
    """The noun behind a Chinese counter ("苹果" of 个苹果), "" for the counter alone; None for anything else."""
    match = _CHINESE.fullmatch(text)
    if match is None or _CHINESE_NEVER.search(match[1]) or not text:
        return None
    return match[1] if match[1] != text else None


def singular(word: str) -> str:
    """A noun's singular."""
    if word in _IRREGULAR or word in NOUNS:
        return _IRREGULAR.get(word, word)
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes", "zzes", "toes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word
