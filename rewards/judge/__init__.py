"""Rewards by judges, models behind an OpenAI-compatible endpoint: for the answer, the thought, and whether to think.

SAIL-RL's dual reward (arXiv 2511.02280) combines their product, `R_judge · R_think · R_answer`, with the format reward.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from rewards.combine.score import Score
from sail_rl.completion import Parsed, Prefilled, boxes, parse_all
from sail_rl.endpoint.client import JudgeClient
from sail_rl.endpoint.errors import JudgeError
from sail_rl.endpoint.images import Picture
from sail_rl.endpoint.replies import Verdict
from sail_rl.endpoint.requests import Request, question_text
from sail_rl.endpoint.settings import JudgeSettings

from . import prompts
from .prompts import read_template
from .verdicts import AnswerVerdict, ComplexityVerdict, ThinkVerdict

logger = logging.getLogger(__name__)

Case = Request | float | None
"""The request about a completion, or its score if that needs no judge; None if the reward doesn't apply."""


class _Judge:
    """The base of all judges: settings, requests, scores and metrics.

    Args:
        template: a text file with instructions that replace the judge's own.
        settings: the fields of `JudgeSettings`; `base_url` and `model` are required.

    Attributes:
        verdicts: the verdict on each completion of the last batch; None if the judge returned none or wasn't asked.

    Raises:
        ValueError: for invalid settings, before any request is sent.
    """

    call_order: ClassVar[float]
    """Judges are called after rules, in ascending order, and only where the total still depends on them."""
    verdict: ClassVar[type[Verdict]]
    instructions: str

    def __init__(self, *, template: str | Path | None = None, **settings: Any) -> None:
        self.settings = JudgeSettings(**settings)
        self.client = JudgeClient(self.settings)
        self.verdicts: list[Verdict | None] = []
        self._ones: Counter[str] = Counter()
        self._verdicts_given = 0
        if template is not None:
            self.instructions = read_template(template)

    def metrics(self) -> dict[str, float]:
        """Totals since the start: calls, retries, failures, tokens, cost, latency, and each verdict's share of 1."""
        table = self.client.metrics.table(self.settings.prompt_price, self.settings.completion_price)
        if self._verdicts_given:
            names = self.verdict.model_fields
            table |= {f"verdict_{name}": self._ones[name] / self._verdicts_given for name in names}
        return table

    def close(self) -> None:
        """Log the judge's metrics; connections are closed after every batch."""
        if self.client.metrics.requests:
            numbers = ", ".join(f"{name} {value:.6g}" for name, value in self.metrics().items())
            logger.info("%s, model %s: %s", type(self).__name__, self.settings.model, numbers)

    def _pictures(self, images: Sequence[Any] | None, count: int) -> list[tuple[Picture, ...]]:
        """The pictures of each completion; completions of one prompt share theirs, which are encoded once."""
        known: dict[int, Picture] = {}
        rows = [row or [] for row in images] if images is not None else [[]] * count
        for row in rows:
            for image in row:
                if id(image) not in known:
                    known[id(image)] = Picture(image, self.settings.max_image_side)
        return [tuple(known[id(image)] for image in row) for row in rows]

    async def _scores(self, cases: Sequence[Case], value: Callable[[int, Any], float]) -> list[float | None]:
        """The score of each case: the known one, `value(index, verdict)`, or the one that `on_failure` sets."""
        asked = [case for case in cases if isinstance(case, Request)]
        outcomes = iter(await self.client.ask(asked) if asked else [])
        scores: list[float | None] = []
        self.verdicts = []
        failures: list[JudgeError] = []
        for index, case in enumerate(cases):
            outcome = next(outcomes) if isinstance(case, Request) else case
            self.verdicts.append(outcome if isinstance(outcome, Verdict) else None)
            if isinstance(outcome, Verdict):
                scores.append(value(index, outcome))
            elif isinstance(outcome, JudgeError):
                failures.append(outcome)
                scores.append(Score(0.0, status="error") if self.settings.on_failure == "zero" else None)
            else:
                scores.append(outcome)
        if failures:
            worth = self.settings.on_failure
            logger.warning("%d of %d completions score %s: %s", len(failures), len(cases), worth, failures[-1])
        for verdict in filter(None, self.verdicts):
            self._verdicts_given += 1
            self._ones.update({name: int(value) for name, value in verdict.model_dump().items()})
        return scores


