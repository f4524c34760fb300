"""A recipe: one YAML file parsed into these models. Each value has one home, and unknown keys are errors.

Paths in a recipe are relative to the working directory. Code is named by `module:name` or `file.py:name`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

DEFAULT_SCORER = "rewards.compose:WeightedSum"


class Strict(BaseModel):
    """A frozen model that refuses keys it doesn't know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Strict):
    """The base model: a checkpoint folder, or by default a tiny SAIL-VL2 made on the spot."""

    path: Path | None = None
    """Folder of a saved SAIL-VL2; None builds the tiny one."""
    llm: Literal["qwen3", "qwen3_moe"] = "qwen3"
    """Language model of the tiny SAIL-VL2 (not read when `path` is given)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_length: PositiveInt = 1024
    """Longest sequence in tokens, prompt and completion together."""


class DataConfig(Strict):
    """Datasets by name: files, or a builder that writes files (`builder(output_dir, seed=…, **kwargs)`)."""

    files: dict[str, Path] = {}
    builder: str | None = None
    kwargs: dict[str, Any] = {}
    overlong: Literal["error", "drop"] = "error"
    """What to do with rows longer than `model.max_length`: refuse to start, or drop them and say how many."""
    video_frames: PositiveInt = 8
    """Frames to sample, evenly, from each row's `video`."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if bool(self.files) == bool(self.builder):
            raise ValueError("give either `files` (name: path) or `builder` (module:function), and not both")
        return self


class EngineConfig(Strict):
    """The rollout engine: `path(model_dir, max_model_len=…, dtype=…, **kwargs)`."""

    path: str = "rollouts.vllm_engine:VLLMEngine"
    kwargs: dict[str, Any] = {}
    probe_rollouts: PositiveInt = 8
    """Rollouts whose log-probs the trainer recomputes after each weight push."""
    max_logprob_diff: PositiveFloat = 1e-3
    """Stop the run when one of these differs by more (nats). Float32: below 1e-4; bfloat16: about 0.05."""


class RewardConfig(Strict):
    """One reward: a function with TRL's signature, or a class that makes one from `kwargs`."""

    path: str
    weight: float = 1.0
    """Weight in the total; 0 logs only."""
    kwargs: dict[str, Any] = {}


class EvaluationConfig(Strict):
    """Evaluation on a held-out dataset, before and after each stage and every `every` steps of it."""

    data: str
    rewards: dict[str, RewardConfig]
    """The reward named `accuracy` gives the held-out accuracy of the summary."""
    scorer: str = DEFAULT_SCORER
    max_tokens: PositiveInt = 256
    temperature: NonNegativeFloat = 0.0
    """0: greedy. Above: pass@1 of one seeded sample for each prompt."""
    every: PositiveInt = 20

    @model_validator(mode="after")
    def _has_accuracy(self) -> Self:
        if "accuracy" not in self.rewards:
            raise ValueError(f"evaluation.rewards has {', '.join(self.rewards) or 'none'} but no `accuracy`")
        return self


class DeepSpeedConfig(Strict):
    """What is passed on to DeepSpeed."""

    zero_stage: Literal[0, 1, 2, 3] = 2
    offload_optimizer: bool = False
    """Keep optimiser states in CPU memory (the report's choice for the MoE, with ZeRO-2)."""


class LoggingConfig(Strict):
    """Weights & Biases and traces."""

    wandb_project: str = "sail-rl"
    traces_per_step: NonNegativeInt = 2


class StageConfig(Strict):
    """What all stages share: data, steps and optimiser."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    data: str
    """Name of a dataset in `data`."""
    steps: PositiveInt
    """Optimiser steps."""
    learning_rate: PositiveFloat
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    warmup_steps: NonNegativeInt = 0
    weight_decay: NonNegativeFloat = 0.0
    adam_beta2: Annotated[float, Field(gt=0, lt=1)] = 0.999
    max_grad_norm: PositiveFloat = 1.0
    row_tokens: PositiveInt = 2048
    """Tokens of a packed row, that is of one micro-batch on one rank. Changes speed and memory, not results."""
    gradient_checkpointing: bool = False
    save_every: PositiveInt = 50
    """Optimiser steps between checkpoints."""


class SFTStage(StageConfig):
    """Supervised fine-tuning on prompt/completion rows."""

    kind: Literal["sft"]
    batch_size: PositiveInt
    """Rows of one optimiser step, over all ranks."""

    def check_algebra(self, world_size: int) -> str:
        """The batch algebra in one line; ValueError if it doesn't come out even."""
        if self.batch_size % world_size:
            raise ValueError(
                f"stage {self.name}: batch_size {self.batch_size} / {world_size} ranks = "
                f"{self.batch_size / world_size:g} rows a rank; make batch_size a multiple of {world_size}"
            )
        return f"{self.batch_size} rows a step = {world_size} rank(s) x {self.batch_size // world_size} rows"


class RLStage(StageConfig):
    """Reinforcement learning with group-relative advantages and DAPO's token-level clipped loss."""

    kind: Literal["rl"]
    rewards: dict[str, RewardConfig]
    scorer: str = DEFAULT_SCORER
    """Combines the rewards: `scorer(terms)` with a list of `RewardTerm`."""
    prompts_per_step: PositiveInt
    """Prompts of one batch of rollouts, over all ranks."""
    samples_per_prompt: Annotated[int, Field(ge=2)]
    mini_batches: PositiveInt = 1
    """Optimiser steps for each batch of rollouts."""
    max_tokens: PositiveInt = 256
    """Longest completion in tokens."""
    temperature: PositiveFloat = 1.0
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.20
    clip_high: PositiveFloat = 0.28

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if not any(reward.weight for reward in self.rewards.values()):
            raise ValueError(f"stage {self.name}: no reward has a weight, so there is nothing to learn from")
        return self

    def check_algebra(self, world_size: int) -> str:
        """The batch algebra in one line; ValueError if it doesn't come out even."""
        share = world_size * self.mini_batches
        if self.prompts_per_step % share:
            raise ValueError(
                f"stage {self.name}: prompts_per_step {self.prompts_per_step} / ({world_size} ranks x "
                f"{self.mini_batches} mini_batches) = {self.prompts_per_step / share:g} prompts; make "
                f"prompts_per_step a multiple of {share}"
            )
        for field in ("steps", "save_every"):
            if getattr(self, field) % self.mini_batches:
                raise ValueError(
                    f"stage {self.name}: {field} {getattr(self, field)} / {self.mini_batches} mini_batches is not "
                    f"whole: {field} counts optimiser steps; make it a multiple of mini_batches"
                )
        rollouts = self.prompts_per_step * self.samples_per_prompt
        return (
            f"{self.prompts_per_step} prompts x {self.samples_per_prompt} samples = {rollouts} rollouts -> "
            f"{self.mini_batches} optimiser step(s) of {rollouts // self.mini_batches}, on {world_size} rank(s)"
        )


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
                if data not in self.data.files:
                    raise ValueError(f"{user}.data is {data!r}, but data.files has {', '.join(self.data.files)}")
        return self
