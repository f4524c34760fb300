"""The stage of reinforcement learning: every algorithm is a choice of these settings."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from .algorithms import Algorithm, with_algorithm
from .loss import CodePath, LossConfig, how_named
from .sections import DEFAULT_GUARDS, DEFAULT_SCORER, Name, RewardConfig, Strict
from .stages import StageConfig

Advantages = Annotated[
    Annotated[Literal["grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline", "gae"], Tag("name")]
    | CodePath,
    Discriminator(how_named),
]


class DynamicSamplingConfig(Strict):
    """Replace groups without a signal by groups of other prompts (DAPO)."""

    max_rounds: PositiveInt = 3
    """Most rounds of `prompts_per_step` prompts for one batch of rollouts. 1: such groups are dropped, not replaced."""


class CriticConfig(Strict):
    """The critic of `advantages: gae` (PPO)."""

    kind: Literal["head", "model"] = "head"
    """A value head on the policy, or a separate model."""
    learning_rate: PositiveFloat | None = None
    """Constant learning rate of the critic's own weights; None: `optimizer.learning_rate`."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Discount of rewards."""
    lam: Annotated[float, Field(ge=0, le=1)] = 1.0
    """λ of the policy's advantages (GAE). Below 1 a reward at the end reaches early tokens through the critic's values,
    so an error of the critic becomes a bias there."""
    length_alpha: PositiveFloat | None = None
    """Length-adaptive λ in place of `lam`: 1 - 1 / (length_alpha · completion length), at least 0 (VAPO)."""
    value_lam: Annotated[float, Field(ge=0, le=1)] = 1.0
    """λ of the critic's targets. 1: the returns as sampled, free of the critic's own errors (VC-PPO)."""
    value_coef: PositiveFloat = 0.5
    """Factor of the critic's squared error beside the policy's loss."""
    value_clip: PositiveFloat | None = None
    """Largest change of a value in one batch of rollouts that lowers the critic's loss (PPO2); None: no limit."""
    warmup_steps: NonNegativeInt = 0
    """Optimiser steps at the start that train the critic alone. A value head then doesn't train the policy's layers."""


class SamplingConfig(Strict):
    """How a batch of rollouts is sampled and scored."""

    prompts_per_step: PositiveInt
    """Prompts of one batch of rollouts, over all ranks."""
    samples_per_prompt: PositiveInt
    """Completions of each prompt; they are the group of the advantage baseline."""
    max_tokens: PositiveInt = 256
    """Longest completion in tokens."""
    temperature: PositiveFloat = 1.0
    dynamic_sampling: DynamicSamplingConfig | None = None
    """Replace groups whose rewards are all equal (DAPO)."""
    groups_per_score: PositiveInt = 1
    """Number of finished groups that are scored in one call. Larger values suit rewards that call a service."""
    staleness: Literal[0, 1] = 0
    """1: sample the next batch of rollouts while this one trains, except across checkpoints and evaluations. The ratio
    corrects for the older weights, or `loss.importance` does with `old_logprobs: trainer`. The engine must run out of
    process."""
    partial_tokens: PositiveInt | None = None
    """Partial rollouts: one round adds at most this many tokens to a completion. Sampling ends when enough groups are
    complete; the next batch continues the others with newer weights. Requires VLLMEngine or WorkerEngine."""
    routing_replay: bool = False
    """MoE: compute log-probs and gradients with the experts that the sampler used (R3, see `models.routing`)."""

    @property
    def sources_of_older_rollouts(self) -> list[str]:
        """The settings by which a batch may hold rollouts that older weights sampled."""
        found = {
            "staleness 1": self.staleness,
            "partial_tokens": self.partial_tokens,
            "dynamic_sampling (its surplus)": self.dynamic_sampling and self.dynamic_sampling.max_rounds > 1,
        }
        return [name for name, given in found.items() if given]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.partial_tokens and self.partial_tokens >= self.max_tokens:
            raise ValueError(
                f"partial_tokens is {self.partial_tokens}, and a completion has at most max_tokens {self.max_tokens}: "
                "no completion would ever be continued; give less, or leave it out"
            )
        return self


