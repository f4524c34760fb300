"""Steps that ask a model: shorter answers, the quality of captions, thoughts that lead to a known answer.

Each takes a function that asks; what it is, a judge behind an endpoint or a rollout engine, doesn't matter here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from .completions import written
from .outcome import Outcome, Row
from .reading import tokens_of

Shorten = Callable[[Sequence[Row]], list[str | None]]
"""Short forms of the rows' answers; None: no judge gave one."""
Rate = Callable[[Sequence[Row]], list[tuple[int, int] | None]]
"""(visual information richness, image-text alignment) of the rows' captions, 1 to 5; None: no judge gave them."""
Think = Callable[[Sequence[Row]], list[str | None]]
"""A thought for each row, from its question and its answer; None: there is none."""


def distill_answers(rows: Sequence[Row], shorten: Shorten, *, longest: int = 10) -> Outcome:
    """Replace verbose gold answers by short ones; a row whose answer stays verbose goes.

    Args:
        rows: with an `answer`.
        shorten: makes them short.
        longest: tokens that an answer may have.
    """
    verbose = [row for row in rows if len(tokens_of(str(row["answer"]))) > longest]
    short = {row["id"]: answer for row, answer in zip(verbose, shorten(verbose), strict=True)}
    outcome = Outcome()
    for row in rows:
        answer = short.get(row["id"], row["answer"])
        if answer is None or not str(answer).strip():
            outcome.drop(row, "no short answer")
        elif len(tokens_of(str(answer))) > longest:
            outcome.drop(row, "answer still verbose")
        else:
            outcome.keep(row, row | {"answer": answer})
    return outcome


def caption_quality(rows: Sequence[Row], rate: Rate, *, least: int = 3) -> Outcome:
    """Drop rows whose caption (`completion`) is poor in what it shows of the picture, or doesn't fit it (SAIL-VL).

    The scores stay in the columns `richness` and `alignment`. A row that no judge rated goes.
    """
    captioned = [row for row in rows if row.get("completion")]
    rated = {row["id"]: scores for row, scores in zip(captioned, rate(captioned), strict=True)}
    outcome = Outcome()
    for row in rows:
        scores = rated.get(row["id"])
        if scores is None:
            outcome.drop(row, "not rated" if row["id"] in rated else "no caption")
        elif min(scores) < least:
            outcome.drop(row, f"richness below {least}" if scores[0] < least else f"alignment below {least}")
        else:
            outcome.keep(row, row | {"richness": scores[0], "alignment": scores[1]})
    return outcome


def guide(rows: Sequence[Row], think: Think, *, again: bool = False) -> Outcome:
    r"""Give every row a thought that leads to its gold answer (guided prompting), as its completion.

    Args:
        rows: with an `answer`.
        think: writes thoughts.
        again: also for rows that have a completion.
    """
    missing = [row for row in rows if again or not row.get("completion")]
    thoughts = {row["id"]: thought for row, thought in zip(missing, think(missing), strict=True)}
    outcome = Outcome()
    for row in rows:
        if row["id"] not in thoughts:
            outcome.keep(row, row)
        elif not (thought := (thoughts[row["id"]] or "").strip()):
            outcome.drop(row, "no thought was written")
        elif leak := told(thought):
            outcome.drop(row, f"thought speaks of {leak}")
        else:
            outcome.keep(row, row | {"completion": written(thought, f"\\boxed{{{row['answer']}}}")})
    return outcome


GIVEN_AWAY = (
    "reference answer",
    "given answer",
    "ground truth",
    "provided answer",
    "gold answer",
    "参考答案",
    "标准答案",
)


def told(thought: str) -> str | None:
    """The words by which a thought gives away that it knew the answer, if there are any."""
    text = re.sub(r"given answer (?:choices|options)", "", thought.casefold())
    return next((words for words in GIVEN_AWAY if words in text), None)
