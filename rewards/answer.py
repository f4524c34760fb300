r"""The answer reward: compares the last `\boxed{}` after the thought with the gold answer."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from sail_rl.completion import Prefilled, completion_text, each_prefilled, final_answer

from .combine.score import Score
from .process.handle import Target
from .process.pool import WorkerPool
from .verify import choice, equality, grounding, lists, ocr, quantity, words

logger = logging.getLogger(__name__)
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verifier:
    """The rules for one kind of answer.

    `check(gold, row)` raises ValueError for an unusable gold answer. `score(gold, given, row)` compares the two answers
    and returns None where sympy must decide.
    """

    check: Callable[[Any, Row], None]
    score: Callable[[Any, str, Row], float | None]


VERIFIERS = {
    "math": Verifier(equality.check, equality.score),
    "choice": Verifier(choice.check, choice.score),
    "number": Verifier(quantity.check, quantity.score),
    "count": Verifier(words.check_count, words.score_count),
    "text": Verifier(words.check, words.score),
    "ocr": Verifier(ocr.check, ocr.score),
    "edit": Verifier(ocr.check, ocr.score_edit),
    "boxes": Verifier(grounding.check, grounding.score),
    "iou": Verifier(grounding.check, grounding.score_overlap),
    "list": Verifier(lists.check, lists.score_ordered),
    "set": Verifier(lists.check, lists.score_set),
}


class Answer:
    """A reward function with TRL's signature; `answer` is the dataset column of gold answers.

    The column `answer_type` names a row's verifier, one of VERIFIERS; the default is `kind`. Answers that no rule
    decides go to math-verify in killable processes. An answer that takes longer than `timeout_s`, or crashes its
    worker, scores 0; it is logged and appears in the metrics.

    Args:
        kind: the verifier of rows that don't name one.
        timeout_s: the time limit for one answer in seconds.
        batch_timeout_s: the time limit for all answers of a call in seconds.
        workers: the number of verification processes.
    """

    def __init__(
        self, kind: str = "math", *, timeout_s: float = 2.0, batch_timeout_s: float = 600.0, workers: int = 2
    ) -> None:
        _verifier(kind)
        self.kind = kind
        self.pool = WorkerPool(
            Target("rewards.verify.equality:SymbolicEquality"),
            timeout_s=timeout_s,
            batch_timeout_s=batch_timeout_s,
            workers=workers,
        )
        self.failures: Counter[str] = Counter()

    def __call__(
        self, completions: Sequence[Any], answer: Sequence[Any], *, prefilled: Prefilled = False, **columns: Any
    ) -> list[float]:
        """Score completions (strings or conversations) against gold answers.

        Args:
            completions: the sampled completions, one for each gold answer.
            answer: the gold answers: text, finite numbers, or lists of these.
            prefilled: see `Prefilled`; such a completion without `</think>` has no answer.
            columns: `answer_type`, and the columns that its verifier reads: `options`, `tolerance`, `iou_threshold`.

        Raises:
            ValueError: if a gold answer is missing, or is neither text nor a finite number.
        """
        inside = each_prefilled(prefilled, len(completions))
        scores: list[float] = [0.0] * len(completions)
        undecided: dict[int, tuple[str, str]] = {}
        for index, (completion, gold) in enumerate(zip(completions, answer, strict=True)):
            row = {name: values[index] for name, values in columns.items() if isinstance(values, Sequence)}
            verifier = _verifier(row.get("answer_type") or self.kind)
            _check_present(f"answer of sample {index}", gold)
            given = final_answer(completion_text(completion), prefilled=inside[index])
            score = verifier.score(gold, given, row) if given else 0.0
            if score is None:
                undecided[index] = (str(gold).strip(), str(given))
            else:
                scores[index] = score
        for index, result in zip(undecided, self.pool.run(list(undecided.values())), strict=True):
            if result.status != "ok":
                self.failures[result.status] += 1
                shown = undecided[index][1][:80]
                logger.warning("answer %r scores 0: %s (%s)", shown, result.status, result.message)
            value = float(bool(result.value))
            scores[index] = Score(value, status=result.status, seconds=result.seconds, cached=result.cached)
        return scores

    def check_gold(self, answer: Any, *, answer_type: str | None = None, **columns: Any) -> None:
        """Raise ValueError for a gold answer that its verifier can't use."""
        _check_present("the gold answer", answer)
        kind = answer_type or self.kind
        _verifier(kind).check(answer, columns)
        if kind == "math" and not equality.understood(text := str(answer).strip()):
            result = self.pool.run([(text, None)])[0]
            if not result.value:
                why = f" ({result.message})" if result.message else ""
                raise ValueError(
                    f"the gold answer {text!r} can't be parsed as mathematics{why}; for words set answer_type: text"
                )

    def close(self) -> None:
        """Stop the verification processes; the next answer that needs them starts new ones."""
        self.pool.close()


def _verifier(kind: str) -> Verifier:
    if kind not in VERIFIERS:
        raise ValueError(f"no verifier is called {kind!r}; the verifiers are {', '.join(VERIFIERS)}")
    return VERIFIERS[kind]


def _check_present(what: str, gold: Any) -> None:
    parts = gold if isinstance(gold, list | tuple) and gold else [gold]
    for part in parts:
        if isinstance(part, list | tuple) and part:
            _check_present(what, part)
        elif (
            not isinstance(part, str | Real)
            or not str(part).strip()
            or (isinstance(part, Real) and not math.isfinite(part))
        ):
            raise ValueError(
                f"{what} is {gold!r}: every row needs a gold answer, text or a finite number, for this reward"
            )


math_answer = Answer()
"""The reward with its defaults. For other settings, name the class `rewards.answer:Answer` and its kwargs."""
