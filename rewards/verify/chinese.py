"""Chinese answers: numerals, phrases that introduce an answer, and words for right and wrong."""

from __future__ import annotations

import re
from fractions import Fraction

_DIGITS = {**{digit: value for value, digit in enumerate("零一二三四五六七八九")}, "〇": 0, "两": 2}
_SMALL = {"千": 1000, "百": 100, "十": 10}
SCALES = {
    "千": 10**3, "万": 10**4, "十万": 10**5, "百万": 10**6, "千万": 10**7, "亿": 10**8, "十亿": 10**9,
    "百亿": 10**10, "千亿": 10**11, "万亿": 10**12, "百": 100,
}  # fmt: skip
_OTHER_FORMS = str.maketrans("○壹贰叁肆伍陆柒捌玖拾佰仟萬億點負兩貳參陸", "〇一二三四五六七八九十百千万亿点负两二三六")
_WRITTEN = "零〇一二两三四五六七八九十百千万亿"
_RUN = re.compile(rf"负?(?:[{_WRITTEN}点半又负]|分之)+")
_SCALE = "[十百千万亿]*(?:[十百万亿]|千(?![克米焦瓦帕卡]))"  # 5千米 are kilometres
_SCALE_RUN = re.compile(_SCALE)
_DIGITS_AND_SCALE = re.compile(f"([0-9]{{1,9}})({_SCALE})")
_NOT_A_NUMBER = re.compile("[几多余来数把]")  # 十几, 二十多, 十来个: about so many
_STARTS = r"(?=[\s\d+\-−A-Za-z\\$¥￥€£(\[{（【.√π" + _WRITTEN + "负半对错是否不正])"
_ANSWER = re.compile(r"(?:最终|最后|正确)?(?:答案|结果)(?:应该?)?[是为]?[:：\s]*|答[:：]|故选|应选|所以|因此")
_INTRODUCED = re.compile(
    rf"(?:约等于|大约为?|大概是?|约[是为]?|等于|选项?|选择|总?共有?|一共有?|合计|为|是|[:\s])++{_STARTS}"
)
_ARGUES = re.compile(r"因为|所以|因此|由于|可得|解得|从而|于是|由题|^解[:：]|[。！；][^。！；]*?[\u4e00-\u9fff]")
MAX_PHRASE = 40  # Chinese characters of an answer that is a phrase
VERDICTS = {
    **dict.fromkeys(("对", "正确", "是", "是的", "对的"), "yes"),
    **dict.fromkeys(("错", "错误", "否", "不是", "不对", "错的"), "no"),
}


def numeral(text: str) -> tuple[Fraction, int] | None:
    """The value of the numeral that a text begins with, and where it ends; None if it begins with none.

    Read are 三十五, 一千零五, the colloquial 一千五 (1500), 二〇二四, 二点五, 二点五亿, 三分之一, 二又三分之一, 半 and
    负三. All number characters must belong to it; 五六 and 二三十 (five or six, twenty or thirty) and 十几 are None.
    """
    plain = text.translate(_OTHER_FORMS)
    match = _RUN.match(plain)
    if match is None or len(match[0]) > 40 or _NOT_A_NUMBER.match(plain, match.end()):
        return None
    negative = match[0][0] == "负"
    value = _value(match[0][1:] if negative else match[0])
    return None if value is None else (-value if negative else value, match.end())


def scale(text: str) -> tuple[int, int]:
    """The factor of the scale characters (万, 百万, 亿) at the start of a text, and where they end; (1, 0) for none."""
    match = _SCALE_RUN.match(text.translate(_OTHER_FORMS))
    if match is None or match[0] not in SCALES:
        return 1, 0
    return (1, 0) if _NOT_A_NUMBER.match(text, match.end()) else (SCALES[match[0]], match.end())


def with_digits(text: str) -> tuple[int, int] | None:
    """The value of digits that alternate with falling scale characters (1千5百, 3亿2000万), and where it ends."""
    total, end, last = 0, 0, 10**17
    while match := _DIGITS_AND_SCALE.match(text, end):
        size, count = SCALES.get(match[2], 0), int(match[1])
        if not size or size >= last or (end and count * size >= last):
            return None
        total, end, last = total + count * size, match.end(), size
    follows = text[end : end + 1]
    return None if not end or follows.isdigit() or _NOT_A_NUMBER.match(follows) else (total, end)


