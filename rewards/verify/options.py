"""The verifier of multiple choice: letters, or the texts of options in any notation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sail_rl.completion import completion_text

from .choice import labelled, letters, read_options
from .latex import normalise
from .lists import same_item

_ALL = ("all of the above", "all the above", "all of these", "all of them", "以上都对", "以上都是", "以上皆是")
_NONE = ("none of the above", "none of these", "none of them", "以上都不对", "以上都不是", "以上皆非")
_ABOVE = dict.fromkeys(_ALL, "all") | dict.fromkeys(_NONE, "none")


def options_of(row: Mapping[str, Any]) -> dict[str, str]:
    """The normalised options by letter: the row's `options` (a list or a mapping), or those in its prompt."""
    given = row.get("options")
    if isinstance(given, Mapping):
        return {str(letter).upper(): normalise(str(text)) for letter, text in given.items() if text is not None}
    if given:
        return labelled(given)
    prompt = row.get("prompts") or row.get("prompt")
    return read_options(completion_text(prompt)) if prompt else {}


def chosen(answer: Any, options: Mapping[str, str]) -> frozenset[str]:
    """The options that an answer chooses; empty if that is unclear. See `choice.letters`."""
    text = ", ".join(map(str, answer)) if isinstance(answer, list | tuple) else str(answer)
    return letters(text, options, _same)


def check(gold: Any, row: Mapping[str, Any]) -> None:
    """Raise ValueError for a gold answer that is neither an option's letter nor its text."""
    options = options_of(row)
    if not chosen(gold, options):
        raise ValueError(
            f"the gold answer {gold!r} is neither a letter nor the text of one of {list(options.values())}"
        )


def score(gold: Any, given: str, row: Mapping[str, Any]) -> float:
    """1 if the answer chooses exactly the right options, else 0. If the gold answer is unusable, no answer is right."""
    options = options_of(row)
    right = chosen(gold, options)
    return float(bool(right) and chosen(given, options) == right)


def _same(option: str, text: str) -> bool:
    """Whether two texts say the same: as mathematics, in VQA's normal form, or as "all" and "none of the above"."""
    if _ABOVE.get(option.casefold(), option) == _ABOVE.get(text.casefold(), text):
        return True
    return same_item(option, text) is True
