"""Steps that ask a model: to shorten answers, rate captions, or write thoughts that lead to a known answer.

Each step takes a function that asks the model, which may be a judge behind an endpoint or a rollout engine.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from .completions import written
from .outcome import Outcome, Row
from .reading import tokens_of

Shorten = Callable[[Sequence[Row]], list[str | None]]
"""Maps rows to short forms of their answers, or to None without a verdict."""
Rate = Callable[[Sequence[Row]], list[tuple[int, int] | None]]
"""Maps rows to (visual information richness, image-text alignment) of their captions, from 1 to 5, or to None."""
Think = Callable[[Sequence[Row]], list[str | None]]
"""Maps rows to thoughts that lead from their questions to their answers, or to None."""


def distill_answers(rows: Sequence[Row], shorten: Shorten, *, longest: int = 10) -> Outcome:
    """Replace verbose gold answers by short ones, and drop rows whose answer stays verbose.

    Args:
        rows: rows with an `answer`.
        shorten: shortens the answers.
        longest: the longest allowed answer in tokens.
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
    """Drop rows whose caption (`completion`) says little about the picture, or doesn't match it (SAIL-VL).

    The ratings stay in the columns `richness` and `alignment`. Rows without a rating are dropped.
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
        rows: rows with an `answer`.
        think: writes the thoughts.
        again: whether to replace existing completions, too.
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
    """The words by which a thought reveals that it knew the answer, or None."""
    text = re.sub(r"given answer (?:choices|options)", "", thought.casefold())
    return next((words for words in GIVEN_AWAY if words in text), None)
