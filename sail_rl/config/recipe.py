"""The recipe of a run, and checks across its sections."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import (
    Field,
    NonNegativeInt,
    model_validator,
)

from sail_rl.data.mixture import sources_of
from sail_rl.paths import UserPath
from sail_rl.run_dir import BASE, RunDir

from .data import DataConfig
from .rl import RLStage
from .sections import DeepSpeedConfig, EngineConfig, EvaluationConfig, LoggingConfig, ModelConfig, Name, Strict
from .stages import ExportStage, FilterStage, HarvestStage, SFTStage, SoupStage

AnyStage = SFTStage | RLStage | HarvestStage | FilterStage | SoupStage | ExportStage


class Recipe(Strict):
    """The recipe of a run: model, data, engine, evaluation and the stages in order."""

    name: Name
    seed: NonNegativeInt = 0
    output_dir: UserPath
    """Folder of the run."""
    model: ModelConfig = ModelConfig()
    data: DataConfig
    engine: EngineConfig = EngineConfig()
    evaluation: EvaluationConfig
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    logging: LoggingConfig = LoggingConfig()
    stages: list[Annotated[AnyStage, Field(discriminator="kind")]]

    @property
    def run_dir(self) -> RunDir:
        """The files of the run's folder."""
        return RunDir(self.output_dir)

    @property
    def training(self) -> list[SFTStage | RLStage]:
        """The stages that train."""
        return [stage for stage in self.stages if stage.trains]

    @property
    def sft_stages(self) -> list[SFTStage]:
        """The stages of supervised fine-tuning."""
        return [stage for stage in self.training if stage.learns_from == "completions"]

    @property
    def rl_stages(self) -> list[RLStage]:
        """The stages of reinforcement learning."""
        return [stage for stage in self.training if stage.learns_from == "prompts"]

    @property
    def dataset_stages(self) -> list[HarvestStage | FilterStage]:
        """The stages that make datasets out of rollouts."""
        return [stage for stage in self.stages if stage.makes_data]

    @property
    def used_data(self) -> list[str]:
        """The datasets that stages and evaluation read, except those that stages make."""
        made = {stage.name for stage in self.dataset_stages}
        names = [*self.evaluation.sets, *(s for t in self.training for s in sources_of(self.data.mixtures, t.data))]
        return [name for name in dict.fromkeys(names) if name not in made]

    @property
    def halved(self) -> str | None:
        """The held-out dataset that the summary shows, if a stage also chooses its best model by it, else None.

        Half of its rows then choose, and the summary shows the accuracy on the others (see `maths.heldout`).
        """
        first = self.evaluation.sets[0]
        metrics = [stage.metric_for_best_model or "" for stage in self.training]
        return first if any(metric.startswith(f"eval/{first}/") for metric in metrics) else None

    def origin(self, data: str) -> str:
        """The dataset that the rows of `data` come from: itself, or the one that a stage made it from."""
        maker = next((stage for stage in self.dataset_stages if stage.name == data), None)
        if maker is None:
            return data
        return self.origin(self.rl_stage(maker.rollouts).data)

    def rl_stage(self, name: str) -> RLStage:
        """The RL stage of this name."""
        return next(stage for stage in self.rl_stages if stage.name == name)

    def stage(self, name: str) -> AnyStage:
        """The stage of this name."""
        return next(stage for stage in self.stages if stage.name == name)

    def seed_of(self, stage: AnyStage) -> int:
        """The stage's own seed, or the recipe's."""
        own: int | None = getattr(stage, "seed", None)
        return self.seed if own is None else own

    def parents(self, stage: AnyStage) -> list[str]:
        """Names of the stages whose models this one starts from; `base` is the base model."""
        before = self.stages[: self.stages.index(stage)]
        newest = next((s.name for s in reversed(before) if s.makes_model), BASE)
        return stage.parents(newest)

    @model_validator(mode="after")
    def _parents_come_before(self) -> Self:
        for number, stage in enumerate(self.stages):
            made = [s.name for s in self.stages[:number] if s.makes_model]
            if unknown := [name for name in self.parents(stage) if name not in (BASE, *made)]:
                raise ValueError(
                    f"stage {stage.name}: no stage before it makes the model {unknown[0]!r}; there are "
                    f"{', '.join((BASE, *made))}"
                )
        return self

    @model_validator(mode="after")
    def _completions_fit(self) -> Self:
        limits = [(f"stage {s.name}", s.sampling.max_tokens) for s in self.rl_stages]
        for user, limit in [*limits, ("evaluation", self.evaluation.max_tokens)]:
            if limit >= self.model.max_length:
                raise ValueError(
                    f"{user}: max_tokens {limit} leaves no room for a prompt in model.max_length "
                    f"{self.model.max_length}; lower it, or raise model.max_length"
                )
        return self

    @model_validator(mode="after")
    def _gradients_add_up_in_float32(self) -> Self:
        stage = self.deepspeed.zero_stage
        if self.model.dtype == "bfloat16" and stage < 2:
            raise ValueError(
                f"deepspeed.zero_stage is {stage}, where DeepSpeed doesn't add up the gradients of a bfloat16 model's "
                "micro-batches in float32 (with 0), or adds them up wrongly (with 1); set it to 2 or 3"
            )
        return self

    @model_validator(mode="after")
    def _clip_is_wider_than_mismatch(self) -> Self:
        """With the engine's log-probs, GSPO's ratio differs from 1 by the mean mismatch before any update."""
        for stage in self.rl_stages:
            loss, allowed = stage.loss, self.engine.mismatch.mean
            narrowest = min(loss.clip_low, loss.clip_high)
            sequence_ratio = loss.surrogate in ("gspo", "gspo_token") and loss.old_logprobs == "rollout"
            if sequence_ratio and allowed > narrowest:
                raise ValueError(
                    f"stage {stage.name}: {loss.surrogate} clips at {narrowest:g}, but engine.mismatch.mean allows the "
                    f"engine's log-probs to differ by {allowed:g} nats, so unchanged completions would be clipped; set "
                    "loss.old_logprobs: trainer, or sampling.routing_replay and an engine.mismatch.mean of at most "
                    f"{narrowest:g}"
                )
        return self

    @model_validator(mode="after")
    def _micro_batches_hold_samples(self) -> Self:
        for stage in self.sft_stages:
            if stage.packing and stage.pack_length < self.model.max_length:
                raise ValueError(
                    f"stage {stage.name}: pack_length {stage.pack_length} is below model.max_length "
                    f"{self.model.max_length}, and no sample is ever cut; set it to {self.model.max_length} or more"
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
        supervised = {stage.name for stage in self.sft_stages}
        made = {stage.name: stage.makes_data for stage in self.dataset_stages}
        order = [stage.name for stage in self.stages]
        for user, data in users:
            mixed = data in self.data.mixtures
            if mixed and user not in supervised and (user == "evaluation" or self.data.mix_by == "tokens"):
                raise ValueError(f"{user}.data is {data!r}, a mixture; they are for SFT, and by samples for RL")
            weights = self.data.mixtures.get(data, {data: 1.0})
            for source in weights if isinstance(weights, dict) else ():
                if source in made and user in order and order.index(source) > order.index(user):
                    raise ValueError(
                        f"{user}.data is {source!r}, which a later stage makes; put {source} before {user}"
                    )
                if made.get(source) == "completions" and user not in supervised:
                    raise ValueError(f"{user}.data is {source!r}, a harvest; harvests are for SFT stages")
                if made.get(source) == "prompts" and (user in supervised or user == "evaluation"):
                    raise ValueError(f"{user}.data is {source!r}, rows filtered for RL; they have no completions")
            known = {**self.data.files, **self.data.curated}
            if known and data not in {*known, *self.data.mixtures, *made}:
                raise ValueError(f"{user}.data is {data!r}, but data has {', '.join(known)}")
        return self

    @model_validator(mode="after")
    def _rollouts_come_before(self) -> Self:
        for stage in self.dataset_stages:
            before = self.stages[: self.stages.index(stage)]
            sampled = next((s for s in self.rl_stages if s.name == stage.rollouts and s in before), None)
            if sampled is None:
                raise ValueError(f"stage {stage.name}: there is no RL stage {stage.rollouts!r} before it")
            if sampled.data in self.data.mixtures:
                raise ValueError(
                    f"stage {stage.name}: {stage.rollouts} samples a mixture, whose rows can't be told apart"
                )
            rewards = sampled.rewards
            if unknown := sorted(stage.minimum.keys() - rewards.keys()):
                raise ValueError(
                    f"stage {stage.name}: minimum names {unknown[0]!r}, but stage {stage.rollouts} has the rewards "
                    f"{', '.join(rewards)}"
                )
            if not self.logging.rollouts_gib:
                raise ValueError(f"stage {stage.name}: logging.rollouts_gib is 0, so there are no rollouts to harvest")
        return self
