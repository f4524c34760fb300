r"""The answer reward: 1 when the last `\boxed{}` after the thought equals the gold answer, else 0."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Sequence
from numbers import Number, Real
from typing import Any

from .equality import quick_equal
from .parsing import completion_text, final_answer
from .pool import VerificationPool

logger = logging.getLogger(__name__)


class MathAnswer:
    """A reward function with TRL's signature; `answer` is the dataset column of gold answers.

    Equal text and plain numbers are decided at once; everything else goes to math-verify in killable processes. An
    answer that takes longer than `timeout_s` seconds, or breaks its worker, counts 0, is logged, and is counted in
    `failures` ("timeout" or "error", since the start).

    Args:
        timeout_s: seconds that one answer may take.
        workers: verification processes.
    """

    def __init__(self, timeout_s: float = 2.0, workers: int = 2) -> None:
        self.pool = VerificationPool(timeout_s=timeout_s, workers=workers)
        self.failures: Counter[str] = Counter()

    def __call__(
        self, completions: Sequence[Any], answer: Sequence[Any], *, prefilled: bool = False, **_: Any
    ) -> list[float]:
        """Score completions (strings or conversations) against gold answers (strings or finite numbers).

        Args:
            completions: what was sampled, one for each gold answer.
            answer: the gold answers.
            prefilled: the chat template has written `<think>` already: without a `</think>` there is no answer.

        Raises:
            ValueError: for a gold answer that is missing, or is neither text nor a finite number.
        """
        given = [final_answer(completion_text(completion), prefilled=prefilled) for completion in completions]
        gold = [_gold(index, value) for index, value in enumerate(answer)]
        equal = [text is not None and quick_equal(right, text) for right, text in zip(gold, given, strict=True)]
        undecided = [index for index, verdict in enumerate(equal) if verdict is None]
        verdicts = self.pool.verify([(gold[index], str(given[index])) for index in undecided])
        for index, verdict in zip(undecided, verdicts, strict=True):
            if verdict.status != "ok":
                self.failures[verdict.status] += 1
                shown = str(given[index])[:80]
                logger.warning("answer %r counts as wrong: %s (%s)", shown, verdict.status, verdict.message)
            equal[index] = verdict.equal
        return [float(bool(verdict)) for verdict in equal]

    def close(self) -> None:
        """End the verification processes; they start again with the next answer that needs them."""
        self.pool.close()


def _gold(index: int, value: Any) -> str:
    text = str(value).strip() if isinstance(value, (str, Number)) else ""
    if not text or (isinstance(value, Real) and not math.isfinite(value)):
        raise ValueError(
            f"answer of sample {index} is {value!r}: every row needs a gold answer, text or a finite number, for this "
            "reward"
        )
    return text


math_answer = MathAnswer()
"""The reward with its defaults; for others a recipe names the class, `rewards.answer:MathAnswer`, with kwargs."""
