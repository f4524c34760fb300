"""A judge for data: shortens answers, makes questions free-form, rates captions, and writes thoughts.

It uses the rewards' endpoint client, with its limits, retries and cache, so that curation after a kill repeats no
request that was answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from sail_rl.endpoint.client import JudgeClient
from sail_rl.endpoint.errors import JudgeError
from sail_rl.endpoint.images import Picture
from sail_rl.endpoint.replies import Verdict
from sail_rl.endpoint.requests import Request, question_text
from sail_rl.endpoint.settings import JudgeSettings

logger = logging.getLogger(__name__)

SHORTEN = """\
You shorten reference answers. Give the answer to the question in as few words as say it: a number with its unit, a \
name, a word, an option. Take it from the reference; don't solve the question, and add nothing."""
FREE_FORM = """\
You turn a multiple-choice question into one that is answered without options. Rewrite the question so that it asks \
for the right option's value itself, changing nothing else, and repeat that value. Some questions can't be asked \
without their options ("which of these is wrong?"): say so."""
CAPTION = """\
You rate a caption of the images. Visual information richness: 1 says next to nothing of what is to be seen, 3 names \
the main things, 5 describes all that matters, with attributes, places and text. Image-text alignment: 1 is about \
something else, 3 has mistakes in details, 5 says nothing that the images don't show."""
GUIDE = """\
You write down how one arrives at an answer. Look at the images, read the question, and reason step by step to the \
reference answer, as if you didn't know it: never mention that an answer was given. Check what you see before you use \
it. If the reference can't be right, leave the reasoning empty."""


class ShortAnswer(Verdict):
    """A short form of a reference answer."""

    answer: str = Field(description="the short answer")


class FreeForm(Verdict):
    """A question without options."""

    possible: Literal[0, 1] = Field(description="1 if the question makes sense without its options, else 0")
    question: str = Field(description="the rewritten question; empty if it isn't possible")
    answer: str = Field(description="the right option's value, without its letter; empty if it isn't possible")


class CaptionRating(Verdict):
    """A rating of a caption."""

    richness: Literal[1, 2, 3, 4, 5] = Field(description="visual information richness, 1 to 5")
    alignment: Literal[1, 2, 3, 4, 5] = Field(description="image-text alignment, 1 to 5")


class Reasoning(Verdict):
    """The reasoning that leads to an answer."""

    reasoning: str = Field(description="the reasoning, step by step; empty if the reference can't be right")


class Curator:
    """Asks one endpoint about rows, dicts with `prompt`, `answer`, `completion` and PIL `images`.

    Args:
        settings: the endpoint's settings.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self.settings = settings
        self.client = JudgeClient(settings)

    def shorten(self, rows: Sequence[Mapping[str, Any]]) -> list[str | None]:
        """Short forms of the rows' answers."""
        data = [{"question": question_text(row["prompt"]), "reference_answer": str(row["answer"])} for row in rows]
        return [found and found.answer.strip() for found in self._ask(SHORTEN, rows, data, ShortAnswer, look=False)]

    def free_form(self, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str] | None]:
        """Free-form (question, answer) of multiple-choice rows; None where this is impossible."""
        data = [{"question": question_text(row["prompt"]), "right_option": str(row["answer"])} for row in rows]
        return [
            (found.question.strip(), found.answer.strip()) if found and found.possible and found.question else None
            for found in self._ask(FREE_FORM, rows, data, FreeForm, look=False)
        ]

    def rate(self, rows: Sequence[Mapping[str, Any]]) -> list[tuple[int, int] | None]:
        """(richness, alignment) of the rows' completions as captions of their images."""
        data = [{"caption": row["completion"]} for row in rows]
        return [
            found and (found.richness, found.alignment)
            for found in self._ask(CAPTION, rows, data, CaptionRating, look=True)
        ]

    def think(self, rows: Sequence[Mapping[str, Any]]) -> list[str | None]:
        """Thoughts that lead to the rows' answers."""
        data = [{"question": question_text(row["prompt"]), "reference_answer": str(row["answer"])} for row in rows]
        return [found and found.reasoning for found in self._ask(GUIDE, rows, data, Reasoning, look=True)]

    def _ask(
        self,
        instructions: str,
        rows: Sequence[Mapping[str, Any]],
        data: Sequence[Mapping[str, str]],
        form: type[Verdict],
        *,
        look: bool,
    ) -> list[Any]:
        """One verdict per row, or None."""
        side = self.settings.max_image_side
        pictures = [tuple(Picture(image, side) for image in row["images"]) if look else () for row in rows]
        requests = [Request(instructions, own, form, shown) for own, shown in zip(data, pictures, strict=True)]
        if not requests:
            return []
        found = asyncio.run(self.client.ask(requests))
        if failures := [outcome for outcome in found if isinstance(outcome, JudgeError)]:
            logger.warning("%d of %d rows have no %s: %s", len(failures), len(rows), form.__name__, failures[-1])
        return [None if isinstance(outcome, JudgeError) else outcome for outcome in found]
