"""The verifier's numbers, number words and units: tables by kind, and properties in both directions."""

from __future__ import annotations

import pytest

from rewards.verify.characters import plain_characters


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("४२", "42"),
        ("٣٫٥", "3.5"),
        ("10¹²", "10^{12}"),
        ("x⁴y⁻¹", "x^{4}y^{-1}"),
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
