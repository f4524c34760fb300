"""Settings and facts of stages: the shared ones, supervised fine-tuning, and the stages that train nothing."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from .sections import Name, Strict

Part = Literal["vision", "adapter", "llm"]
PARTS: tuple[Part, ...] = ("vision", "adapter", "llm")


class LoRAConfig(Strict):
    """Low-rank adapters instead of whole weights (LoRA, arXiv 2106.09685), by PEFT."""

    r: PositiveInt = 16
    alpha: PositiveFloat = 32.0
    """The adapters' product is multiplied by alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout of the adapters' inputs in training. An MoE's experts can't have it."""
    targets: Annotated[tuple[Part, ...], Field(min_length=1)] = ("llm", "adapter")
    """Parts whose attention and MLP layers get adapters."""
    quantize: Literal["nf4"] | None = None
    """Keep the language model's frozen weights in 4 bits (QLoRA, arXiv 2305.14314): needs a GPU and bitsandbytes."""


class OptimizerConfig(Strict):
    """AdamW and the schedule of its learning rate."""

    learning_rate: PositiveFloat
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    warmup_steps: NonNegativeInt = 0
    weight_decay: NonNegativeFloat = 0.0
    adam_beta2: Annotated[float, Field(gt=0, lt=1)] = 0.999
    max_grad_norm: PositiveFloat = 1.0


class AnyKind(Strict):
    """The base of all stages: a name, and facts that hold for every stage of a kind."""

    name: Name

    trains: ClassVar[Literal[True, False]] = False
    """Whether the stage trains a policy."""
    learns_from: ClassVar[Literal["completions", "prompts"] | None] = None
    """The columns that its training rows must have: prompts, or prompts with completions."""
    makes_model: ClassVar[bool] = False
    """Whether later stages can start from the stage's model."""
    makes_data: ClassVar[Literal["completions", "prompts"] | None] = None
    """The contents of the dataset that it makes, which has the stage's name; None: it makes none."""
    evaluated: ClassVar[bool] = True
    """Whether the stage's result depends on the held-out datasets."""

    @property
    def reads_rollouts_of(self) -> str | None:
        """Name of the RL stage whose stored rollouts this stage reads."""
        return None

    def parents(self, newest: str) -> list[str]:
        """Names of the stages whose models this one starts from.

        Args:
            newest: the stage before it that made the newest model, or `base`.
        """
        return []


