"""The verifier's numbers, number words and units: tables by kind, and properties in both directions."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import sympy
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from math_verify import parse

from rewards.verify import chinese, english, equality, quantity, words
from rewards.verify.characters import plain_characters
from rewards.verify.english import number_words
from rewards.verify.latex import normalise
from rewards.verify.nouns import NOUNS, singular
from rewards.verify.numerals import decimal_comma
from rewards.verify.quantity import Quantity, as_number, as_quantity, same_quantity
from rewards.verify.units import UNITS


def number(raw: str) -> Fraction | None:
    return as_number(normalise(raw))


def same(gold: str, answer: str) -> bool | None:
    """The verdict on two raw texts; None too if a text is no quantity."""
    left, right = as_quantity(normalise(gold)), as_quantity(normalise(answer))
    return same_quantity(left, right) if left and right else None


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("४२", "42"),
        ("٣٫٥", "3.5"),
        ("10¹²", "10^{12}"),
        ("x⁴y⁻¹", "x^{4}y^{-1}"),
        ("204₅", "204_{5}"),
        ("x₁₂²", "x_{12}^{2}"),
        ("𝑥²+3𝑥", "x^{2}+3x"),
        ("𝟓", "5"),
        ("１／２", "1/2"),
        ("x⩽3", r"x\le 3"),
        ("ℝ", "ℝ"),
        ("3½", r"3\frac{1}{2}"),
        ("⅚", r"\frac{5}{6}"),
        ("7⁄9", "7/9"),
        (r"22,\! 333,\! 444", "22333444"),
        (r"22\,333", "22333"),
        ("22{,}333", "22333"),
        ("7\u202f654\u202f321", "7654321"),
        (r"(1,\,234)", r"(1,\,234)"),
        (r"1\,2", r"1\,2"),
        (r"1{,}5", r"1{,}5"),
        ("三十五", "三十五"),
    ],
)
def test_typography_becomes_plain_characters(raw: str, plain: str) -> None:
    assert plain_characters(raw) == plain


NO_LITERALS = (
    r"- | . | 1 2 | 12,34 | 1,2345 | 1,234,56 | 1.2.3 | --5 | 5! | 2^3 | 42_8 | 10⁵⁰⁰⁰ | 3/0 | 2\frac52 | 2\frac{0}{3}"
    r" | 1/2/3 | 3:4 | 5(3) | 0.1(6) | 1 2/3 4 | 2e | x | 5x | (5) | 5, 6 | 0.33... | 2.718281828... | 3\sqrt2 | 3\pi"
    r" | 5 or 6 | 5-6 | 5±1 | ½½ | ① | Ⅳ | 10^12 | 1e9999 | 50% | 5 cm"
)


class TestLiterals:
    @pytest.mark.parametrize(
        ("raw", "value"),
        [
            ("7", "7"),
            ("007", "7"),
            ("+7", "7"),
            ("−7", "-7"),
            (".5", "1/2"),
            ("3.10", "31/10"),
            ("7.", "7"),
            ("65,536", "65536"),
            ("1,048,576.5", "2097153/2"),
            ("65 536", "65536"),
            ("65~536", "65536"),
            (r"65,\!536", "65536"),
            ("3/8", "3/8"),
            ("-3/8", "-3/8"),
            (r"\frac38", "3/8"),
            (r"\dfrac{-3}{8}", "-3/8"),
            (r"-\tfrac{3}{8}", "-3/8"),
            ("3 1/4", "13/4"),
            ("3 and 1/4", "13/4"),
            (r"3\frac14", "13/4"),
            (r"-3\frac{1}{4}", "-13/4"),
            ("4¾", "19/4"),
            ("⅔", "2/3"),
            ("1.5e3", "1500"),
            ("4E-2", "1/25"),
            (r"1.5 \times 10^{12}", "1500000000000"),
            ("1.5 × 10¹²", "1500000000000"),
            (r"2 \cdot 10^{-3}", "1/500"),
            ("10^6", "1000000"),
            (r"0.\overline{27}", "3/11"),
            (r"0.1\overline{6}", "1/6"),
            (r"0.\bar{6}", "2/3"),
            (r"0.\dot{6}", "2/3"),
            (r"0.\dot{1}4285\dot{7}", "1/7"),
            ("0.(6)", "2/3"),
            ("0.6\u0305", "2/3"),
            (r"-1.\overline{3}", "-4/3"),
            ("0.666...", "2/3"),
            (r"0.8333\ldots", "5/6"),
            ("0.142857142857…", "1/7"),
            ("１２．５", "25/2"),
            ("৭", "7"),
        ],
    )
    def test_are_read_exactly(self, raw: str, value: str) -> None:
        assert number(raw) == Fraction(value)

    @pytest.mark.parametrize("raw", ["", *NO_LITERALS.split(" | ")])
    def test_other_texts_are_no_numbers(self, raw: str) -> None:
        assert number(raw) is None

    @given(st.integers(), st.integers(min_value=1))
    def test_fractions_and_integers_read_back(self, above: int, below: int) -> None:
        assume(len(str(above)) + len(str(below)) < 100)
        for text in (f"{above}/{below}", rf"\frac{{{above}}}{{{below}}}"):
            assert number(text) == Fraction(above, below)
        assert number(str(above)) == number(f"{above:,}") == above
        assert number(f"{above:,}".replace(",", r",\!")) == number(f"{above:,}".replace(",", r"\,")) == above

    @given(st.integers(0, 10**9), st.integers(1, 999), st.integers(2, 999))
    def test_mixed_numbers_read_back_if_their_fraction_is_proper(self, whole: int, above: int, below: int) -> None:
        value = whole + Fraction(above, below) if above < below else None
        assert number(rf"{whole}\frac{{{above}}}{{{below}}}") == value
        assert number(f"{whole} {above}/{below}") == (value or (None if above >= 100 else value))

    @given(st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=6))
    def test_decimals_read_back_with_the_count_of_their_digits(self, value: Any) -> None:
        text = f"{value:f}"
        found = as_quantity(text)
        assert found == Quantity(Fraction(value), None, 6)

    @given(st.integers(0, 400), st.integers(1, 400))
    def test_repeating_decimals_are_the_fractions_of_long_division(self, above: int, below: int) -> None:
        whole, rest = divmod(above, below)
        digits, seen = "", {}
        while rest and rest not in seen:
            seen[rest] = len(digits)
            digit, rest = divmod(rest * 10, below)
            digits += str(digit)
        if rest:
            fixed, period = digits[: seen[rest]], digits[seen[rest] :]
            assume(len(digits) < 300)
            assert number(rf"{whole}.{fixed}\overline{{{period}}}") == Fraction(above, below)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 10**7), st.integers(1, 9), st.integers(10, 99), st.booleans())
    def test_math_verify_and_sympy_read_the_same_value(self, whole: int, above: int, below: int, minus: bool) -> None:
        sign = "-" if minus else ""
        texts = [
            f"{sign}{whole}",
            f"{sign}{whole}.{below}",
            rf"{sign}\frac{{{whole}}}{{{below}}}",
            f"{sign}{whole}/{below}",
        ]
        texts += [rf"{sign}{whole}\frac{{{above}}}{{{below}}}", f"{sign}{whole:,}", rf"{sign}\frac{above}{above}"]
        for text in texts:
            value, parsed = number(text), parse(f"${text}$", parsing_timeout=None)[0]
            assert value is not None
            assert sympy.simplify(parsed - sympy.Rational(value.numerator, value.denominator)) == 0, text

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("1,5", "3/2"),
            ("-0,25", "-1/4"),
            ("0,125", "1/8"),
            ("1.234,5", "2469/2"),
            ("12,3456", "30864/2500"),
            ("2{,}75", "11/4"),
            ("1,234", None),
            ("1,5,6", None),
            ("(1,5)", None),
            ("1, 5", None),
            (",5", None),
        ],
    )
    def test_a_comma_may_be_the_decimal_one_where_it_can_t_group_thousands(self, text: str, value: str | None) -> None:
        assert decimal_comma(text) == (None if value is None else Fraction(value))


_FIRST = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen"
)
_TIES = "- - twenty thirty forty fifty sixty seventy eighty ninety"
ONES, TENS = _FIRST.split(), _TIES.split()
ENGLISH = [*ONES[:14], *TENS[2:5], "hundred", "thousand", "million", "and", "a"]


def in_english(value: int, *, link: str = " and ", hyphen: str = "-") -> str:
    """A number in words, by repeated division: an implementation apart from the reader."""
    for size, name in ((10**15, "quadrillion"), (10**12, "trillion"), (10**9, "billion"), (10**6, "million")):
        if value >= size:
            rest = in_english(value % size, link=link, hyphen=hyphen) if value % size else ""
            return f"{in_english(value // size, link=link, hyphen=hyphen)} {name} {rest}".strip()
    if value >= 1000:
        rest = value % 1000
        tail = "" if not rest else (link if rest < 100 else " ") + in_english(rest, link=link, hyphen=hyphen)
        return f"{in_english(value // 1000, link=link, hyphen=hyphen)} thousand{tail}"
    if value >= 100:
        tail = link + in_english(value % 100, hyphen=hyphen) if value % 100 else ""
        return f"{ONES[value // 100]} hundred{tail}"
    if value >= 20:
        return TENS[value // 10] + (hyphen + ONES[value % 10] if value % 10 else "")
    return ONES[value]


NO_ENGLISH = (
    "three or four | three four | nineteen ninety | twenty twelve | hundred | million | a | dozen | five plus six"
    " | 5 minus two | 5 plus six | six and seven | two hundred and | and six | point five | two third | one thirds"
    " | twenty-fifths | two hundred and three quarters | second | fifth | none | one million one million"
    " | one thousand one million | zero hundred | ten minus two | a couple | 5 m | 5 tens | 3 quarters | 2 third | 5k"
    " | two dozen dozen | 5 bn | million million | no | five point | five, six | 5 thousand 2"
)


class TestEnglishWords:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("twelve", "12"),
            ("Thirty-Four", "34"),
            ("thirty four", "34"),
            ("three hundred and seven", "307"),
            ("three hundred seven", "307"),
            ("a hundred", "100"),
            ("a thousand and one", "1001"),
            ("fifteen hundred", "1500"),
            ("six million", "6000000"),
            ("two hundred thousand", "200000"),
            ("a dozen", "12"),
            ("three dozen", "36"),
            ("two dozens", "24"),
            ("half a dozen", "6"),
            ("one half", "1/2"),
            ("a half", "1/2"),
            ("half", "1/2"),
            ("two-thirds", "2/3"),
            ("three quarters", "3/4"),
            ("seven tenths", "7/10"),
            ("a quarter", "1/4"),
            ("four and a half", "9/2"),
            ("4 and a half", "9/2"),
            ("one and three quarters", "7/4"),
            ("two and a half million", "2500000"),
            ("half a million", "500000"),
            ("three point one four", "157/50"),
            ("two point five million", "2500000"),
            ("minus nine", "-9"),
            ("negative one third", "-1/3"),
            ("6 million", "6000000"),
            ("1.25 thousand", "1250"),
            ("6 hundred thousand", "600000"),
            ("4 dozen", "48"),
            ("3 lakh", "300000"),
            (r"\frac12 million", "500000"),
            ("5 eighths", "5/8"),
            ("1 third", "1/3"),
        ],
    )
    def test_are_read(self, text: str, value: str) -> None:
        assert number(text) == Fraction(value)

    @pytest.mark.parametrize("text", NO_ENGLISH.split(" | "))
    def test_other_words_are_no_number(self, text: str) -> None:
        assert number(text) is None

    @given(st.integers(0, 10**18 - 1), st.sampled_from([" ", " and "]), st.sampled_from(["-", " "]))
    def test_every_integer_reads_back(self, value: int, link: str, hyphen: str) -> None:
        assert number(in_english(value, link=link, hyphen=hyphen)) == value
        assert number("minus " + in_english(value, link=link, hyphen=hyphen)) == -value

    @given(st.integers(0, 999), st.sampled_from([(2, 3, "thirds"), (3, 4, "quarters"), (6, 7, "sevenths")]))
    def test_every_fraction_reads_back(self, whole: int, part: tuple[int, int, str]) -> None:
        above, below, name = part
        assert number(f"{in_english(above)} {name}") == Fraction(above, below)
        ambiguous = whole >= 100 and whole % 100 == 0  # two hundred and three sevenths
        assert number(f"{in_english(whole)} and {in_english(above)} {name}") == (
            None if ambiguous else whole + Fraction(above, below)
        )

    @settings(suppress_health_check=[HealthCheck.filter_too_much])
    @given(st.lists(st.sampled_from(ENGLISH), max_size=5))
    def test_what_is_read_is_a_way_to_write_the_number(self, parts: list[str]) -> None:
        value = number(" ".join(parts))
        assume(value is not None)
        assert value is not None
        written = [word for word in parts if word != "and"]
        written = ["one" if word == "a" else word for word in written]
        plain = in_english(int(value), link=" ", hyphen=" ").split()
        hundreds = divmod(int(value), 100)
        by_hundreds = [*in_english(hundreds[0], hyphen=" ").split(), "hundred"]
        by_hundreds += in_english(hundreds[1], hyphen=" ").split() if hundreds[1] else []
        assert written in (plain, by_hundreds)


def in_chinese(value: int) -> str:
    """A number below 10^16 in Chinese, digit by digit from the left: an implementation apart from the reader."""
    text, zeros, digits = "", False, str(value)
    for position, digit in enumerate(digits):
        place = len(digits) - 1 - position
        if digit == "0":
            zeros = True
        else:
            text += ("零" if zeros else "") + "零一二三四五六七八九"[int(digit)] + ["", "十", "百", "千"][place % 4]
            zeros = False
        if place in (4, 12) and any(character != "0" for character in digits[max(0, position - 3) : position + 1]):
            text += "万"
        if place == 8:
            text += "亿"
    return text or "零"


BANK = str.maketrans("一二三四五六七八九十百千", "壹贰叁肆伍陆柒捌玖拾佰仟")
TRADITIONAL = str.maketrans("万亿", "萬億")
SPOKEN: dict[str, Callable[[str], str]] = {
    "as written": lambda text: text,
    "十五 for 一十五": lambda text: text.removeprefix("一") if text.startswith("一十") else text,
    "两 before 百, 千 and 亿": lambda text: (
        text.replace("二百", "两百").replace("二千", "两千").replace("二亿", "两亿")
    ),
    "〇 for 零": lambda text: text.replace("零", "〇"),
    "bank's forms": lambda text: text.translate(BANK),
    "traditional forms": lambda text: text.translate(TRADITIONAL),
}


NO_CHINESE = """
十几 几十 二十多 十来个 五六 三五个 二三十 十五六个 百万富翁 万 百 点五 五点
分之一 三分之 零分之一 二又三分之五 负
负负三 三三百 百五 一千零 一百二三 两十 第三 三或四 三和四 三加四 三百左右 5万多 三个半 3千6千 3百6千 北京
一些 三百一万 三万五亿
"""
PARTS = "零 一 二 两 九 十 二十 三百 六千 一千 万 亿 万零 〇"


class TestChineseNumerals:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("四十二", "42"),
            ("十", "10"),
            ("十八", "18"),
            ("一百零六", "106"),
            ("一百六", "160"),
            ("两千三", "2300"),
            ("两千零三", "2003"),
            ("三万五", "35000"),
            ("三万零五", "30005"),
            ("四亿六", "460000000"),
            ("两百零七", "207"),
            ("一九八四", "1984"),
            ("二〇二四", "2024"),
            ("三点一四", "157/50"),
            ("零点二五", "1/4"),
            ("二点五亿", "250000000"),
            ("五分之三", "3/5"),
            ("二又五分之三", "13/5"),
            ("负七", "-7"),
            ("负二分之一", "-1/2"),
            ("半", "1/2"),
            ("一半", "1/2"),
            ("千分之七", "7/1000"),
            ("3.5亿", "350000000"),
            ("6万", "60000"),
            ("8百万", "8000000"),
            ("3千6百", "3600"),
            ("2亿5000万", "250000000"),
            ("一万亿", "1000000000000"),
            ("六十个", "60"),
            ("约8", "8"),
            ("答案是十二", "12"),
            ("最终答案：12", "12"),
            ("一共12", "12"),
            ("等于负三", "-3"),
            ("负3.5", "-7/2"),
            ("-三", "-3"),
            ("三百○六", "306"),
            ("答：十二", "12"),
        ],
    )
    def test_are_read(self, text: str, value: str) -> None:
        assert number(text) == Fraction(value)

    @pytest.mark.parametrize("text", NO_CHINESE.split())
    def test_other_texts_are_no_number(self, text: str) -> None:
        assert number(text) is None

    @given(st.integers(0, 10**16 - 1), st.sampled_from(sorted(SPOKEN)))
    def test_every_integer_reads_back_in_every_form(self, value: int, form: str) -> None:
        text = SPOKEN[form](in_chinese(value))
        assert number(text) == value, text
        assert number("负" + text) == -value

    @given(st.integers(11, 99), st.sampled_from([(10, "百"), (100, "千"), (1000, "万"), (10**7, "亿")]))
    def test_a_last_digit_without_its_unit_counts_the_next_lower_one(self, value: int, unit: tuple[int, str]) -> None:
        assume(value % 10)
        text = "零一二三四五六七八九"[value // 10] + unit[1] + "零一二三四五六七八九"[value % 10]
        assert number(text) == value * unit[0]

    @settings(suppress_health_check=[HealthCheck.filter_too_much])
    @given(st.lists(st.sampled_from(PARTS.split()), max_size=6))
    def test_what_is_read_is_a_way_to_write_the_number(self, parts: list[str]) -> None:
        text = "".join(parts)
        value = number(text)
        assume(value is not None and value < 10**16)
        assert value is not None
        bare = re.sub("(?<![一二六九])一十", "十", text.replace("两", "二").replace("〇", "零"))
        written = in_chinese(int(value))
        forms = {written.replace("零", "")}
        forms |= {form[:-1] for form in forms if form[-1:] in ("十", "百", "千")}  # 一百六
        forms |= {form.removesuffix("千万") for form in forms} | {form.removesuffix("千") for form in forms}
        forms = {form.replace("一十", "十") for form in forms}
        assert bare.replace("零", "") in forms or bare.lstrip("零") in (str(value).translate(DIGITS), "")

    @pytest.mark.parametrize(
        ("gold", "prose"),
        [
            ("解：设边长为x，由题意可得x=5", True),
            ("因为两直线平行，所以角相等", True),
            ("先求面积。再求周长", True),
            ("北京", False),
            ("答案是5", False),
            ("所以x=5", False),
            ("等腰三角形或直角三角形", False),
            ("三分之一。", False),
            ("x=5", False),
        ],
    )
    def test_a_worked_solution_is_no_gold_answer(self, gold: str, prose: bool) -> None:
        assert chinese.is_prose(gold) is prose
        if prose:
            with pytest.raises(ValueError, match="solution in sentences"):
                equality.check(gold, {})

    @given(st.integers(2, 10**6), st.integers(0, 10**6))
    def test_fractions_read_back(self, below: int, above: int) -> None:
        assert number(f"{in_chinese(below)}分之{in_chinese(above)}") == Fraction(above, below)


DIGITS = str.maketrans("0123456789", "零一二三四五六七八九")


class TestUnits:
    @pytest.mark.parametrize(
        ("gold", "answer"),
        [
            ("3 m", "300 cm"),
            ("3 m", "3"),
            ("3", r"3\text{ m}"),
            ("3", r"3\mathrm{m}"),
            ("3", "3cm"),
            ("3 m", "3m"),
            (r"3\text{ m}^2", "30000 cm^2"),
            ("3 m^2", "3 square metres"),
            ("3 m^2", "3 平方米"),
            ("3 m^2", "3 m2"),
            ("3 m^3", "3000 L"),
            ("36 km/h", "10 m/s"),
            ("36 km/h", r"10\ \mathrm{m\,s^{-1}}"),
            ("36 km/h", r"10\ \frac{m}{s}"),
            ("36 km/h", "10米每秒"),
            ("36 km/h", r"10\ \mathrm{ms^{-1}}"),
            ("36 km/h", "36 kilometers per hour"),
            ("2 N", r"2\ \mathrm{kg}\cdot\mathrm{m/s^2}"),
            ("4 J/(kg*K)", "4 J/(kg·°C)"),
            ("2 kWh", "7200 kJ"),
            ("1 atm", "101325 Pa"),
            ("90 minutes", "1.5 hours"),
            ("half an hour", "30 min"),
            ("2 years", "24 months"),
            ("3 gallons", "12 quarts"),
            ("1 mile", "5280 feet"),
            ("1 mile", "1760 yards"),
            ("1 nautical mile", "1852 m"),
            ("1 yard", "3 ft"),
            ("1 ft", "12 inches"),
            ("1 inch", "2.54 cm"),
            ("1 acre", "4840 square yards"),
            ("1 hectare", "10000 m^2"),
            ("1 lb", "16 oz"),
            ("1 lb", "453.59237 g"),
            ("1 tonne", "1000 kg"),
            ("1 斤", "500 g"),
            ("3 亩", "2000 m^2"),
            ("1 里", "500 m"),
            ("1 week", "168 hours"),
            ("1 century", "100 years"),
            ("60 mph", "88 ft/s"),
            ("1 knot", "1.852 km/h"),
            ("1 revolution", "360°"),
            ("1°", "60 arcminutes"),
            ("1 bar", "100 kPa"),
            ("1 kcal", "1000 calories"),
            ("1 pint", "2 cups"),
            ("1 tablespoon", "3 teaspoons"),
            ("1 byte", "8 bits"),
            ("1 V", "1 J/C"),
            ("1 Ω", "1 V/A"),
            ("1 F", "1 C/V"),
            ("1 T", "1 Wb/m^2"),
            ("1 H", "1 V*s/A"),
            ("1 eV", r"1.602176634 \times 10^{-19} J"),
            ("1 元", "10 角"),
            ("180°", "180 degrees"),
            ("20 °C", "20 degrees Celsius"),
            ("20 °C", r"20^{\circ}\mathrm{C}"),
            (r"5\ \Omega", "5 ohms"),
            ("5 μm", r"5\ \mu\mathrm{m}"),
            (r"\$7", "7 dollars"),
            ("$7", "700 cents"),
            ("-$7", "$-7"),
            ("-7", r"-\$7"),
            (r"\$2 \text{ million}", "2000000"),
            ("¥8", "8元"),
            ("£8", "8 pounds"),
            ("€8", "8 EUR"),
            ("Rs. 8", "8 rupees"),
            ("$8 per hour", "8 dollars per hour"),
            (r"\$8/h", "8"),
            ("8", "8 apples in total"),
            ("8", "8 sq. ft."),
            ("8", "8千克"),
            ("8", "8千米"),
            ("5 kg", "5千克"),
            ("5 kg", "五公斤"),
            ("9 apples", "9"),
            ("9", "9 apples"),
            ("9 red apples", "9 apples"),
            ("9 quokkas", "9 quokkas"),
            ("9 people", "9人"),
            ("9个苹果", "9"),
            ("1 apple", "1 apples"),
            ("8 people", "eight people"),
            ("25%", "1/4"),
            ("1/4", "25%"),
            ("25%", "25"),
            ("25%", "百分之二十五"),
            ("25%", "25 percent"),
            ("3", "300%"),
            ("36", "36 square units"),
        ],
    )
    def test_the_same_quantity(self, gold: str, answer: str) -> None:
        assert same(gold, answer) is True

    @pytest.mark.parametrize(
        ("gold", "answer"),
        [
            ("3 m", "3 cm"),
            ("3 m", "3 m^2"),
            ("3 m", "300"),
            ("3 kg", "3 m"),
            ("3 kg", "£3"),
            ("$3", "€3"),
            ("$3", "3元"),
            ("20 °C", "20 °F"),
            ("20 °C", "68 °F"),
            ("1 year", "1 day"),
            ("1 MB", "1 GB"),
            ("9 apples", "9 pears"),
            ("9 quokkas", "9 lemurs"),
            ("9 apples", "8 apples"),
            ("9个苹果", "9个梨"),
            ("0.5", "0.5%"),
            ("5", "5‰"),
            ("$8 per hour", "$8 per day"),
            ("0.5%", "0.5"),
            ("50", "50%"),
            ("0.25", "25"),
            ("25%", "2.5"),
            ("25%", "25 cm"),
            ("6", "6 million"),
            ("6", "6万"),
            ("6", "6 dozen"),
            ("6", "6 halves"),
            ("90°", "90 cm"),
        ],
    )
    def test_another_quantity(self, gold: str, answer: str) -> None:
        assert same(gold, answer) is False

    @pytest.mark.parametrize(
        ("gold", "answer"),
        [
            ("4", "4m"),
            ("4m", "4"),
            ("4", "4xy"),
            ("4", "4 xy"),
            ("4", "4ab"),
            ("4", "4mn"),
            ("4", "4 ln"),
            ("4", "4 sin"),
            ("4", "4pi"),
            ("4", "4 cosines or 5"),
            ("4", "4 quokkas"),
            ("4", "4 minus two"),
            ("4", "4 less"),
            ("4", "4 times"),
            ("4", "4 ways or five ways"),
            ("4", "4 cats and 3 dogs"),
            ("4", "4k"),
            ("4", "4 more than x"),
            ("4", "4 squared"),
            ("4 abs", "4 bas"),
            (r"\frac12", r"\frac12mv^2"),
            ("4个半", "4"),
            ("4", "4 to 5 cm"),
            ("4", "3 feet 2 inches"),
        ],
    )
    def test_not_decided_here(self, gold: str, answer: str) -> None:
        assert same(gold, answer) is None

    NAMES = sorted(name for name in UNITS if not set(name) & set("$%‰¢¥€£₹₩％"))

    @given(st.fractions(), st.sampled_from(NAMES), st.data())
    def test_conversions_are_exact(self, value: Fraction, name: str, data: st.DataObject) -> None:
        unit = UNITS[name]
        other = data.draw(st.sampled_from([name for name in self.NAMES if UNITS[name].dimension == unit.dimension]))
        converted = value * unit.size / UNITS[other].size
        assume(len(str(converted)) < 60)
        texts = [f"{self.written(number)} {unit}" for number, unit in ((value, name), (converted, other))]
        assert same(texts[0], texts[1]) is True
        assert same(texts[0], f"{self.written(converted + Fraction(1, 10**9))} {other}") is False

    @given(st.sampled_from(NAMES), st.sampled_from(NAMES))
    def test_units_of_two_dimensions_differ(self, left: str, right: str) -> None:
        assume(UNITS[left].dimension != UNITS[right].dimension)
        assume({left, right} not in ({"£", "pound"}, {"pounds", "£"}))
        if {UNITS[left], UNITS[right]} not in quantity.NAMESAKES:
            assert same(f"2 {left}", f"2 {right}") is False

    @given(st.text("abcdefghiklmnopqrstuvxyz", min_size=1, max_size=8), st.sampled_from(["", " ", r"\ "]))
    def test_a_word_outside_the_vocabulary_is_no_unit_of_a_plain_number(self, word: str, space: str) -> None:
        if same("7", f"7{space}{word}") is not None or same(f"7{space}{word}", "7") is not None:
            assert word in UNITS or word in english.WORDS or (space and singular(word) in NOUNS)

    @staticmethod
    def written(value: Fraction) -> str:
        return f"{value.numerator}/{value.denominator}"


class TestCounts:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("4", 4),
            ("four", 4),
            ("four zebras", 4),
            ("4 small zebras", 4),
            ("thirty-one", 31),
            ("six hundred", 600),
            ("2 million", 2000000),
            ("none", 0),
            ("None.", 0),
            ("zero", 0),
            ("四只", 4),
            ("四只猫", 4),
            ("a dozen eggs", 12),
            ("4.0", 4),
            ("four or five", None),
            ("four cats and two dogs", None),
            ("4 minus two", None),
            ("4 per row", None),
            ("4.5", None),
            ("40%", None),
            ("十几", None),
            ("many", None),
            ("", None),
        ],
    )
    def test_are_the_only_number_of_the_text(self, text: str, value: int | None) -> None:
        assert words.count(text) == value

    @pytest.mark.parametrize(
        ("gold", "answer", "score"),
        [
            ("200", "two hundred", 1.0),
            ("2", "two hundred", 0.0),
            ("34", "thirty-four", 1.0),
            ("30", "thirty-four", 0.0),
            ("4", "4 quokkas", 1.0),
            ("4", "4 million", 0.0),
            ("4", "four or five", 0.0),
            ("4", "4 minus two", 0.0),
            ("0", "none", 1.0),
            ("4", "There are 4", 1.0),
            ("4", "x=4", 1.0),
            ("4", "there are 4 cats and 2 dogs", 0.0),
            ("4 m", "4 km", 0.0),
        ],
    )
    def test_scores(self, gold: str, answer: str, score: float) -> None:
        assert words.score_count(gold, answer, {}) == score


@pytest.mark.parametrize(
    ("gold", "answer", "score"),
    [
        ("5", "about 5", 1.0),
        ("5", r"\approx 5", 1.0),
        ("5", "The answer is 5.", 1.0),
        ("5", "the answer is not 5", 0.0),
        ("5", "less than 5", 0.0),
        ("6000000", "6 million", 1.0),
        ("6", "6 million", 0.0),
        ("1.5", "1.5 thousand", 0.0),
        ("0.5", "0.5%", 0.0),
        ("7", "7 or eight", 0.0),
        ("0", "none", 0.0),
        ("2.5", "x = 2.5", 1.0),
        ("2.5 cm", "length: 25 mm", 1.0),
        ("3", "a=1, b=2, c=3", 0.0),
        ("5", "x=3=5", 0.0),
        ("100", "100.009", 1.0),
        ("100", "100.011", 0.0),
        ("7", "7 quokkas", 1.0),
    ],
)
def test_scores_of_numbers(gold: str, answer: str, score: float) -> None:
    assert quantity.score(gold, answer, {}) == score


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ("two hundred and five", "205", True),
        ("Thirty-one", "31", True),
        ("three cats", "3 cats", True),
        ("none", "0", True),
        ("三十五", "35", True),
        ("two hundred", "2", False),
        ("a red bus", "red bus", True),
    ],
)
def test_the_plain_form_of_words_writes_numbers_in_digits(left: str, right: str, equal: bool) -> None:
    assert (words.plain(left) == words.plain(right)) is equal


READERS: list[Callable[[str], Any]] = [
    *(as_number, as_quantity, decimal_comma, words.count, words.plain, number_words, english.scale, english.part),
    *(chinese.unframed, chinese.numeral, chinese.scale, chinese.with_digits, plain_characters),
]
SYMBOLS = (
    r"1 23 , . / - − % $ \$ \frac { } ^ ( ) \text{ e m cm square per half and a two hundred million 半 万 十"
    r" 分之 又 点 约 为 \overline{ \dot ½ ² x \times 10^{ ° \circ 个 负 \, \! ~ 1,234 百万 约为 一共有 m/ \mathrm{"
)
PIECES = [*SYMBOLS.split(), " ", "\u0304", "one ", "two hundred and ", "1 000 "]


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join)))
def test_no_text_makes_a_reader_fail(text: str) -> None:
    for reader in READERS:
        reader(text)
    same(text, text)


def test_the_time_is_linear_in_the_text() -> None:
    start = time.process_time()
    for piece in PIECES:
        text = (piece * 15_000)[:15_000]
        for reader in READERS:
            reader(text)
            reader(text + "?")
    assert time.process_time() - start < 10.0
