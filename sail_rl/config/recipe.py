"""A whole recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    Field,
    NonNegativeInt,
    model_validator,
)

from .data import DataConfig
from .rl import RLStage
from .sections import DeepSpeedConfig, EngineConfig, EvaluationConfig, LoggingConfig, ModelConfig, Strict
from .stages import ExportStage, HarvestStage, SFTStage, SoupStage

BASE = "base"
AnyStage = SFTStage | RLStage | HarvestStage | SoupStage | ExportStage


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
    stages: list[Annotated[AnyStage, Field(discriminator="kind")]]

    @property
    def training(self) -> list[SFTStage | RLStage]:
        """The stages that train."""
        return [stage for stage in self.stages if isinstance(stage, SFTStage | RLStage)]

    @property
    def harvests(self) -> list[HarvestStage]:
        """The stages that make datasets."""
        return [stage for stage in self.stages if isinstance(stage, HarvestStage)]

    def stage(self, name: str) -> AnyStage:
        """The stage of this name."""
        return next(stage for stage in self.stages if stage.name == name)

    def seed_of(self, stage: AnyStage) -> int:
        """The stage's own seed, or the recipe's."""
        own: int | None = getattr(stage, "seed", None)
        return self.seed if own is None else own

    def parents(self, stage: AnyStage) -> list[str]:
        """The stages whose models this one takes (`base`: the base model); none for a harvest."""
        before = self.stages[: self.stages.index(stage)]
        newest = next((s.name for s in reversed(before) if isinstance(s, SFTStage | RLStage | SoupStage)), BASE)
        match stage:
            case HarvestStage():
                return []
            case SoupStage():
                return stage.models
            case ExportStage():
                return [stage.model or newest]
        return [stage.parent or newest]

    @model_validator(mode="after")
    def _parents_come_before(self) -> Self:
        for number, stage in enumerate(self.stages):
            made = [s.name for s in self.stages[:number] if isinstance(s, SFTStage | RLStage | SoupStage)]
            if unknown := [name for name in self.parents(stage) if name not in (BASE, *made)]:
                raise ValueError(
                    f"stage {stage.name}: no stage before it makes the model {unknown[0]!r}; there are "
                    f"{', '.join((BASE, *made))}"
                )
        return self

    @model_validator(mode="after")
    def _rows_hold_samples(self) -> Self:
        for stage in self.training:
            if isinstance(stage, SFTStage) and stage.packing and stage.row_tokens < self.model.max_length:
                raise ValueError(
                    f"stage {stage.name}: rows of {stage.row_tokens} tokens don't hold samples of model.max_length "
                    f"{self.model.max_length}, and none is ever cut; set row_tokens to {self.model.max_length} or more"
                )
        return self

    @model_validator(mode="after")
    def _names(self) -> Self:
        names = [stage.name for stage in self.stages]
        if not names:
            raise ValueError("stages is empty; name at least one")
        if len(set(names)) != len(names):
            raise ValueError(f"stage names repeat: {', '.join(names)}")
        if BASE in names:
            raise ValueError(f"a stage is called {BASE!r}, which is the name of the model that a run starts from")
        return self

    @model_validator(mode="after")
    def _data_names(self) -> Self:
        users = [("evaluation", name) for name in self.evaluation.sets]
        users += [(stage.name, stage.data) for stage in self.training]
        supervised = {stage.name for stage in self.training if isinstance(stage, SFTStage)}
        harvested = {stage.name for stage in self.harvests}
        for user, data in users:
            if data in self.data.mixtures and user not in supervised:
                raise ValueError(f"{user}.data is {data!r}, a mixture; mixtures are for SFT stages")
            if data in harvested and user not in supervised:
                raise ValueError(f"{user}.data is {data!r}, a harvest; harvests are for SFT stages")
            known = {**self.data.files, **self.data.curated}
            if known and data not in {*known, *self.data.mixtures, *harvested}:
                raise ValueError(f"{user}.data is {data!r}, but data has {', '.join(known)}")
        return self

    @model_validator(mode="after")
    def _harvests_follow_what_they_harvest(self) -> Self:
        before: dict[str, RLStage] = {}
        for stage in self.stages:
            if isinstance(stage, RLStage):
                before[stage.name] = stage
            if not isinstance(stage, HarvestStage):
                continue
            if stage.rollouts not in before:
                raise ValueError(f"stage {stage.name}: there is no RL stage {stage.rollouts!r} before it")
            rewards = before[stage.rollouts].rewards
            if unknown := sorted(stage.minimum.keys() - rewards.keys()):
                raise ValueError(
                    f"stage {stage.name}: minimum names {unknown[0]!r}, but stage {stage.rollouts} has the rewards "
                    f"{', '.join(rewards)}"
                )
            if not self.logging.rollouts_gib:
                raise ValueError(f"stage {stage.name}: logging.rollouts_gib is 0, so there are no rollouts to harvest")
        return self
