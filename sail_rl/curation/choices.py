"""Multiple-choice questions and their options, and the free-form questions that they become (against guessing)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from .outcome import Outcome, Row
from .prompts import normalised, question_of, with_text

_AT_LINE = re.compile(r"(?:^|\n)[ \t]*[(\[]?(?P<letter>[A-H])[)\].:：、][ \t]*(?P<text>\S[^\n]*?)[ \t]*(?=$|\n)")
_INLINE = re.compile(
    r"(?<=[\s,;:：?？.])[(\[]?(?P<letter>[A-H])[)\]][ \t]*(?P<text>\S[^\n]*?)[ \t]*(?=$|\n|[,;]?\s+[(\[]?[A-H][)\]])"
)
"""Options stand at the beginnings of lines, or, in brackets, behind a question: "point A." in a sentence is none."""
_HEADING = re.compile(r"\n?\s*(?:choices|options|选项)\s*[::]?\s*$", re.IGNORECASE)
_MATHEMATICAL = re.compile(r"[-+]?[\d.,]+(?:\s*[°%]|\s*[a-zA-Z]{1,4}[²³]?)?|[-+\d\sa-z()/*^.,=π√\\{}_]{1,40}")
_NEEDS_OPTIONS = re.compile(
    r"which (?:one )?(?:of|is|are|option|statement)|following|listed|closest|approximately which|下列|以下|哪(?:个|一)",
    re.IGNORECASE,
)

Rewrite = Callable[[list[Row]], list[tuple[str, str] | None]]
"""From multiple-choice rows (their `answer` is the text of the right option) to (question, answer), or None for
one that makes no sense without its options."""


def options_of(question: str) -> dict[str, str]:
    """A question's options by letter, in order; empty if there are no two that begin A, B, …"""
    return {match["letter"]: match["text"] for match in _options(question)}


def without_options(question: str) -> str:
    """The question before its options."""
    found = _options(question)
    return _HEADING.sub("", question[: found[0].start()] if found else question).strip()


def _options(question: str) -> list[re.Match[str]]:
    """The last run of marks A, B, … of one kind."""
    for pattern in (_AT_LINE, _INLINE):
        run: list[re.Match[str]] = []
        for match in pattern.finditer(question):
            if match["letter"] == "A":
                run = [match]
            elif run and match["letter"] == "ABCDEFGH"[len(run)]:
                run.append(match)
            else:
                run = []
        asked = bool(run) and (pattern is _AT_LINE or re.search(r"[?？:：.。]\s*$", question[: run[0].start()]))
        if len(run) > 1 and asked:
            return run
    return []


def is_mathematical(answer: str) -> bool:
    """Whether an answer is a number or an expression, which can be verified without options."""
    return bool(re.search(r"\d|[π√\\]", answer) and _MATHEMATICAL.fullmatch(answer.strip().strip("$").strip()))


def by_rule(rows: list[Row]) -> list[tuple[str, str] | None]:
    """`Rewrite` without a judge: the options are left out where the question doesn't speak of them."""
    questions = [without_options(question_of(row["prompt"])) for row in rows]
    return [
        None if not question or _NEEDS_OPTIONS.search(question) else (question, str(row["answer"]))
        for question, row in zip(questions, rows, strict=True)
    ]


def free_form(rows: Iterable[Row], *, rewrite: Rewrite = by_rule, drop_others: bool = False) -> Outcome:
    """Make free-form questions of multiple-choice ones whose right option is a number or an expression.

    Args:
        rows: any; those without options stay as they are.
        rewrite: makes questions; its answer must be the right option's text.
        drop_others: drop multiple-choice rows that can't be made free-form.
    """
    rows = list(rows)
    asked: dict[int, Row] = {}
    multiple: set[int] = set()
    for place, row in enumerate(rows):
        options = options_of(question_of(row["prompt"]))
        letter = str(row.get("answer", "")).strip().strip("().").upper()
        if not options:
            continue
        multiple.add(place)
        if letter in options and is_mathematical(options[letter]):
            asked[place] = row | {"answer": options[letter].strip().rstrip(".")}
    made = dict(zip(asked, rewrite(list(asked.values())), strict=True))
    outcome = Outcome()
    for place, row in enumerate(rows):
        new = made.get(place)
        if new and normalised(new[1]) == normalised(asked[place]["answer"]):
            prompt = _replaced(row["prompt"], new[0])
            outcome.keep(row, row | {"prompt": prompt, "answer": new[1]} | _without_letter(row))
        elif place in multiple and drop_others:
            outcome.drop(row, "multiple choice")
        else:
            outcome.keep(row, row)
    return outcome


def _replaced(prompt: object, question: str) -> object:
    """The prompt with this question in the first of its texts, and no others."""
    texts = iter([question])
    return with_text(prompt, lambda text: next(texts, "") if text.strip() else text)  # type: ignore[arg-type]


def _without_letter(row: Row) -> Row:
    """A completion that boxes a letter has nothing to say any more; it is left out."""
    return {"completion": None} if row.get("completion") else {}
