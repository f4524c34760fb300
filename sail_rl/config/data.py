"""The section `data` of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from sail_rl.paths import UserPath

from .curation import Curation
from .sections import Name, SourceConfig, Strict


class DataConfig(Strict):
    """Datasets by name: files, or a builder that writes files (`builder(output_dir, seed=…, **kwargs)`)."""

    files: dict[Name, UserPath | SourceConfig] = Field(default_factory=dict)
    builder: str | None = None
    kwargs: dict[str, Any] = Field(default_factory=dict)
    curated: dict[Name, Curation] = Field(default_factory=dict)
    """Further datasets, which curation steps make from others once, when a run starts."""
    mixtures: dict[Name, UserPath | dict[Name, float]] = Field(default_factory=dict)
    """Further datasets, mixed from the others and from the stages' datasets: weights by name, here or in a file that
    `sail-rl moe calibrate` writes. RL stages take mixtures by samples only."""
    mix_by: Literal["tokens", "samples"] = "tokens"
    """Whether the weights are shares of tokens or of samples."""
    overlong: Literal["error", "drop"] = "error"
    """What happens to rows longer than `model.max_length`: the run refuses to start, or drops and counts them."""
    broken: Literal["error", "drop"] = "error"
    """What happens to rows whose pictures can't be decoded: the run refuses to start, or drops and lists them."""
    video_frames: PositiveInt = 8
    """Number of frames that are sampled evenly from each row's `video`."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if bool(self.files or self.curated) == bool(self.builder):
            raise ValueError("give either `files` (name: path) or `builder` (module:function), and not both")
        return self

    @model_validator(mode="after")
    def _own_names(self) -> Self:
        if clash := sorted(self.curated.keys() & {*self.files, *self.mixtures}):
            raise ValueError(f"{clash[0]!r} is both in `curated` and in `files` or `mixtures`; rename one")
        return self

    def source(self, name: str) -> SourceConfig | None:
        """The source of the dataset of this name; None if a builder made it."""
        given = self.files.get(name)
        return SourceConfig(path=given) if isinstance(given, Path) else given
