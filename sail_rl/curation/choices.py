"""Parses multiple-choice questions and turns them into free-form ones, which can't be guessed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from .outcome import Outcome, Row
from .prompts import normalised, question_of, with_text

_AT_LINE = re.compile(r"(?:^|\n)[ \t]*[(\[]?(?P<letter>[A-H])[)\].:：、][ \t]*(?P<text>\S[^\n]*?)[ \t]*(?=$|\n)")
_INLINE = re.compile(
    r"(?<=[\s,;:：?？.])[(\[]?(?P<letter>[A-H])[)\]][ \t]*(?P<text>\S[^\n]*?)[ \t]*(?=$|\n|[,;]?\s+[(\[]?[A-H][)\]])"
)
"""Options start lines, or stand in brackets behind a question; "point A." inside a sentence isn't an option."""
_HEADING = re.compile(r"\n?\s*(?:choices|options|选项)\s*[::]?\s*$", re.IGNORECASE)
_MATHEMATICAL = re.compile(r"[-+]?[\d.,]+(?:\s*[°%]|\s*[a-zA-Z]{1,4}[²³]?)?|[-+\d\sa-z()/*^.,=π√\\{}_]{1,40}")
_NEEDS_OPTIONS = re.compile(
    r"which (?:one )?(?:of|is|are|option|statement)|following|listed|closest|approximately which|下列|以下|哪(?:个|一)",
    re.IGNORECASE,
)

Rewrite = Callable[[list[Row]], list[tuple[str, str] | None]]
"""Maps multiple-choice rows, whose `answer` is the text of the right option, to (question, answer), or to None for a
question that makes no sense without its options."""


def options_of(question: str) -> dict[str, str]:
    """A question's options by letter, in order; empty unless it has at least two, lettered from A."""
    return {match["letter"]: match["text"] for match in _options(question)}


def without_options(question: str) -> str:
    """The question without its options."""
    found = _options(question)
    return _HEADING.sub("", question[: found[0].start()] if found else question).strip()


def _options(question: str) -> list[re.Match[str]]:
    """The last run of options A, B, … in one style."""
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
    """True if an answer is a number or an expression, which a rule can verify without the options."""
    return bool(re.search(r"\d|[π√\\]", answer) and _MATHEMATICAL.fullmatch(answer.strip().strip("$").strip()))


def by_rule(rows: list[Row]) -> list[tuple[str, str] | None]:
    """A `Rewrite` without a judge: removes the options from questions that don't refer to them."""
    questions = [without_options(question_of(row["prompt"])) for row in rows]
    return [
        None if not question or _NEEDS_OPTIONS.search(question) else (question, str(row["answer"]))
        for question, row in zip(questions, rows, strict=True)
    ]


def free_form(rows: Iterable[Row], *, rewrite: Rewrite = by_rule, drop_others: bool = False) -> Outcome:
    """Turn multiple-choice questions whose right option is a number or an expression into free-form questions.

    Args:
        rows: the rows; those without options stay unchanged.
        rewrite: rewrites questions; an answer that differs from the right option's text is discarded.
        drop_others: whether to drop multiple-choice rows that can't become free-form.
    """
    rows = list(rows)
    asked: dict[int, Row] = {}
    multiple: set[int] = set()
    for position, row in enumerate(rows):
        options = options_of(question_of(row["prompt"]))
        letter = str(row.get("answer", "")).strip().strip("().").upper()
        if not options:
            continue
        multiple.add(position)
        if letter in options and is_mathematical(options[letter]):
            asked[position] = row | {"answer": options[letter].strip().rstrip(".")}
    made = dict(zip(asked, rewrite(list(asked.values())), strict=True))
    outcome = Outcome()
    for position, row in enumerate(rows):
        new = made.get(position)
        if new and normalised(new[1]) == normalised(asked[position]["answer"]):
            prompt = _replaced(row["prompt"], new[0])
            outcome.keep(row, row | {"prompt": prompt, "answer": new[1]} | _without_letter(row))
        elif position in multiple and drop_others:
            outcome.drop(row, "multiple choice")
        else:
            outcome.keep(row, row)
    return outcome


def _replaced(prompt: object, question: str) -> object:
    """The prompt with this question as its first text, and without its other texts."""
    texts = iter([question])
    return with_text(prompt, lambda text: next(texts, "") if text.strip() else text)  # type: ignore[arg-type]


def _without_letter(row: Row) -> Row:
    """Remove the completion, whose boxed letter no longer has a meaning."""
    return {"completion": None} if row.get("completion") else {}
