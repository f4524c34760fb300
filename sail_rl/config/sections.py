"""The sections of a recipe that aren't stages: model, data, engine, evaluation, DeepSpeed, logging."""

from __future__ import annotations

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

from sail_rl.paths import UserPath

DEFAULT_SCORER = "rewards.combine.compose:Composition"
DEFAULT_GUARDS = "rewards.guards:GUARDS"
ISOLATION = "rewards.process.isolated:Isolated"
LOADER = "rewards.combine.loading:load_reward"


NAME = r"^[A-Za-z0-9_-]+$"
Name = Annotated[str, Field(pattern=NAME)]
"""A name that folders, metrics and overrides can hold."""


class Strict(BaseModel):
    """The base of all settings: immutable, and refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class ModelConfig(Strict):
    """The base model: a checkpoint folder, or by default a tiny SAIL-VL2 that the run builds."""

    path: UserPath | None = None
    """Folder of a saved SAIL-VL2; None builds the tiny one."""
    size: Literal["2B", "8B", "30B-A3B"] | None = None
    """The published size of the model at `path`. `sail-rl check` uses it while the folder is missing."""
    llm: Literal["qwen3", "qwen3_moe"] = "qwen3"
    """Language model of the tiny SAIL-VL2 (not read when `path` is given)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the weights, in training and in the engine."""
    head_dtype: Literal["float32"] | None = None
    """float32: the head computes logits in float32 in trainer and engine, which makes bfloat16's mismatch smaller.
    None: as the model's config.json says, or in `dtype`."""
    max_length: PositiveInt = 1024
    """Longest sequence in tokens, prompt and completion together."""


class SourceConfig(Strict):
    """One dataset: where it is, and what its columns are called."""

    path: UserPath | None = None
    """A JSON, CSV, Parquet or Arrow file, or a folder (see `data.files`)."""
    hub: str | None = None
    """Or a dataset of the Hugging Face hub, `organisation/dataset`. It is fetched once, into the run's folder."""
    config: str | None = None
    """The hub dataset's configuration."""
    split: str = "train"
    """The hub dataset's split."""
    revision: str | None = None
    """The hub dataset's branch, tag or commit."""
    rows: PositiveInt | None = None
    """Read only this many first rows of a hub dataset, as a stream."""
    columns: dict[str, str] = {}
    """Our column names mapped to the dataset's, such as `{prompt: problem, answer: solution}`."""
    root: UserPath | None = None
    """Folder that image and video paths are relative to, ; paths must stay inside it; None: the dataset's own."""

    @property
    def on_hub(self) -> dict[str, Any]:
        """The keys that identify the hub dataset."""
        return self.model_dump(include={"hub", "config", "split", "revision", "rows"})

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give either `path` (a file or folder here) or `hub` (organisation/dataset)")
        if self.hub is None and (self.rows or self.config or self.revision):
            raise ValueError("rows, config and revision are for a `hub` dataset")
        return self


class MismatchConfig(Strict):
    """Limits of the training–inference mismatch in nats (see `maths.mismatch`). The defaults are for float32."""

    mean: PositiveFloat = 1e-4
    """Largest mean |difference| of a token's log-probs."""
    p99: PositiveFloat = 1e-3
    """Largest 99th percentile of the tokens' |differences|."""
    kl: PositiveFloat = 1e-2
    """Largest KL divergence of a completion between engine and trainer, k3 estimate, mean over completions."""


class EngineConfig(Strict):
    """The rollout engine: `path(model_dir, max_model_len=…, dtype=…, **kwargs)`."""

    path: str = "rollouts.vllm_engine:VLLMEngine"
    """The engine's class, by `module:name` or `file.py:name`."""
    kwargs: dict[str, Any] = {}
    """Further keyword arguments of the class."""
    probe_rollouts: PositiveInt = 8
    """Rollouts whose log-probs the trainer recomputes after each weight push."""
    mismatch: MismatchConfig = MismatchConfig()
    """Limits of the training–inference mismatch; beyond any of them the run stops."""