class StageConfig(AnyKind):
    """Settings of every training stage: data, steps and optimiser."""

    trains: ClassVar[Literal[True]] = True
    makes_model: ClassVar[bool] = True

    data: Name
    """Name of a dataset in `data`."""
    parent: str | None = None
    """The stage whose model this one starts from, or `base`; None: the newest model before it."""
    seed: NonNegativeInt | None = None
    """Seed of the order of rows and of sampling; None: the recipe's."""
    steps: PositiveInt
    """Number of optimiser steps."""
    optimizer: OptimizerConfig
    pack_length: PositiveInt = 2048
    """Tokens of a micro-batch on one rank. It changes speed and memory, not results."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: slower, with far less memory."""
    max_skipped_steps: PositiveInt = 3
    """Stop after this number of consecutive optimiser steps with a non-finite gradient."""
    router_aux_loss_coef: NonNegativeFloat | None = None
    """MoE only: weight of the load-balancing loss (1 at balance) over the whole step; None: the model config's value.
    With several micro-batches per rank it costs one more forward pass for each but the first. 0 turns it off, and so do
    frozen routers (with `lora`, or without llm in `trainable`)."""
    router_z_loss_coef: NonNegativeFloat = 1e-3
    """MoE only: weight of the router z-loss (ST-MoE's value by default); 0 while the routers are frozen."""
    save_every: PositiveInt = 50
    """Optimiser steps between checkpoints."""
    metric_for_best_model: Annotated[str, Field(pattern="^eval/.+")] | None = None
    """The stage's model is the one with the best value of this metric at an evaluation, such as
    `eval/heldout/accuracy`; None: the last. If it is of the first dataset of `evaluation.data`, half of that dataset's
    rows choose, and the summary shows the accuracy on the other half."""
    greater_is_better: bool = True
    """Whether a larger value of `metric_for_best_model` is better."""
    trainable: Literal["all"] | Annotated[tuple[Part, ...], Field(min_length=1)] | None = None
    """Parts that are trained; the others are frozen. None: all parts, or with `lora` its targets."""
    lora: LoRAConfig | None = None
    """Train adapters in the parts that it targets. Trainable parts that it doesn't target are trained in full."""

    @property
    def critic_kind(self) -> Literal["head", "model"] | None:
        """Kind of the critic that is trained with the policy."""
        return None

    @property
    def needs_reference(self) -> bool:
        """Whether the stage keeps a frozen copy of its starting model as the reference (LoRA needs none)."""
        return False

    def parents(self, newest: str) -> list[str]:
        return [self.parent or newest]

    @property
    def learning(self) -> tuple[Part, ...]:
        """The parts that are trained, in the model's order."""
        if self.trainable is None:
            chosen = self.lora.targets if self.lora else PARTS
        else:
            chosen = PARTS if self.trainable == "all" else self.trainable
        return tuple(part for part in PARTS if part in chosen)

    @model_validator(mode="after")
    def _parts(self) -> Self:
        if self.router_aux_loss_coef and (self.lora or "llm" not in self.learning):
            raise ValueError(
                f"stage {self.name}: router_aux_loss_coef is {self.router_aux_loss_coef:g}, but the stage freezes the "
                "routers (`lora` does, and `trainable` without llm), so the loss would move other weights; leave it out"
            )
        if self.lora is None:
            return self
        if frozen := [part for part in self.lora.targets if part not in self.learning]:
            raise ValueError(
                f"stage {self.name}: lora.targets has {', '.join(frozen)}, which `trainable` freezes; name it in both "
                "or in neither"
            )
        if "llm" in self.learning and "llm" not in self.lora.targets:
            raise ValueError(
                f"stage {self.name}: `trainable` has llm, but lora.targets doesn't, so the largest part would train "
                "fully, and LoRA would save little memory; add llm to lora.targets or take it out of `trainable`"
            )
        return self


class RolloutsStage(AnyKind):
    """Base of the stages that make a dataset from an earlier RL stage's rollouts."""

    trains: ClassVar[Literal[False]] = False
    evaluated: ClassVar[bool] = False
    rollouts: str
    """Name of the RL stage."""
    minimum: Annotated[dict[str, float], Field(min_length=1)]
    """The lowest scores of a right rollout, by reward."""
    last_steps: PositiveInt | None = None
    """Use only this number of last steps of the RL stage; None: all stored rollouts."""
    where: dict[str, list[str]] = Field(default_factory=dict)
    """Use only rows whose column has one of these values."""

    @property
    def reads_rollouts_of(self) -> str:
        return self.rollouts


class HarvestStage(RolloutsStage):
    """Rejection sampling: right rollouts, as data for SFT."""

    kind: Literal["harvest"]
    makes_data: ClassVar[Literal["completions"]] = "completions"
    per_prompt: PositiveInt = 1
    """Number of different completions of one prompt."""


