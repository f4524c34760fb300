"""Multiple choice: which letters a text names, on its own or beside the texts of its options."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from . import chinese
from .latex import normalise, split_at

_FRAME = re.compile(
    r"(?:(?:(?:the|my|final|correct|right|best)\s+)*(?:answer|option|choice|letter)s?\s*(?:(?:is|are)\b)?\s*:?\s*|both\s+){1,3}",
    re.IGNORECASE,
)
_DECORATED = re.compile(r"['\"`“‘]+([^'\"`“”‘’]+)['\"`”’]+|\\?{([^{}]+?)\\?}")
_CHINESE_LETTER = re.compile(r"^第?([A-Za-z])(?:选项|项)$")
_LABEL = re.compile(r"[(\[]?([A-Za-z0-9])[)\]]?[.:),]?")
_LABEL_AND_TEXT = re.compile(r"(?:[(\[]([A-Za-z0-9])[)\]]|([A-Za-z0-9])(?=[\s.:)(]))\s*([.:)]?)\s*(\S.*)", re.DOTALL)
_TEXT_AND_LABEL = re.compile(r"(.*\S)\s*[(\[]([A-Za-z0-9])[)\]]", re.DOTALL)
_MARK = re.compile(r"(?:^|(?<=\s))(?:\(([A-Z])\)|（([A-Z])）|([A-Z])[.:)、．：）])\s*", re.MULTILINE)
_AND = re.compile(r"\s*(?:\band\b|&|和|与|及)\s*", re.IGNORECASE)
_HEDGE = re.compile(
    r"(?:or|and|nor|not|no|is|isn't|wrong|false|incorrect|excluded|ruled|maybe|perhaps|possibly|could|might|may|unlikely)\b"
    r"|[,;/&或和不非错误排可]|.*(?<![A-Za-z])(?:[B-HJ-Z](?![A-Za-z])|A\W*\Z)",
    re.DOTALL,
)
MOST_LETTERS = 26
Same = Callable[[str, str], bool]


def letters(answer: str, options: Mapping[str, str], same: Same | None = None) -> frozenset[str]:
    """The options that an answer chooses; empty if the choice is unclear.

    The answer is a letter in either case and in any brackets (`B`, `b`, `(B)`, `option B`, `选B`), the text of an
    option, a letter with that option's text (`B. 7 cm`, `7 cm (B)`), or several of these with commas, "and" or 、
    between them (also `BC`). A letter goes before an equal text. A text must be that of exactly one option, and a text
    beside a letter must be that letter's. `B or C` and `not B` choose nothing.

    Args:
        answer: the text.
        options: the normalised texts by letter; empty if they aren't known. Then any letter from A to Z counts, and a
            text behind a letter and a full stop, colon or bracket is ignored unless it could take the letter back.
        same: whether two texts are equal, in addition to texts that differ in case only.
    """
    full = chinese.unframed(normalise(answer)).strip("* ")
    text = _unframed(_undecorated(full))
    if one := _one(text, options, same) or _one(full, options, same):
        return frozenset({one})
    if run := _run(text, answer, options):
        return run
    ways = split_at(text, ",;"), split_at(_AND.sub(",", text), ",;"), _labels(text)
    for pieces in ways:
        found = [_one(piece, options, same) for piece in pieces if piece] if len(pieces) <= MOST_LETTERS else []
        if len(found) > 1 and all(found):
            return frozenset(label for label in found if label)
    return frozenset()


def _labels(text: str) -> list[str]:
    """The words of a text that consists of two labels or more; of any other, none."""
    words = text.split()
    return words if len(words) > 1 and all(map(_LABEL.fullmatch, words)) else []


def read_options(prompt: str) -> dict[str, str]:
    """The options in a prompt, normalised: texts behind `A.`, `B.` and so on, or `(A)`, `(B)`, in lines or in a line.

    The letters of a series follow each other from A, and there are at least two. Of several series the longest counts,
    and the last of equally long ones.
    """
    longest: list[re.Match[str]] = []
    series: list[re.Match[str]] = []
    for mark in _MARK.finditer(prompt):
        letter = next(filter(None, mark.groups()))
        if letter == "A":
            series = [mark]
        elif series and letter == chr(ord("A") + len(series)):
            series.append(mark)
        if len(series) >= max(2, len(longest)):
            longest = series
    ends = [*(mark.start() for mark in longest[1:]), len(prompt)]
    return labelled(
        prompt[mark.end() : end].strip().partition("\n")[0] for mark, end in zip(longest, ends, strict=False)
    )


def labelled(texts: Iterable[object]) -> dict[str, str]:
    """Texts by letter, normalised, without letters that all of them have already (`A. red`)."""
    found = {chr(ord("A") + number): normalise(str(text)) for number, text in enumerate(texts)}
    marked = {
        letter: re.match(rf"(?:\({re.escape(letter)}\)|{re.escape(letter)}[.:)])\s*(?=\S)", text)
        for letter, text in found.items()
    }
    if all(marked.values()):
        return {letter: found[letter][mark.end() :] for letter, mark in marked.items() if mark}
    return found


def _undecorated(text: str) -> str:
    r"""The text without quotes, or braces as in `\{A, B\}`, around all of it."""
    match = _DECORATED.fullmatch(text)
    return next(filter(None, match.groups())).strip("* ") if match else text


def _unframed(text: str) -> str:
    """The text without words such as "the answer is option", or 选项 behind a letter."""
    frame = _FRAME.match(text)
    bare = text[frame.end() :].strip("* ") if frame and frame.end() < len(text) else text
    return _CHINESE_LETTER.sub(r"\1", bare)


def _one(text: str, options: Mapping[str, str], same: Same | None) -> str | None:
    """The one option that a text chooses, or None."""
    if (match := _LABEL.fullmatch(text)) and (label := _known(match[1], options)):
        return label
    match = _LABEL_AND_TEXT.fullmatch(text)
    label = _known(match[1] or match[2], options) if match else None
    marked = match is not None and bool(match[1] or match[3])  # `B. red` and `(A) cat`, but not `a cat`
    if not options:
        return label if match and marked and not _HEDGE.match(match[4]) else None
    if (found := _by_text(text, options, _same_text)) or (label and marked):
        return found or _agreeing(text, options, same)
    return (same and _by_text(text, options, same)) or _agreeing(text, options, same)


def _known(label: str, options: Mapping[str, str]) -> str | None:
    label = label.upper()
    return label if (label in options if options else "A" <= label <= "Z") else None


def _by_text(text: str, options: Mapping[str, str], equal: Same) -> str | None:
    """The only option with this text."""
    found = [label for label, option in options.items() if equal(option, text)]
    return found[0] if len(found) == 1 else None


def _agreeing(text: str, options: Mapping[str, str], same: Same | None) -> str | None:
    """The label before or behind a text, if the text is that of its option."""
    if match := _LABEL_AND_TEXT.fullmatch(text):
        label, said = _known(match[1] or match[2], options), match[4]
    elif match := _TEXT_AND_LABEL.fullmatch(text):
        label, said = _known(match[2], options), match[1]
    else:
        return None
    forms = [said, said[1:-1]] if said[0] == "(" and said[-1] == ")" else [said]
    if label and any(_same_text(options[label], form) or (same and same(options[label], form)) for form in forms):
        return label
    return None


def _run(text: str, answer: str, options: Mapping[str, str]) -> frozenset[str]:
    """The letters of `BC`, each once, from the options; small letters must be in alphabetical order."""
    run = text.upper()
    if not re.fullmatch(r"[A-Z]{2,8}", run) or len(set(run)) < len(run):
        return frozenset()
    if (run not in answer and list(run) != sorted(run)) or not (options or set(run) <= set("ABCDEFGHIJ")):
        return frozenset()
    return frozenset(run) if all(_known(letter, options) for letter in run) else frozenset()


def _same_text(option: str, text: str) -> bool:
    return option.casefold() == text.casefold()