class RewardConfig(Strict):
    """One reward: a function in the style of TRL, verl or EasyR1, or a class or function that makes one of `kwargs`."""

    path: str
    """The function or class, by `module:name` or `file.py:name`. Its parameters' names tell its style."""
    weight: float | None = None
    """Weight in the total, 1 by default; 0 logs only. A stage's `total` expression replaces all weights."""
    kwargs: dict[str, Any] = {}
    """Keyword arguments of the function or class."""
    call_order: NonNegativeFloat | None = None
    """0: called for every rollout. Above 0: called in ascending order, only where the total still depends on it.
    None: the function's own `call_order`, or 0."""
    on_none: Literal["skip", "zero", "fail"] = "fail"
    """What None means in the total: the reward is left out, it counts 0, or the run stops."""
    on_error: Literal["fail", "zero", "none"] = "fail"
    """What an exception means: the run stops and shows the sample, the reward is 0, or it is None."""
    isolate: bool = False
    """Call it in killable processes, one rollout at a time: for code that may hang, crash or eat memory."""
    timeout: PositiveFloat = 10.0
    """Seconds that one rollout may take, with `isolate`."""
    batch_timeout: PositiveFloat = 600.0
    """Seconds that a whole batch may take, with `isolate`."""
    memory_gib: PositiveFloat = 2.0
    """Address space of each process in GiB, with `isolate`."""


class EvaluationConfig(Strict):
    """Evaluation on held-out datasets before and after each stage, and after every `every` steps."""

    data: Name | Annotated[list[Name], Field(min_length=1)]
    """One dataset, or several. The summary has the accuracy on the first one."""
    rewards: dict[Name, RewardConfig]
    """The reward named `accuracy` gives the held-out accuracy of the summary."""
    scorer: str = DEFAULT_SCORER
    """Combines the rewards: `scorer(terms)` with a list of `RewardTerm`."""
    max_tokens: PositiveInt = 256
    """Longest completion in tokens."""
    temperature: NonNegativeFloat = 0.0
    """0: greedy decoding. Above 0: pass@1 of seeded samples."""
    samples: PositiveInt = 1
    """Completions of each prompt. Several also give pass@k and maj@k."""
    every: PositiveInt = 20
    """Optimiser steps between evaluations."""

    @property
    def sets(self) -> list[str]:
        """The datasets."""
        return [self.data] if isinstance(self.data, str) else self.data

    @model_validator(mode="after")
    def _has_accuracy(self) -> Self:
        if "accuracy" not in self.rewards:
            raise ValueError(f"evaluation.rewards has {', '.join(self.rewards) or 'none'} but no `accuracy`")
        if self.samples > 1 and not self.temperature:
            raise ValueError("evaluation.samples above 1 takes a temperature above 0: greedy samples are all alike")
        return self


class DeepSpeedConfig(Strict):
    """Settings of DeepSpeed."""

    zero_stage: Literal[0, 1, 2, 3] = 2
    """0: nothing is partitioned. 1: optimiser states are; 2: gradients, too; 3: weights, too."""
    offload_optimizer: bool = False
    """Keep optimiser states in CPU memory (the report's choice for the MoE, with ZeRO-2)."""
    zero_options: dict[str, Any] = {}
    """Further keys of DeepSpeed's `zero_optimization`, such as `stage3_param_persistence_threshold`."""
    timeout_minutes: PositiveFloat = 30.0
    """How long a rank waits for the others before the job ends with an error."""


class LoggingConfig(Strict):
    """Weights & Biases, traces and stored rollouts."""

    wandb_project: Annotated[str, Field(min_length=1, max_length=128)] = "sail-rl"
    """Project of the run on Weights & Biases; without / \\ # ? % and :."""
    traces_per_step: NonNegativeInt = 2
    """Rollouts of each step that the report shows, with their images."""
    rollouts_gib: NonNegativeFloat = 4.0
    """Space for all rollouts in Parquet files, for each rank. Beyond it the oldest are deleted. 0: none are written."""

    @model_validator(mode="after")
    def _project_name(self) -> Self:
        if bad := [sign for sign in "/\\#?%:" if sign in self.wandb_project]:
            raise ValueError(f"wandb_project is {self.wandb_project!r}, but W&B allows no {bad[0]!r}; leave it out")
        return self