class RLStage(StageConfig):
    """Reinforcement learning. Without `algorithm` it has GRPO's advantages and DAPO's token-level clipped loss."""

    kind: Literal["rl"]
    learns_from: ClassVar[Literal["prompts"]] = "prompts"
    makes_data: ClassVar[None] = None
    empty_thought: ClassVar[Literal["none"]] = "none"
    adalrs: ClassVar[None] = None
    algorithm: Algorithm | None = None
    """Sets the defaults of `advantages`, `critic`, `sampling.dynamic_sampling` and `loss` (see `config.algorithms`)."""
    rewards: dict[Name, RewardConfig]
    """The rewards by name."""
    total: str | None = None
    """The total as an expression over the rewards' names, such as `0.9 * judge * answer + 0.1 * format`. None: the sum
    of weight x reward."""
    weights_sum_to_one: bool = False
    """Refuse weights that give a total other than 1 when every reward is 1."""
    guards: str | None = DEFAULT_GUARDS
    """Path of a mapping from names to rewards of weight 0 that watch for reward hacking; null: no guards."""
    scorer: str = DEFAULT_SCORER
    """Combines the rewards: `scorer(terms)` with a list of `RewardTerm`, and with `expression=…` and
    `weights_sum_to_one=…` if the stage sets them."""
    sampling: SamplingConfig
    mini_batches: PositiveInt = 1
    """Parts of a batch of rollouts; each is one optimiser step."""
    epochs: PositiveInt = 1
    """Passes over each batch of rollouts (TRL's num_iterations)."""
    advantages: Advantages = "grpo"
    """Estimator of advantages (see `maths.advantages`), or the path of a function from rewards to advantages."""
    critic: CriticConfig | None = None
    """The critic, with `advantages: gae`."""
    loss: LossConfig = LossConfig()

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_algorithm(cls, stage: Any) -> Any:
        return with_algorithm(stage) if isinstance(stage, dict) else stage

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.critic is not None) != (self.advantages == "gae"):
            raise ValueError(f"stage {self.name}: `advantages: gae` and `critic` belong together; give both or neither")
        compares = self.advantages in ("grpo", "dr_grpo", "rloo", "reinforce_pp_baseline")
        if compares and self.sampling.samples_per_prompt < 2:
            raise ValueError(
                f"stage {self.name}: sampling.samples_per_prompt is 1, but advantages {self.advantages!r} compare a "
                "prompt's samples; give 2 or more"
            )
        if self.sampling.dynamic_sampling and self.sampling.samples_per_prompt < 2:
            raise ValueError(
                f"stage {self.name}: dynamic_sampling compares the samples of a prompt; give samples_per_prompt 2 or "
                "more"
            )
        return self

    @model_validator(mode="after")
    def _corrects_for_older_weights(self) -> Self:
        """Old log-probs of the newest weights make the ratio start at 1, whatever weights sampled the rollouts."""
        loss, older = self.loss, self.sampling.sources_of_older_rollouts
        if loss.old_logprobs == "trainer" and not loss.importance and not loss.function and older:
            raise ValueError(
                f"stage {self.name}: with {', '.join(older)}, older weights sample a part of the rollouts, and with "
                "loss.old_logprobs: trainer the ratio wouldn't correct for them; add loss.importance: {} (or set "
                "old_logprobs: rollout)"
            )
        return self

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if self.total is not None:
            if both := [name for name, reward in self.rewards.items() if reward.weight is not None]:
                raise ValueError(
                    f"stage {self.name}: {', '.join(both)} has a `weight` beside the expression `total`; keep the "
                    "weights in the expression (a reward that it doesn't name is logged only)"
                )
        elif all(reward.weight == 0 for reward in self.rewards.values()):
            raise ValueError(f"stage {self.name}: no reward has a weight, so there is nothing to learn from")
        return self

    def check_algebra(self, world_size: int) -> str:
        """The batch algebra in one line; ValueError if the batch can't be divided evenly."""
        prompts, samples = self.sampling.prompts_per_step, self.sampling.samples_per_prompt
        for count, unit in ((world_size, "ranks"), (self.mini_batches, "mini_batches")):
            if prompts % count:
                raise ValueError(
                    f"stage {self.name}: prompts_per_step {prompts} / {count} {unit} = {prompts / count:g} prompts; "
                    f"make prompts_per_step a multiple of {count}"
                )
        for field in ("steps", "save_every"):
            if getattr(self, field) % self.updates:
                raise ValueError(
                    f"stage {self.name}: {field} {getattr(self, field)} / ({self.mini_batches} mini_batches x "
                    f"{self.epochs} epochs) is not whole: {field} counts optimiser steps; make it a multiple of "
                    f"{self.updates}"
                )
        rollouts = prompts * samples
        return (
            f"{prompts} prompts x {samples} samples = {rollouts} rollouts -> "
            f"{self.updates} optimiser step(s) of {rollouts // self.mini_batches} "
            f"({self.mini_batches} mini-batch(es) x {self.epochs} epoch(s)), on {world_size} rank(s)"
        )

    @property
    def custom_code(self) -> dict[str, str]:
        """The paths of the stage's own estimator, surrogate and loss, by key."""
        named = {"advantages": self.advantages, "loss.surrogate": self.loss.surrogate}
        named |= {"loss.function": self.loss.function or ""}
        return {key: path for key, path in named.items() if ":" in path}

    @property
    def critic_kind(self) -> Literal["head", "model"] | None:
        return self.critic.kind if self.critic else None

    @property
    def critic_learning_rate(self) -> float | None:
        """Constant learning rate of the critic's weights; None without a critic."""
        return (self.critic.learning_rate or self.optimizer.learning_rate) if self.critic else None

    @property
    def needs_reference(self) -> bool:
        return self.loss.kl is not None and self.lora is None

    @property
    def updates(self) -> int:
        """Optimiser steps for each batch of rollouts."""
        return self.mini_batches * self.epochs