class AnswerJudge(_Judge):
    r"""Scores 1 if a free-form answer is right, else 0.

    The judge sees the question's text, the gold answer (column `answer`) and the content of the last `\boxed{}` after
    the thought, but no images. A completion without such an answer scores 0 without a call.
    """

    call_order = 1.0
    verdict = AnswerVerdict
    instructions = prompts.ANSWER

    async def __call__(
        self,
        completions: Sequence[Any],
        prompts: Sequence[Any],
        answer: Sequence[Any],
        *,
        prefilled: Prefilled = False,
        **_: Any,
    ) -> list[float | None]:
        """Score completions against their gold answers.

        Raises:
            ValueError: if a gold answer is missing.
            JudgeError, JudgeRefusedError: see `JudgeClient.ask`.
        """
        cases: list[Case] = []
        for index, (parsed, prompt, gold) in enumerate(
            zip(parse_all(completions, prefilled), prompts, answer, strict=True)
        ):
            try:
                self.check_gold(gold)
            except ValueError as error:
                raise ValueError(f"answer of sample {index}: {error}") from None
            given = (boxes(parsed.answer or "") or [""])[-1]
            data = {"question": question_text(prompt), "reference_answer": str(gold), "answer": given}
            cases.append(Request(self.instructions, data, self.verdict) if given else 0.0)
        return await self._scores(cases, lambda _, verdict: float(verdict.correct))

    @staticmethod
    def check_gold(answer: Any, **_: Any) -> None:
        """Raise ValueError for a missing gold answer."""
        if answer is None or not str(answer).strip():
            raise ValueError(f"the gold answer is {answer!r}: every row needs a gold answer for this reward")


class _SightedJudge(_Judge):
    """The base of judges that see a completion's images."""

    async def __call__(
        self,
        completions: Sequence[Any],
        prompts: Sequence[Any],
        images: Sequence[Any] | None = None,
        *,
        prefilled: Prefilled = False,
        **_: Any,
    ) -> list[float | None]:
        """Score completions.

        Raises:
            JudgeError, JudgeRefusedError: see `JudgeClient.ask`.
        """
        parsed = parse_all(completions, prefilled)
        shown = self._pictures(images, len(completions))
        cases = [self._case(*given) for given in zip(parsed, prompts, shown, strict=True)]
        return await self._scores(cases, lambda index, verdict: self._value(parsed[index], verdict))

    def _case(self, parsed: Parsed, prompt: Any, pictures: tuple[Picture, ...]) -> Case:
        raise NotImplementedError

    def _value(self, parsed: Parsed, verdict: Any) -> float:
        raise NotImplementedError


class ThinkJudge(_SightedJudge):
    """Scores whether the thought is sound, as the mean of three verdicts of 0 or 1 (SAIL-RL's thinking reward).

    One call asks for logical coherence, factual grounding (in the images, the text and general knowledge) and the
    consistency of the answer with the thought. `verdicts` and `metrics()` show each of them.

    The score is None without a thought. It is 0, without a call, if the thought never ends or no answer follows it.
    """

    call_order = 3.0
    verdict = ThinkVerdict
    instructions = prompts.THINK

    def _case(self, parsed: Parsed, prompt: Any, pictures: tuple[Picture, ...]) -> Case:
        if not parsed.thought:
            return None
        if not parsed.answer:
            return 0.0
        data = {"question": question_text(prompt), "reasoning": parsed.thought, "answer": parsed.answer}
        return Request(self.instructions, data, self.verdict, pictures)

    def _value(self, parsed: Parsed, verdict: ThinkVerdict) -> float:
        return verdict.mean


class WhenToThinkJudge(_SightedJudge):
    """Scores 1 if the completion thought exactly when its question needs thinking, else 0 (SAIL-RL's judging reward).

    The judge decides from the question's text and images alone whether it needs thinking. A completion has thought if
    its thought isn't empty, finished or not. No sampled text can therefore sway the judge, exactly one of the two
    decisions is right, and one request serves all completions of a question.
    """

    call_order = 2.0
    verdict = ComplexityVerdict
    instructions = prompts.WHEN_TO_THINK

    def _case(self, parsed: Parsed, prompt: Any, pictures: tuple[Picture, ...]) -> Case:
        return Request(self.instructions, {"question": question_text(prompt)}, self.verdict, pictures)

    def _value(self, parsed: Parsed, verdict: ComplexityVerdict) -> float:
        return float(verdict.needs_thinking == bool(parsed.thought))
