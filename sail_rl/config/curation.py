"""A curation recipe: the data, the steps in their order, and the judge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from sail_rl.endpoint.settings import JudgeSettings
from sail_rl.paths import UserPath

from .sections import SourceConfig, Strict

Share = Annotated[float, Field(gt=0, le=1)]


class StripPrompts(Strict):
    """Remove system messages and hints on how to answer from prompts."""

    kind: Literal["strip_prompts"]
    hints: list[str] | None = None
    """Regular expressions of hints, which replace the built-in ones."""


class Unify(Strict):
    r"""Bring completions into the form `<think>…</think>` and `\\boxed{}`."""

    kind: Literal["unify"]


class Dedupe(Strict):
    """Keep one of the rows that ask the same question about pictures that look alike."""

    kind: Literal["dedupe"]
    distance: NonNegativeInt = 2
    """Largest number of bits, of 64, by which the perceptual hashes of like pictures differ."""


class Decontaminate(Strict):
    """Drop rows that evaluation sets contain."""

    kind: Literal["decontaminate"]
    against: Annotated[list[UserPath | SourceConfig], Field(min_length=1)]
    distance: NonNegativeInt = 2
    pictures_alone: bool = False
    """Also drop rows that share only a picture with an evaluation set."""


class Redundancy(Strict):
    """Drop rows whose answer repeats the thought."""

    kind: Literal["redundancy"]
    limit: Share = 0.6
    least: PositiveInt = 20
    """Shortest answer, in tokens, that is checked."""


class BalanceLengths(Strict):
    """Limit the share of rows in each interval of thought lengths."""

    kind: Literal["balance_lengths"]
    edges: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (64, 128, 256, 512, 1024, 2048, 4096)
    most: Share = 0.3


class FreeForm(Strict):
    """Turn multiple-choice questions with numeric or symbolic answers into free-form ones."""

    kind: Literal["free_form"]
    judge: bool = False
    """Let the judge rewrite the questions. False: remove the options where the question allows it."""
    drop_others: bool = False
    """Drop multiple-choice rows that can't become free-form."""


class DistillAnswers(Strict):
    """Let the judge shorten verbose answers."""

    kind: Literal["distill_answers"]
    longest: PositiveInt = 10
    """Longest answer, in tokens, that isn't verbose."""


class CaptionQuality(Strict):
    """Drop captions (completions) whose richness or alignment the judge rates below `least` (1 to 5)."""

    kind: Literal["caption_quality"]
    least: Annotated[int, Field(ge=1, le=5)] = 3


class GuidedCoT(Strict):
    """Write thoughts that lead to the gold answers, with the judge's model or with a model in a rollout engine."""

    kind: Literal["guided_cot"]
    model: UserPath | None = None
    """Folder of the SAIL-VL2 that writes them; None: the judge writes them."""
    engine: str = "rollouts.vllm_engine:VLLMEngine"
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_length: PositiveInt = 4096
    max_tokens: PositiveInt = 1024
    temperature: Annotated[float, Field(ge=0)] = 0.7
    again: bool = False
    """Replace existing completions, too."""


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
    """Steps that make one dataset from another."""

    data: UserPath | SourceConfig
    steps: Annotated[list[Step], Field(min_length=1)]
    """The steps, each written as `kind` or as `kind: {settings}`."""
    judge: JudgeSettings | None = None
    """The endpoint that judged steps ask; its verdicts are cached beside `out` unless `cache` names another file."""
    broken: Literal["error", "drop"] = "error"
    """What happens to rows whose pictures can't be decoded: curation refuses to start, or drops and lists them."""
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
        """The local files and folders that the result depends on."""
        models = [step.model for step in self.steps if isinstance(step, GuidedCoT)]
        return [path for path in (*(source.path for source in self.sources), *models) if path is not None]

    @property
    def sources(self) -> list[SourceConfig]:
        """The source dataset, then those that it is decontaminated against."""
        against = [data for step in self.steps if isinstance(step, Decontaminate) for data in step.against]
        return [SourceConfig(path=data) if isinstance(data, Path) else data for data in (self.data, *against)]

    @property
    def source(self) -> SourceConfig:
        """The source dataset."""
        return self.sources[0]

    @model_validator(mode="after")
    def _asks_somebody(self) -> Self:
        for step in self.steps:
            asks = isinstance(step, JUDGED) or getattr(step, "judge", False)
            if self.judge is None and (asks or (isinstance(step, GuidedCoT) and step.model is None)):
                raise ValueError(f"step {step.kind} asks a judge; give `judge` with base_url and model")
        return self


class CurationRecipe(Curation):
    """The recipe of `sail-rl data curate`: one dataset in, one out."""

    out: UserPath
    """The .parquet file to write. Dropped rows and counts are written beside it."""

    @model_validator(mode="after")
    def _parquet(self) -> Self:
        if self.out.suffix != ".parquet":
            raise ValueError(f"out is {self.out}; end the name in .parquet")
        return self


def _spelled_out(step: Any) -> Any:
    """Return `kind` or `{kind: settings}` as settings with a `kind`."""
    if isinstance(step, str):
        return {"kind": step}
    if isinstance(step, dict) and len(step) == 1 and "kind" not in step:
        ((kind, settings),) = step.items()
        if not isinstance(settings, dict | None):
            raise ValueError(f"step {kind} is given {settings!r}; give its settings by name: {kind}: {{name: value}}")
        return {"kind": kind, **(settings or {})}
    return step
