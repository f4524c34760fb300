"""The section `data` of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from .curation import Curation
from .sections import Name, SourceConfig, Strict


class DataConfig(Strict):
    """Datasets by name: files, or a builder that writes files (`builder(output_dir, seed=…, **kwargs)`)."""

    files: dict[Name, Path | SourceConfig] = Field(default_factory=dict)
    builder: str | None = None
    kwargs: dict[str, Any] = Field(default_factory=dict)
    curated: dict[Name, Curation] = Field(default_factory=dict)
    """Further datasets, made of these or of others by curation steps, once, when a run starts."""
    mixtures: dict[Name, Path | dict[Name, float]] = Field(default_factory=dict)
    """Further datasets, mixed from those above and from what stages make: weights by source name, here or in a file
    (`sail-rl moe calibrate` writes one). For SFT, and by samples for RL."""
    mix_by: Literal["tokens", "samples"] = "tokens"
    """What the weights are shares of."""
    overlong: Literal["error", "drop"] = "error"
    """What to do with rows longer than `model.max_length`: refuse to start, or drop them and say how many."""
    video_frames: PositiveInt = 8
    """Frames to sample, evenly, from each row's `video`."""

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
        """What the recipe says of the file of this name; None for one that a builder made."""
        given = self.files.get(name)
        return SourceConfig(path=given) if isinstance(given, Path) else given
