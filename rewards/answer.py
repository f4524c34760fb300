r"""The answer reward: compares the last `\boxed{}` after the thought with the gold answer."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from sail_rl.completion import Prefilled, completion_text, each_prefilled, final_answer

from .combine.score import Score
from .process.verification import Verification
from .verify import equality
from .verify.verifiers import columns_read, longest_answer, verifier_of

logger = logging.getLogger(__name__)


class Answer:
    """A reward function with TRL's signature; `answer` is the dataset column of gold answers.

    The column `answer_type` names a row's verifier, one of VERIFIERS; the default is `kind`. Answers are compared in
    killable processes, which all rewards share. An answer that takes longer than `timeout_s`, needs more memory than
    `memory_gib` or crashes its worker scores 0, and so does one that is longer than `longest_answer`, or, if only
    sympy can decide, than `longest_symbolic_answer`. These are logged and appear in the metrics.

    Args:
        kind: the verifier of rows that don't name one.
        timeout_s: the time limit for one answer in seconds.
        batch_timeout_s: the time limit for all answers of a call in seconds.
        memory_gib: the address space of each verification process in GiB.
        workers: the number of verification processes.
    """

    def __init__(
        self,
        kind: str = "math",
        *,
        timeout_s: float = 2.0,
        batch_timeout_s: float = 600.0,
        memory_gib: float = 1.0,
        workers: int = 2,
    ) -> None:
        verifier_of(kind)
        self.kind = kind
        self.verification = Verification(
            timeout_s=timeout_s, batch_timeout_s=batch_timeout_s, memory_gib=memory_gib, workers=workers
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
        kinds = columns.get("answer_type") or [None] * len(completions)
        scores: list[float] = [0.0] * len(completions)
        asked: dict[int, tuple[Any, ...]] = {}
        for index, (completion, gold) in enumerate(zip(completions, answer, strict=True)):
            kind = kinds[index] or self.kind
            row = columns_read(verifier_of(kind), columns, index)
            _check_present(f"answer of sample {index}", gold)
            given = final_answer(completion_text(completion), prefilled=inside[index])
            if given and len(given) > longest_answer(gold, row):
                scores[index] = Score(0.0, status="too_long")
            elif given:
                asked[index] = kind, gold, given, row
        results = self.verification.scores(list(asked.values()))
        for index, result in zip(asked, results, strict=True):
            scores[index] = Score(result.value or 0.0, result.status, seconds=result.seconds, cached=result.cached)
        self._report(scores, {index: result.message for index, result in zip(asked, results, strict=True)})
        return scores

    def _report(self, scores: Sequence[float], messages: Mapping[int, str]) -> None:
        """Count and log the answers that score 0 because they couldn't be checked."""
        failed = {
            n: score.status for n, score in enumerate(scores) if isinstance(score, Score) and score.status != "ok"
        }
        counts = Counter(failed.values())
        self.failures += counts
        for status, count in counts.items():
            first = next(index for index in failed if failed[index] == status)
            why = messages.get(first) or "longer than any form of its gold answer"
            logger.warning("%d answer(s) score 0: %s (the first, sample %d: %s)", count, status, first, why)

    def check_gold(self, answer: Any, *, answer_type: str | None = None, **columns: Any) -> None:
        """Raise ValueError for a gold answer that its verifier can't use."""
        _check_present("the gold answer", answer)
        kind = answer_type or self.kind
        verifier_of(kind).check(answer, columns)
        if kind == "math" and not equality.understood(text := str(answer).strip()):
            result = self.verification.ask([("symbolic", text, None)])[0]
            if not result.value:
                why = f" ({result.message})" if result.message else ""
                raise ValueError(
                    f"the gold answer {text!r} can't be parsed as mathematics{why}; for words set answer_type: text"
                )

    def close(self) -> None:
        """Stop the verification processes; the next answer starts new ones."""
        self.verification.close()


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
