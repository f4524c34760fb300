"""What a curation recipe may say: the data, the steps in their order, and who is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from sail_rl.endpoint.settings import JudgeSettings

from .sections import SourceConfig, Strict

Share = Annotated[float, Field(gt=0, le=1)]


class StripPrompts(Strict):
    """Drop system messages and hints on how to answer."""

    kind: Literal["strip_prompts"]
    hints: list[str] | None = None
    """Regular expressions in place of the built-in ones."""


class Unify(Strict):
    r"""Bring completions into the form `<think>…</think>` and `\\boxed{}`."""

    kind: Literal["unify"]


class Dedupe(Strict):
    """Keep one of rows with the same question about pictures that look the same."""

    kind: Literal["dedupe"]
    distance: NonNegativeInt = 2
    """Bits of 64 by which perceptual hashes may differ."""


class Decontaminate(Strict):
    """Drop rows that evaluation sets have, too."""

    kind: Literal["decontaminate"]
    against: Annotated[list[Path | SourceConfig], Field(min_length=1)]
    distance: NonNegativeInt = 2
    pictures_alone: bool = False
    """Also rows that ask something else about a picture of theirs."""


class Redundancy(Strict):
    """Drop rows whose answer repeats the thought."""

    kind: Literal["redundancy"]
    limit: Share = 0.6
    least: PositiveInt = 20
    """Tokens of an answer from which on it is looked at."""


class BalanceLengths(Strict):
    """No stretch of thought lengths has more than a share of the rows."""

    kind: Literal["balance_lengths"]
    edges: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (64, 128, 256, 512, 1024, 2048, 4096)
    most: Share = 0.3


class FreeForm(Strict):
    """Multiple-choice questions with numeric or symbolic answers become free-form ones."""

    kind: Literal["free_form"]
    judge: bool = False
    """Let the judge rewrite the questions; False: the options are left out where the question allows it."""
    drop_others: bool = False
    """Drop multiple-choice rows that can't be made free-form."""


class DistillAnswers(Strict):
    """The judge shortens verbose answers."""

    kind: Literal["distill_answers"]
    longest: PositiveInt = 10
    """Tokens of an answer that isn't verbose."""


class CaptionQuality(Strict):
    """Drop captions (completions) that the judge rates below `least`, of 5, in richness or alignment."""

    kind: Literal["caption_quality"]
    least: Annotated[int, Field(ge=1, le=5)] = 3


class GuidedCoT(Strict):
    """Thoughts that lead to the gold answers, written by the judge's model, or by a model in a rollout engine."""

    kind: Literal["guided_cot"]
    model: Path | None = None
    """Folder of a SAIL-VL2 that writes them; None: the judge does."""
    engine: str = "rollouts.vllm_engine:VLLMEngine"
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_length: PositiveInt = 4096
    max_tokens: PositiveInt = 1024
    temperature: Annotated[float, Field(ge=0)] = 0.7
    again: bool = False
    """Also for rows that have a completion."""


JUDGED = (DistillAnswers, CaptionQuality)
Step = Annotated[
    StripPrompts
    | Unify
    | Dedupe
    | Decontaminate
    | Redundancy
    | BalanceLengths
    | FreeForm
    | DistillAnswers
    | CaptionQuality
    | GuidedCoT,
    Field(discriminator="kind"),
]


class Curation(Strict):
    """Steps that make one dataset of another."""

    data: Path | SourceConfig
    steps: Annotated[list[Step], Field(min_length=1)]
    """Each `kind`, or `kind: {settings}`."""
    judge: JudgeSettings | None = None
    """The endpoint that judged steps ask; its verdicts are cached beside `out` unless `cache` names another file."""
    video_frames: PositiveInt = 8
    seed: NonNegativeInt = 0

    @model_validator(mode="before")
    @classmethod
    def _short_steps(cls, tree: Any) -> Any:
        if isinstance(tree, dict) and isinstance(tree.get("steps"), list):
            tree = tree | {"steps": [_spelled_out(step) for step in tree["steps"]]}
        return tree

    @property
    def inputs(self) -> list[Path]:
        """The files and folders here that the result is made of."""
        against = [data for step in self.steps if isinstance(step, Decontaminate) for data in step.against]
        models = [step.model for step in self.steps if isinstance(step, GuidedCoT)]
        given = [data.path if isinstance(data, SourceConfig) else data for data in (self.data, *against)]
        return [path for path in (*given, *models) if path is not None]

    @property
    def source(self) -> SourceConfig:
        """The dataset that is curated."""
        return SourceConfig(path=self.data) if isinstance(self.data, Path) else self.data

    @model_validator(mode="after")
    def _asks_somebody(self) -> Self:
        for step in self.steps:
            asks = isinstance(step, JUDGED) or getattr(step, "judge", False)
            if self.judge is None and (asks or (isinstance(step, GuidedCoT) and step.model is None)):
                raise ValueError(f"step {step.kind} asks a judge; give `judge` with base_url and model")
        return self


class CurationRecipe(Curation):
    """One dataset in, one out: what `sail-rl data curate` takes."""

    out: Path
    """A .parquet file; what was dropped, and the counts, are written beside it."""

    @model_validator(mode="after")
    def _parquet(self) -> Self:
        if self.out.suffix != ".parquet":
            raise ValueError(f"out is {self.out}; end the name in .parquet")
        return self


def _spelled_out(step: Any) -> Any:
    """`kind` or `{kind: settings}` as settings with their `kind`."""
    if isinstance(step, str):
        return {"kind": step}
    if isinstance(step, dict) and len(step) == 1 and "kind" not in step:
        ((kind, settings),) = step.items()
        if not isinstance(settings, dict | None):
            raise ValueError(f"step {kind} is given {settings!r}; give its settings by name: {kind}: {{name: value}}")
        return {"kind": kind, **(settings or {})}
    return step