def unframed(text: str) -> str:
    """The answer without an introduction ("答案是35个" becomes "35个"); 对 and 错 become yes and no.

    约 and 大约 (about) introduce a number too: the answer 约5 is 5.
    """
    bare = text.strip()
    if match := _ANSWER.match(bare):
        bare = bare[match.end() :] or bare
    if bare not in VERDICTS and (match := _INTRODUCED.match(bare)):
        bare = bare[match.end() :]
    return VERDICTS.get(bare, bare.strip() or text)


def is_chinese(text: str) -> bool:
    """Whether the text contains a Chinese character."""
    return not text.isascii() and any("\u4e00" <= character <= "\u9fff" for character in text)


def is_prose(text: str) -> bool:
    """Whether a text argues in sentences, as a worked solution does; 北京 and 答案是5 don't."""
    characters = sum("\u4e00" <= character <= "\u9fff" for character in text)
    return characters > MAX_PHRASE or (characters > 0 and _ARGUES.search(unframed(text)) is not None)


def _value(text: str) -> Fraction | None:
    if text in ("半", "一半"):
        return Fraction(1, 2)
    whole, mixed, part = text.partition("又")
    if not mixed:
        whole, part = "", text
    below, is_fraction, above = part.partition("分之")
    if not is_fraction:
        return None if mixed else _decimal(text)
    denominator, numerator = _whole(_bare(below)), _decimal(above)
    integer = _whole(whole) if mixed else 0
    if not denominator or numerator is None or integer is None:
        return None
    fraction = numerator / denominator
    return integer + fraction if not mixed or 0 < fraction < 1 else None


def _bare(below: str) -> str:
    return "一" + below if below in ("百", "千", "万", "亿") else below


def _decimal(text: str) -> Fraction | None:
    """A whole number, or one with digits behind 点, and a scale behind those."""
    whole, point, decimals = text.partition("点")
    value = _whole(whole)
    if not point or value is None:
        return None if point or value is None else Fraction(value)
    digits = decimals.rstrip("十百千万亿")
    scale_characters = decimals[len(digits) :]
    if not digits or any(digit not in _DIGITS or digit == "两" for digit in digits):
        return None
    if scale_characters and scale_characters not in SCALES:
        return None
    fraction = Fraction(int("".join(str(_DIGITS[digit]) for digit in digits)), 10 ** len(digits))
    return (value + fraction) * SCALES.get(scale_characters, 1)


def _whole(text: str) -> int | None:
    if not text or any(character not in _WRITTEN for character in text):
        return None
    if all(character in _DIGITS for character in text):
        return _positional(text)
    return _large(text)


def _positional(text: str) -> int | None:
    """One digit, or the digits of a number such as 二〇二四; two digits without a zero may mean "five or six"."""
    if len(text) > 1 and ("两" in text or (len(text) == 2 and not set(text) & {"零", "〇"})):
        return None
    return int("".join(str(_DIGITS[character]) for character in text))


def _large(text: str, *, last: bool = True) -> int | None:
    """A number in units of 亿 and 万.

    At the end of the whole numeral (`last`), a single digit counts the next lower unit: 两万五 is 25,000.
    """
    for unit, size, limit in (("亿", 10**8, 10**16), ("万", 10**4, 10**4)):
        before, found, rest = text.rpartition(unit)
        if not found:
            continue
        count = _large(before, last=False)
        if not count or count >= limit:
            return None
        if len(rest) == 1 and _DIGITS.get(rest):
            return count * size + _DIGITS[rest] * size // 10 if last else None
        ones = _large(rest, last=last) if rest else 0
        if ones is None or (rest and not 0 < ones < size):
            return None
        return count * size + ones
    return _section(text, last=last)


def _section(text: str, *, last: bool) -> int | None:
    """A number below 10,000, in falling units; a last digit behind 千 or 百 counts the next lower unit (一千五)."""
    total, below, zero, position = 0, 10**4, False, 0
    while position < len(text):
        character = text[position]
        if character in "零〇":
            if zero or (position == 0 and len(text) == 1):
                return None if zero or len(text) > 1 else 0
            zero, position = True, position + 1
            continue
        digit = _DIGITS.get(character)
        following = text[position + 1 : position + 2]
        if digit is None:
            if character != "十":  # 十五, but neither 百五 nor 千五
                return None
            digit, following, position = 1, "十", position - 1
        size = _SMALL.get(following, 1)
        if size >= below or (size == 10 and character == "两"):
            return None
        if size == 1 and not zero and below in (100, 1000):
            return total + digit * below // 10 if last and position + 1 == len(text) else None
        total, below, zero = total + digit * size, size, False
        position += 1 if size == 1 else 2
    return None if zero else total
