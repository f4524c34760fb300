"""Makes the loss, the advantage estimator and the batch source of an RL stage from its settings."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch

from sail_rl.config import KLConfig, LossConfig, Recipe, RLStage
from sail_rl.contracts import Sampling
from sail_rl.data.order import RowStream
from sail_rl.imports import resolve
from sail_rl.maths.aggregation import Aggregation
from sail_rl.maths.importance import ImportanceCorrection
from sail_rl.maths.losses import ActorCriticLoss, CispoSurrogate, ClippedSurrogate, LossFunction, PolicyLoss, Surrogate
from sail_rl.maths.mismatch import MismatchLimits
from sail_rl.models.loading import load_model
from sail_rl.trainer.annotate import Annotator, Reference, frozen_reference, policy_without_adapters
from sail_rl.trainer.distributed import zero3_disabled
from sail_rl.trainer.estimators import (
    AdvantageEstimator,
    BatchAdvantages,
    BatchGroupAdvantages,
    CompletionAdvantages,
    CriticAdvantages,
)
from sail_rl.trainer.prompt_ledger import PromptLedger
from sail_rl.trainer.rl import RolloutBatches
from sail_rl.trainer.sampling import GroupSampler

BATCH_ESTIMATORS: dict[str, Callable[[float], AdvantageEstimator]] = {
    "reinforce_pp": BatchAdvantages,
    "reinforce_pp_baseline": BatchGroupAdvantages,
}
LEVELS = {"clip": "token", "gspo": "sequence", "gspo_token": "sequence_token"}


def make_loss(config: RLStage) -> LossFunction:
    """Make the stage's loss."""
    loss = config.loss
    kl = _kl_in(loss, "loss")
    policy: LossFunction
    if loss.function:
        policy = resolve(loss.function)
    else:
        policy = PolicyLoss(
            _surrogate(loss),
            kl_coef=kl.coef if kl else 0.0,
            kl_kind=kl.kind if kl else "k3",
            entropy_coef=loss.entropy_coef,
        )
    return ActorCriticLoss(policy, config.critic.value_coef, config.critic.value_clip) if config.critic else policy


def _surrogate(loss: LossConfig) -> Surrogate:
    if ":" in loss.surrogate:
        return resolve(loss.surrogate)
    if loss.surrogate == "cispo":
        return CispoSurrogate(loss.clip_low, loss.clip_high)
    return ClippedSurrogate(loss.clip_low, loss.clip_high, LEVELS[loss.surrogate])  # type: ignore[arg-type]


def make_estimator(config: RLStage) -> AdvantageEstimator:
    """Make the stage's advantage estimator."""
    kl = _kl_in(config.loss, "reward")
    kl_coef = kl.coef if kl else 0.0
    if config.critic:
        critic = config.critic
        return CriticAdvantages(critic.gamma, critic.lam, critic.length_alpha, critic.value_lam, kl_coef)
    if config.advantages in BATCH_ESTIMATORS:
        return BATCH_ESTIMATORS[config.advantages](kl_coef)
    return CompletionAdvantages(config.advantages, kl_coef)


def _kl_in(loss: LossConfig, place: str) -> KLConfig | None:
    """The KL penalty, if it belongs in this place."""
    return loss.kl if loss.kl and loss.kl.place == place else None


def make_sampling(config: RLStage, seed: int) -> Sampling:
    """How the stage samples completions."""
    sampling = config.sampling
    return Sampling(
        sampling.samples_per_prompt,
        sampling.max_tokens,
        sampling.temperature,
        seed,
        max_new_tokens_per_round=sampling.partial_tokens,
        routed_experts=sampling.routing_replay,
    )


def make_ledger(config: RLStage, stream: RowStream) -> PromptLedger:
    """The stage's ledger of prompts. A partial rollout may need several rounds to reach its end."""
    sampling = config.sampling
    dynamic, partial = sampling.dynamic_sampling, sampling.partial_tokens
    rounds_of_rollout = math.ceil(sampling.max_tokens / partial) if partial else 1
    return PromptLedger(
        prompts_per_step=sampling.prompts_per_step,
        rows_at=stream.stretch,
        world_size=stream.world_size,
        max_rounds=(dynamic.max_rounds if dynamic else 1) * rounds_of_rollout,
        dynamic=dynamic is not None,
    )


def make_batches(config: RLStage, recipe: Recipe, sampler: GroupSampler, parent: Path) -> RolloutBatches:
    """Make the stage's batch source. Loads a reference model if the stage has a KL penalty and no adapters."""
    loss = config.loss
    return RolloutBatches(
        sampler=sampler,
        annotator=Annotator(
            recompute=loss.old_logprobs == "trainer",
            importance=ImportanceCorrection(**loss.importance.model_dump()) if loss.importance else None,
            values=config.critic is not None,
            reference=_reference(config, recipe, parent) if loss.kl else None,
        ),
        estimator=make_estimator(config),
        aggregation=Aggregation(loss.aggregation, config.sampling.max_tokens),
        mini_batches=config.mini_batches,
        epochs=config.epochs,
        skip_zero_advantage=not (
            config.critic or loss.entropy_coef or _kl_in(loss, "loss") or config.custom_code.keys() - {"advantages"}
        ),
        overlong_filtering=loss.overlong_filtering,
        critic_warmup=config.critic.warmup_steps if config.critic else 0,
        probe_rollouts=recipe.engine.probe_rollouts,
        mismatch_limits=MismatchLimits(**recipe.engine.mismatch.model_dump()),
    )


def _reference(config: RLStage, recipe: Recipe, parent: Path) -> Reference:
    """The stage's starting model: the policy without its adapters, or a frozen, unpartitioned copy on every rank."""
    if config.lora:
        return policy_without_adapters
    with zero3_disabled():
        model = load_model(parent, dtype=getattr(torch, recipe.model.dtype), head_dtype=recipe.model.head_dtype)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return frozen_reference(model.requires_grad_(False).eval().to(device))
