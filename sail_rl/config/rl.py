"""The stage of reinforcement learning: every algorithm is a choice of these settings."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from .sections import DEFAULT_GUARDS, DEFAULT_SCORER, RewardConfig, Strict
from .stages import StageConfig


class KLConfig(Strict):
    """A penalty on the distance from the stage's starting model."""

    coef: PositiveFloat
    kind: Literal["k1", "k2", "k3"] = "k3"
    """Estimate of the divergence in the loss (see `maths.kl`); in the reward it is always k1."""
    place: Literal["loss", "reward"] = "loss"


class ImportanceConfig(Strict):
    """Correction for rollouts that another policy sampled (see `maths.importance`)."""

    mode: Literal["truncate", "mask"] = "truncate"
    level: Literal["token", "sequence"] = "token"
    high: PositiveFloat = 2.0
    low: NonNegativeFloat = 0.0


class DynamicSamplingConfig(Strict):
    """Groups without a signal are replaced (DAPO)."""

    max_rounds: PositiveInt = 3
    """Batches of `prompts_per_step` prompts that one batch of rollouts may use up. 1: dropped, never replaced."""


class CriticConfig(Strict):
    """PPO's critic, for `advantages: gae`."""

    kind: Literal["head", "model"] = "head"
    """A value head on the policy, or a second model of its own."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 1.0
    lam: Annotated[float, Field(ge=0, le=1)] = 0.95
    value_coef: PositiveFloat = 0.5
    value_clip: PositiveFloat = 0.2
    warmup_steps: NonNegativeInt = 0
    """Optimiser steps at the start in which only the critic learns."""


class RLStage(StageConfig):
    """Reinforcement learning; the defaults are GRPO's advantages with DAPO's token-level clipped loss."""

    kind: Literal["rl"]
    rewards: dict[str, RewardConfig]
    reward: str | None = None
    """The total as an expression over the rewards' names, `0.9 * judge * think * answer + 0.1 * format`; None: the sum
    of weight x reward."""
    weights_sum_to_one: bool = False
    """Refuse weights with which rewards of 1 don't make a total of 1."""
    guards: str | None = DEFAULT_GUARDS
    """Rewards of weight 0 that watch for reward hacking: a mapping of name to function; null: none."""
    scorer: str = DEFAULT_SCORER
    """Combines the rewards: `scorer(terms)` with a list of `RewardTerm`, and `expression=…` and `weights_sum_to_one=…`
    where the stage says so."""
    prompts_per_step: PositiveInt
    """Prompts of one batch of rollouts, over all ranks."""
    samples_per_prompt: PositiveInt
    mini_batches: PositiveInt = 1
    """Parts that a batch of rollouts is cut into, an optimiser step each."""
    epochs: PositiveInt = 1
    """Passes over each batch of rollouts (TRL's num_iterations)."""
    max_tokens: PositiveInt = 256
    """Longest completion in tokens."""
    temperature: PositiveFloat = 1.0
    advantages: Literal["grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline", "gae"] = "grpo"
    """Estimator of advantages (see `maths.advantages`)."""
    surrogate: Literal["clip", "gspo", "gspo_token", "cispo"] = "clip"
    """Policy objective (see `maths.losses`)."""
    aggregation: Literal["token_mean", "sequence_mean", "fixed_length"] = "token_mean"
    """How token losses become one number (see `maths.aggregation`)."""
    clip_low: Annotated[float, Field(gt=0, le=1)] = 0.20
    clip_high: PositiveFloat = 0.28
    kl: KLConfig | None = None
    entropy_coef: NonNegativeFloat = 0.0
    old_logprobs: Literal["rollout", "trainer"] = "rollout"
    """Whose log-probs the ratio divides by: the engine's, or the trainer's before the first update (recomputed)."""
    importance: ImportanceConfig | None = None
    staleness: Literal[0, 1] = 0
    """1: the next batch of rollouts is sampled while this one is trained on, except across checkpoints and evaluations;
    the ratio then corrects for weights that are one batch old. Takes an engine in processes of its own."""
    groups_per_score: PositiveInt = 1
    """Groups that are scored in one call, as soon as they are finished; more suit rewards that ask a service."""
    oversample: Annotated[float, Field(ge=1, le=4)] = 1.0
    """Prompts begun, over `prompts_per_step`: sampling ends when enough groups are complete, and the long tail begins
    anew with the next batch, which waits for it. Which groups these are depends on timing, but for `partial_tokens`."""
    partial_tokens: PositiveInt | None = None
    """Partial rollouts: a completion grows by at most so many tokens at a time. Sampling ends when enough groups are
    complete, and the others are gone on with in the next batch, by newer weights. Takes VLLMEngine or WorkerEngine."""
    routing_replay: bool = False
    """MoE: compute log-probs and gradients with the experts that the sampler used (R3, see `models.routing`)."""
    dynamic_sampling: DynamicSamplingConfig | None = None
    overlong_filtering: bool = False
    """Leave completions that were cut at `max_tokens` out of the loss (DAPO)."""
    critic: CriticConfig | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.critic is not None) != (self.advantages == "gae"):
            raise ValueError(f"stage {self.name}: `advantages: gae` and `critic` belong together; give both or neither")
        if self.advantages not in ("gae", "reinforce_pp") and self.samples_per_prompt < 2:
            raise ValueError(
                f"stage {self.name}: samples_per_prompt is 1, but advantages {self.advantages!r} compare a "
                "prompt's samples; give 2 or more"
            )
        if self.dynamic_sampling and self.samples_per_prompt < 2:
            raise ValueError(f"stage {self.name}: dynamic_sampling compares the samples of a prompt; give 2 or more")
        if self.partial_tokens and self.partial_tokens >= self.max_tokens:
            raise ValueError(
                f"stage {self.name}: partial_tokens is {self.partial_tokens}, and a completion has at most max_tokens "
                f"{self.max_tokens}: nothing would ever be carried on; give less, or leave it out"
            )
        if self.importance and self.old_logprobs != "trainer":
            raise ValueError(
                f"stage {self.name}: importance corrects from the engine's to the trainer's log-probs; set "
                "old_logprobs: trainer"
            )
        return self

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if self.reward is not None:
            if both := [name for name, reward in self.rewards.items() if reward.weight is not None]:
                raise ValueError(
                    f"stage {self.name}: {', '.join(both)} has a `weight` beside the expression `reward`; keep the "
                    "weights in the expression (a reward that it doesn't name is logged only)"
                )
        elif all(reward.weight == 0 for reward in self.rewards.values()):
            raise ValueError(f"stage {self.name}: no reward has a weight, so there is nothing to learn from")
        return self

    def check_algebra(self, world_size: int) -> str:
        """The batch algebra in one line; ValueError if it doesn't come out even."""
        for count, unit in ((world_size, "ranks"), (self.mini_batches, "mini_batches")):
            if self.prompts_per_step % count:
                raise ValueError(
                    f"stage {self.name}: prompts_per_step {self.prompts_per_step} / {count} {unit} = "
                    f"{self.prompts_per_step / count:g} prompts; make prompts_per_step a multiple of {count}"
                )
        for field in ("steps", "save_every"):
            if getattr(self, field) % self.updates:
                raise ValueError(
                    f"stage {self.name}: {field} {getattr(self, field)} / ({self.mini_batches} mini_batches x "
                    f"{self.epochs} epochs) is not whole: {field} counts optimiser steps; make it a multiple of "
                    f"{self.updates}"
                )
        rollouts = self.prompts_per_step * self.samples_per_prompt
        return (
            f"{self.prompts_per_step} prompts x {self.samples_per_prompt} samples = {rollouts} rollouts -> "
            f"{self.updates} optimiser step(s) of {rollouts // self.mini_batches} "
            f"({self.mini_batches} mini-batch(es) x {self.epochs} epoch(s)), on {world_size} rank(s)"
        )

    @property
    def updates(self) -> int:
        """Optimiser steps for each batch of rollouts."""
        return self.mini_batches * self.epochs
