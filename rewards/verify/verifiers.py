"""The table of verifiers by `answer_type`, and the length from which on an answer is wrong at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sail_rl.completion import completion_text

from . import equality, grounding, lists, ocr, options, quantity, words

Row = Mapping[str, Any]
SPARE_LENGTH, SPARE_SYMBOLIC_LENGTH = 1000, 200  # characters
LENGTH_FACTOR = 10


@dataclass(frozen=True, slots=True)
class Verifier:
    """The rules for one kind of answer.

    `check(gold, row)` raises ValueError for an unusable gold answer. `score(gold, given, row)` compares the two answers
    and returns None where sympy must decide. `columns` names the columns that `score` may read.
    """

    check: Callable[[Any, Row], None]
    score: Callable[[Any, str, Row], float | None]
    columns: tuple[str, ...] = ()


VERIFIERS = {
    "math": Verifier(equality.check, equality.score),
    "choice": Verifier(options.check, options.score, ("options", "prompts")),
    "number": Verifier(quantity.check, quantity.score, ("tolerance",)),
    "count": Verifier(words.check_count, words.score_count),
    "text": Verifier(words.check, words.score),
    "ocr": Verifier(ocr.check, ocr.score),
    "edit": Verifier(ocr.check, ocr.score_edit),
    "boxes": Verifier(grounding.check, grounding.score, ("iou_threshold",)),
    "iou": Verifier(grounding.check, grounding.score_overlap),
    "list": Verifier(lists.check, lists.score_ordered),
    "set": Verifier(lists.check, lists.score_set),
}


def verifier_of(kind: str) -> Verifier:
    """The verifier of an `answer_type`; ValueError if there is none of this name."""
    if kind not in VERIFIERS:
        raise ValueError(f"no verifier is called {kind!r}; the verifiers are {', '.join(VERIFIERS)}")
    return VERIFIERS[kind]


def columns_read(verifier: Verifier, columns: Mapping[str, Any], index: int) -> dict[str, Any]:
    """The values of row `index` that the verifier reads, small enough to send: of a prompt, the text, if any is needed.

    A prompt is only read for its options, so a row with `options` leaves it out.
    """
    row = {name: columns[name][index] for name in verifier.columns if columns.get(name) is not None}
    prompt = row.pop("prompts", None)
    if prompt and not row.get("options"):
        row["prompts"] = completion_text(prompt)
    return {name: value for name, value in row.items() if value is not None}


def longest_answer(gold: Any, row: Row) -> int:
    """The length in characters above which an answer is wrong at once: no form of the gold answer is so long.

    It is 1,000 plus 10 times the length of the gold answer, with its options or the prompt that has them.
    """
    options = row.get("options") or row.get("prompts") or ""
    return SPARE_LENGTH + LENGTH_FACTOR * (len(str(gold)) + len(str(options)))


def longest_symbolic_answer(gold: str) -> int:
    """The length in characters above which sympy, whose time grows fast, isn't asked: 200 + 10 x the gold one."""
    return SPARE_SYMBOLIC_LENGTH + LENGTH_FACTOR * len(gold)
