"""Chinese answers: numerals, units, phrases that introduce an answer, and words for right and wrong."""

from __future__ import annotations

import re

_DIGITS = {**{digit: value for value, digit in enumerate("零一二三四五六七八九")}, "〇": 0, "两": 2}
_SMALL = {"十": 10, "百": 100, "千": 1000}
_LARGE = {"万": 10**4, "亿": 10**8}
_NUMERAL = re.compile(r"[负]?[零〇一二两三四五六七八九十百千万亿]+(?:点[零〇一二三四五六七八九]+)?")
_FRAME = re.compile(r"^(?:最终)?(?:答案|结果|故选|应选|选择?|选项|所以|因此|约为|等于|共有?|一共|为|是|[:\s])+")
UNITS = {
    "毫米": "mm", "厘米": "cm", "分米": "dm", "千米": "km", "公里": "km", "平方厘米": "cm^2", "平方米": "m^2",
    "立方厘米": "cm^3", "立方米": "m^3", "毫升": "mL", "升": "L", "千克": "kg", "公斤": "kg", "克": "g", "吨": "t",
    "米/秒": "m/s", "米每秒": "m/s", "千米/时": "km/h", "千米每小时": "km/h", "米": "m", "小时": "h", "分钟": "min",
    "秒": "s", "天": "day", "度": "degree", "元": "yuan", "人民币": "yuan",
}  # fmt: skip
COUNTERS = "个只条张本人名位次件种块支辆间棵头匹朵枚岁"
VERDICTS = {
    "对": "yes",
    "正确": "yes",
    "是": "yes",
    "是的": "yes",
    "错": "no",
    "错误": "no",
    "否": "no",
    "不是": "no",
    "不对": "no",
}


def numeral(text: str) -> str | None:
    """A Chinese numeral in digits ("三十五" becomes "35", "二点五" becomes "2.5"), or None."""
    if not _NUMERAL.fullmatch(text):
        return None
    sign, body = ("-", text[1:]) if text[0] == "负" else ("", text)
    whole, _, decimals = body.partition("点")
    fraction = "." + "".join(str(_DIGITS[digit]) for digit in decimals) if decimals else ""
    if all(character in _DIGITS for character in whole) and len(whole) > 1:  # 二〇二四
        return sign + "".join(str(_DIGITS[digit]) for digit in whole) + fraction
    total = section = digit = 0
    for character in whole:
        if character in _DIGITS:
            digit = _DIGITS[character]
        elif character in _SMALL:
            section += (digit or 1) * _SMALL[character]
            digit = 0
        else:
            total = (total + section + digit) * _LARGE[character]
            section = digit = 0
    return f"{sign}{total + section + digit}{fraction}"


def unframed(text: str) -> str:
    """The answer without an introduction ("答案是35个" becomes "35个"); 对 and 错 become yes and no."""
    if text in VERDICTS:
        return VERDICTS[text]
    return _FRAME.sub("", text).strip() or text


def is_chinese(text: str) -> bool:
    """Whether the text contains a Chinese character."""
    return any("\u4e00" <= character <= "\u9fff" for character in text)
