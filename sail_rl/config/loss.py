"""The loss of an RL stage: surrogate, KL penalty, importance correction."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, NonNegativeFloat, PositiveFloat, Tag, model_validator

from .algorithms import SURROGATE_DEFAULTS
from .sections import Strict


def how_named(value: Any) -> str:
    """The tag "path" for code of the user's own, or "name" for ours."""
    return "path" if isinstance(value, str) and ":" in value else "name"


CodePath = Annotated[str, Field(pattern=r"^.+:\w+$"), Tag("path")]
"""`file.py:name` or `module:name`."""
SurrogateName = Annotated[
    Annotated[Literal["clip", "gspo", "gspo_token", "cispo"], Tag("name")] | CodePath, Discriminator(how_named)
]


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


class LossConfig(Strict):
    """The loss. Its defaults are DAPO's token-level clipped loss."""

    function: CodePath | None = None
    """Path of a `maths.losses.LossFunction` that replaces the surrogate, the entropy bonus and the KL penalty."""
    surrogate: SurrogateName = "clip"
    """Policy objective (see `maths.losses`), or the path of another `maths.losses.Surrogate`."""
    aggregation: Literal["token_mean", "sequence_mean", "fixed_length"] = "token_mean"
    """How token losses become one number (see `maths.aggregation`)."""
    clip_low: Annotated[float, Field(gt=0, le=1)] = 0.20
    """How far below 1 the ratio may fall before it is clipped. CISPO's default is 1: no lower limit."""
    clip_high: PositiveFloat = 0.28
    """How far above 1 the ratio may rise before it is clipped."""
    kl: KLConfig | None = None
    """Penalty on the KL divergence from the stage's starting model."""
    entropy_coef: NonNegativeFloat = 0.0
    """Factor of the entropy bonus."""
    old_logprobs: Literal["rollout", "trainer"] = "rollout"
    """The log-probs that the ratio divides by: the engine's, under the weights that sampled each token, or the
    trainer's, recomputed with the newest weights before the first update. With the latter only `importance` corrects
    for older weights, so it is required where a batch may hold older rollouts."""
    importance: ImportanceConfig | None = None
    """Weights that correct from the engine's log-probs to the trainer's."""
    overlong_filtering: bool = False
    """Exclude completions that were cut at `max_tokens` from the loss (DAPO)."""

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_surrogate(cls, loss: Any) -> Any:
        if not isinstance(loss, dict):
            return loss
        surrogate = loss.get("surrogate")
        return SURROGATE_DEFAULTS.get(surrogate, {}) | loss if isinstance(surrogate, str) else loss

    @model_validator(mode="after")
    def _one_ratio_for_a_sequence(self) -> Self:
        if self.surrogate in ("gspo", "gspo_token") and self.aggregation != "sequence_mean":
            raise ValueError(
                f"loss.aggregation is {self.aggregation}, but {self.surrogate} has one ratio for a completion, and its "
                "objective is a mean over completions; set aggregation: sequence_mean"
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.importance and self.old_logprobs != "trainer":
            raise ValueError(
                "importance corrects from the engine's to the trainer's log-probs; set old_logprobs: trainer"
            )
        if self.function and (self.entropy_coef or (self.kl and self.kl.place == "loss")):
            raise ValueError(
                f"{self.function} is the whole loss, so entropy_coef and a KL penalty in the loss would not be read; "
                "leave them out, or set kl.place: reward"
            )
        return self
