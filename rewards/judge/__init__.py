"""Rewards given by a judge, a model behind an OpenAI-compatible endpoint: the answer, the thought, whether to think.

SAIL-RL's dual reward (arXiv 2511.02280) is the product of the three, `R_judge · R_think · R_answer`, with the format.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from rewards.combine.score import Score
from sail_rl.completion import Parsed, boxes, completion_text, split_thought
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

Prefilled = bool | Sequence[bool]
Case = Request | float | None
"""What is to be asked about a completion, or its score (None: doesn't apply) where that is known without a judge."""


class _Judge:
    """What the judges share: settings, asking, scores, metrics.

    Args:
        template: text file with instructions in place of the judge's own.
        settings: the fields of `JudgeSettings`; `base_url` and `model` are required.

    Attributes:
        verdicts: the verdict on each completion of the last batch; None where the judge gave none or wasn't asked.

    Raises:
        ValueError: for settings that can't work, before anything is sent.
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
        """Numbers since the start: calls, retries, failures, tokens, cost, latency, the share of 1 in each verdict."""
        table = self.client.metrics.table(self.settings.prompt_price, self.settings.completion_price)
        if self._verdicts_given:
            names = self.verdict.model_fields
            table |= {f"verdict_{name}": self._ones[name] / self._verdicts_given for name in names}
        return table

    def close(self) -> None:
        """Log what the judge has cost; connections are closed after every batch anyway."""
        if self.client.metrics.requests:
            numbers = ", ".join(f"{name} {value:.6g}" for name, value in self.metrics().items())
            logger.info("%s, model %s: %s", type(self).__name__, self.settings.model, numbers)

    def _parsed(self, completions: Sequence[Any], prefilled: Prefilled) -> list[Parsed]:
        """Completions split; `prefilled`: those that start inside the thought, as the chat template has opened it."""
        inside = [prefilled] * len(completions) if isinstance(prefilled, bool) else prefilled
        texts = map(completion_text, completions)
        return [split_thought(text, prefilled=within) for text, within in zip(texts, inside, strict=True)]

    def _pictures(self, images: Sequence[Any] | None, count: int) -> list[tuple[Picture, ...]]:
        """The pictures of each completion; those of completions of one prompt are digested and encoded once."""
        known: dict[int, Picture] = {}
        rows = [row or [] for row in images] if images is not None else [[]] * count
        for row in rows:
            for image in row:
                if id(image) not in known:
                    known[id(image)] = Picture(image, self.settings.max_image_side)
        return [tuple(known[id(image)] for image in row) for row in rows]

    async def _scores(self, cases: Sequence[Case], value: Callable[[int, Any], float]) -> list[float | None]:
        """The score of each case: known, or `value(index, verdict)`, or what `on_failure` says."""
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
            logger.warning("%d of %d completions count %s: %s", len(failures), len(cases), worth, failures[-1])
        for verdict in filter(None, self.verdicts):
            self._verdicts_given += 1
            self._ones.update({name: int(value) for name, value in verdict.model_dump().items()})
        return scores


class AnswerJudge(_Judge):
    r"""Is a free-form answer right? 1 or 0.

    The judge sees the question's text, the gold answer (column `answer`) and what the last `\boxed{}` after the thought
    holds, and none of the images. A completion without such an answer has 0 and costs no call.
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
            ValueError: for a gold answer that is missing.
            JudgeError, JudgeRefusedError: see `JudgeClient.ask`.
        """
        cases: list[Case] = []
        for index, (parsed, prompt, gold) in enumerate(
            zip(self._parsed(completions, prefilled), prompts, answer, strict=True)
        ):
            try:
                self.check_gold(gold)
            except ValueError as error:
                raise ValueError(f"answer of sample {index}: {error}") from None
            found = [box for box in boxes(parsed.answer or "")[-1:] if box]
            data = {"question": question_text(prompt), "reference_answer": str(gold), "answer": "".join(found)}
            cases.append(Request(self.instructions, data, self.verdict) if found else 0.0)
        return await self._scores(cases, lambda _, verdict: float(verdict.correct))

    @staticmethod
    def check_gold(answer: Any, **_: Any) -> None:
        """Raise ValueError for a gold answer that a judge can't compare with."""
        if answer is None or not str(answer).strip():
            raise ValueError(f"{answer!r} is no gold answer: every row needs one for this reward")


class ThinkJudge(_Judge):
    """Is the thought sound? Mean of three verdicts, each 0 or 1 (SAIL-RL's thinking reward).

    Logical coherence, factual grounding (in the images, then the text, then what is generally known) and consistency of
    the answer with the thought, all from one call. `verdicts` and `metrics()` show them singly.

    None without a thought: there is nothing to judge. 0 without a call for a thought that never ends, or that no answer
    follows.
    """

    call_order = 3.0
    verdict = ThinkVerdict
    instructions = prompts.THINK

    async def __call__(
        self,
        completions: Sequence[Any],
        prompts: Sequence[Any],
        images: Sequence[Any] | None = None,
        *,
        prefilled: Prefilled = False,
        **_: Any,
    ) -> list[float | None]:
        """Score the thoughts of completions.

        Raises:
            JudgeError, JudgeRefusedError: see `JudgeClient.ask`.
        """
        pictures = self._pictures(images, len(completions))
        cases = [
            self._case(parsed, prompt, shown)
            for parsed, prompt, shown in zip(self._parsed(completions, prefilled), prompts, pictures, strict=True)
        ]
        return await self._scores(cases, lambda _, verdict: verdict.mean)

    def _case(self, parsed: Parsed, prompt: Any, pictures: tuple[Picture, ...]) -> Case:
        if not parsed.thought:
            return None
        if not parsed.answer:
            return 0.0
        data = {"question": question_text(prompt), "reasoning": parsed.thought, "answer": parsed.answer}
        return Request(self.instructions, data, self.verdict, pictures)


class WhenToThinkJudge(_Judge):
    """Was it right to think, or not to, for a question this hard? 1 or 0 (SAIL-RL's judging reward).

    The judge says whether the question needs thinking, from its text and images alone; the score is whether the
    completion did so (a thought that isn't empty, finished or not). So no sampled text can sway it, exactly one of the
    two decisions is right, and a question is asked about once, however many completions it has.
    """

    call_order = 2.0
    verdict = ComplexityVerdict
    instructions = prompts.WHEN_TO_THINK

    async def __call__(
        self,
        completions: Sequence[Any],
        prompts: Sequence[Any],
        images: Sequence[Any] | None = None,
        *,
        prefilled: Prefilled = False,
        **_: Any,
    ) -> list[float | None]:
        """Score the decisions of completions.

        Raises:
            JudgeError, JudgeRefusedError: see `JudgeClient.ask`.
        """
        cases: list[Case] = [
            Request(self.instructions, {"question": question_text(prompt)}, self.verdict, shown)
            for prompt, shown in zip(prompts, self._pictures(images, len(completions)), strict=True)
        ]
        thought = [bool(parsed.thought) for parsed in self._parsed(completions, prefilled)]
        return await self._scores(cases, lambda index, verdict: float(verdict.needs_thinking == thought[index]))