class FilterStage(RolloutsStage):
    """Rows by their pass rate, as data for RL."""

    kind: Literal["filter"]
    makes_data: ClassVar[Literal["prompts"]] = "prompts"
    keep: Literal["perception", "reasoning", "hard"] = "reasoning"
    """perception: rows that are not always right. reasoning: rows that are sometimes right. hard: rows that are right
    sometimes, at a rate of at most `hard_below`."""
    hard_below: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Highest pass rate of a hard row."""


class SoupStage(AnyKind):
    """The average of models of similar stages of this run."""

    kind: Literal["soup"]
    trains: ClassVar[Literal[False]] = False
    makes_model: ClassVar[bool] = True
    makes_data: ClassVar[None] = None
    models: Annotated[list[str], Field(min_length=2)]
    """Names of the stages whose models are averaged."""
    force: bool = False
    """Average models of unlike stages, too. In the report this destroyed the model."""

    def parents(self, newest: str) -> list[str]:
        return self.models


class ExportStage(AnyKind):
    """A folder to publish: weights, processor, generation config, model card with lineage and curves."""

    kind: Literal["export"]
    trains: ClassVar[Literal[False]] = False
    makes_data: ClassVar[None] = None
    evaluated: ClassVar[bool] = False
    model: str | None = None
    """Name of the stage whose model is exported; None: the newest model before it."""
    published: bool = False
    """Write the published layout. False: our layout, which vLLM reads."""

    def parents(self, newest: str) -> list[str]:
        return [self.model or newest]


class AdaLRSConfig(Strict):
    """A line search for the learning rate (AdaLRS, see `maths.adalrs`)."""

    window: Annotated[int, Field(ge=3)] = 10
    """Number of steps over which the loss slope is measured. `save_every` must be a multiple of it."""
    alpha: Annotated[float, Field(gt=1)] = 2.0
    """Factor by which a trial raises the learning rate."""
    beta: Annotated[float, Field(gt=1)] = 2.0
    """Divisor of the learning rate after a bad trial."""
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Factor by which `alpha` and `beta` shrink with each trial, until the search ends."""


class PackingConfig(Strict):
    """Stream packing with visual balance (see `data.stream`): a step is a fixed number of full micro-batches."""

    micro_batches: PositiveInt
    """Micro-batches of `pack_length` tokens of one optimiser step, over all ranks."""
    buffer: PositiveInt = 256
    """Number of waiting samples; a larger buffer fills micro-batches better."""


class SFTStage(StageConfig):
    """Supervised fine-tuning on prompt/completion rows."""

    kind: Literal["sft"]
    learns_from: ClassVar[Literal["completions"]] = "completions"
    makes_data: ClassVar[None] = None
    batch_size: PositiveInt | None = None
    """Samples of one optimiser step, over all ranks. Give this or `packing`."""
    packing: PackingConfig | None = None
    """Fill a fixed number of micro-batches instead of taking a fixed number of samples."""
    empty_thought: Literal["none", "trained", "masked"] = "none"
    """What is put before a completion without a thought: nothing, or Qwen3's empty `<think></think>`, which is trained
    on or masked as part of the prompt."""
    adalrs: AdaLRSConfig | None = None
    """Search the learning rate while training."""

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.batch_size is None) == (self.packing is None):
            raise ValueError(
                f"stage {self.name}: give either batch_size (samples of a step) or packing (micro-batches of a step)"
            )
        return self

    @model_validator(mode="after")
    def _windows(self) -> Self:
        if self.adalrs and self.save_every % self.adalrs.window:
            raise ValueError(
                f"stage {self.name}: save_every {self.save_every} must be a multiple of adalrs.window "
                f"{self.adalrs.window}: checkpoints fall on the ends of its windows"
            )
        return self

    def check_algebra(self, world_size: int) -> str:
        """Return the batch algebra in one line; raise ValueError if the batch can't be divided evenly."""
        name, unit, size = ("batch_size", "samples", self.batch_size or 0)
        if self.packing:
            name, size = "packing.micro_batches", self.packing.micro_batches
            unit = f"micro-batches of {self.pack_length} tokens"
        if size % world_size:
            raise ValueError(
                f"stage {self.name}: {name} {size} / {world_size} ranks = {size / world_size:g} {unit} a rank; make "
                f"{name} a multiple of {world_size}"
            )
        return f"{size} {unit} a step = {world_size} rank(s) x {size // world_size}"
