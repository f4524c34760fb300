"""A whole recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    Field,
    NonNegativeInt,
    model_validator,
)

from .rl import RLStage
from .sections import DataConfig, DeepSpeedConfig, EngineConfig, EvaluationConfig, LoggingConfig, ModelConfig, Strict
from .stages import SFTStage


class Recipe(Strict):
    """A whole run: model, data, engine, evaluation and the stages in order."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    seed: NonNegativeInt = 0
    output_dir: Path
    """Where everything of the run is written."""
    model: ModelConfig = ModelConfig()
    data: DataConfig
    engine: EngineConfig = EngineConfig()
    evaluation: EvaluationConfig
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    logging: LoggingConfig = LoggingConfig()
    stages: list[Annotated[SFTStage | RLStage, Field(discriminator="kind")]]

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [stage.name for stage in self.stages]
        if not names:
            raise ValueError("stages is empty; name at least one")
        if len(set(names)) != len(names):
            raise ValueError(f"stage names repeat: {', '.join(names)}")
        if self.data.files:
            for user, data in [("evaluation", self.evaluation.data), *((s.name, s.data) for s in self.stages)]:
                if data not in self.data.files and data not in self.data.mixtures:
                    raise ValueError(f"{user}.data is {data!r}, but data.files has {', '.join(self.data.files)}")
        supervised = {stage.name for stage in self.stages if isinstance(stage, SFTStage)}
        for user, data in [("evaluation", self.evaluation.data), *((s.name, s.data) for s in self.stages)]:
            if data in self.data.mixtures and user not in supervised:
                raise ValueError(f"{user}.data is {data!r}, a mixture; mixtures are for SFT stages")
        return self
