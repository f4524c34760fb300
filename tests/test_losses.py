"""Losses by hand-computed numbers, and against TRL's own GRPO loss on the same log-probs and advantages."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sail_rl.maths.advantages import ADVANTAGES
from sail_rl.maths.aggregation import Aggregation
from sail_rl.maths.losses import (
    ActorCriticLoss,
    CispoSurrogate,
    ClippedSurrogate,
    PolicyLoss,
    TokenLoss,
    cross_entropy,
)
from sail_rl.maths.token_fields import TokenFields


def scored(logprobs: torch.Tensor, values: torch.Tensor | None = None) -> Any:
    return SimpleNamespace(logprobs=logprobs, entropies=torch.zeros_like(logprobs), values=values)


def on_policy(advantages: torch.Tensor, **fields: torch.Tensor) -> TokenFields:
    zeros = torch.zeros(len(advantages))
    return TokenFields(**{"advantages": advantages, "rollout_logprobs": zeros} | fields)


def one_segment(tokens: torch.Tensor) -> torch.Tensor:
    return torch.zeros(len(tokens), dtype=torch.long)


def test_cross_entropy_is_the_negative_logprob() -> None:
    logprobs = torch.tensor([-0.5, -2.0])
    assert cross_entropy(scored(logprobs), TokenFields(), one_segment(logprobs)).values.tolist() == [0.5, 2.0]


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),  # on policy: plain policy gradient
        (1.1, 1.0, -1.1, -1.1),  # inside the range
        (1.5, 1.0, -1.28, 0.0),  # good and already much likelier: clipped high, no gradient
        (1.5, -1.0, 1.5, 1.5),  # bad and likelier: never clipped
        (0.5, -1.0, 0.8, 0.0),  # bad and already much less likely: clipped low
        (0.5, 1.0, -0.5, -0.5),  # good and less likely: never clipped
    ],
)
def test_clipped_policy_loss_by_hand(ratio: float, advantage: float, loss: float, slope: float) -> None:
    logprob = torch.tensor([math.log(ratio)], requires_grad=True)
    result = PolicyLoss(ClippedSurrogate(clip_low=0.20, clip_high=0.28))(
        scored(logprob), on_policy(torch.tensor([advantage])), one_segment(logprob)
    )
    assert result.values.item() == pytest.approx(loss)
    result.values.sum().backward()
    assert logprob.grad is not None
    assert logprob.grad.item() == pytest.approx(slope)


def test_clip_metrics_count_tokens_whose_gradient_is_cut() -> None:
    logprobs = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.0]).log()
    fields = on_policy(torch.tensor([1.0, -1.0, -1.0, 1.0, 1.0]))
    metrics = PolicyLoss()(scored(logprobs), fields, one_segment(logprobs)).metrics
    assert metrics["ratio/clip_high_fraction"].tolist() == [1, 0, 0, 0, 0]
    assert metrics["ratio/clip_low_fraction"].tolist() == [0, 0, 1, 0, 0]
    assert metrics["ratio/mean"].tolist() == pytest.approx([1.5, 1.5, 0.5, 0.5, 1.0])
    assert metrics["kl/rollout"][0].item() == pytest.approx(0.5 - math.log(1.5))


def test_gspo_uses_the_geometric_mean_of_a_completion_s_ratios() -> None:
    logprobs = torch.tensor([2.0, 0.5, 1.1, 1.1]).log().requires_grad_()
    loss = PolicyLoss(ClippedSurrogate(0.05, 0.05, "sequence"))
    result = loss(scored(logprobs), on_policy(torch.ones(4)), torch.tensor([0, 0, 1, 1]))
    assert result.values.tolist() == pytest.approx([-1.0, -1.0, -1.05, -1.05])
    result.values.sum().backward()
    assert logprobs.grad is not None
    # d s / d logprob_t = s / length, at each of the two tokens that share s; the second completion is clipped
    assert logprobs.grad.tolist() == pytest.approx([-1.0, -1.0, 0.0, 0.0])


def test_gspo_token_has_gspo_s_gradient_when_a_completion_s_advantages_are_equal() -> None:
    torch.manual_seed(0)
    segments = torch.tensor([0, 0, 0, 1, 1])
    advantages = torch.tensor([0.7, 0.7, 0.7, -1.2, -1.2])
    gradients = []
    for level in ("sequence", "sequence_token"):
        logprobs = (0.1 * torch.tensor([1.0, -2.0, 0.5, 0.3, 0.2])).requires_grad_()
        loss = PolicyLoss(ClippedSurrogate(level=level))  # type: ignore[arg-type]
        loss(scored(logprobs), on_policy(advantages), segments).values.sum().backward()
        gradients.append(logprobs.grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_bfloat16_noise_of_the_engine_makes_gspo_clip_before_any_update() -> None:
    """So a recipe must take the trainer's old log-probs."""
    completions, tokens = 400, 200
    segments = torch.arange(completions).repeat_interleave(tokens)
    noise = 0.02 * torch.randn(completions * tokens, generator=torch.Generator().manual_seed(0))
    clip = ClippedSurrogate(3e-4, 4e-4, "sequence")
    negative = -torch.ones(completions * tokens)
    engine = clip(noise, negative, noise, segments).metrics["ratio/clip_low_fraction"].mean()
    trainer = clip(torch.zeros_like(noise), negative, noise, segments).metrics["ratio/clip_low_fraction"].mean()
    assert 0.35 < engine.item() < 0.75
    assert trainer.item() == 0


def test_cispo_never_cuts_a_token_s_gradient() -> None:
    logprobs = torch.tensor([1.5, 0.5]).log().requires_grad_()
    result = PolicyLoss(CispoSurrogate(clip_low=1.0, clip_high=0.28))(
        scored(logprobs), on_policy(torch.ones(2)), one_segment(logprobs)
    )
    result.values.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-1.28, -0.5])


def test_importance_weights_kl_and_entropy_are_added_by_hand() -> None:
    logprobs = torch.tensor([-1.0])
    fields = on_policy(
        torch.tensor([2.0]),
        old_logprobs=torch.tensor([-1.0]),
        rollout_logprobs=torch.tensor([-1.5]),
        importance_weights=torch.tensor([0.5]),
        reference_logprobs=torch.tensor([-1.0 + math.log(2)]),
    )
    scores = SimpleNamespace(logprobs=logprobs, entropies=torch.tensor([3.0]), values=None)
    loss = PolicyLoss(kl_coef=0.1, kl_kind="k3", entropy_coef=0.01)(scores, fields, one_segment(logprobs))  # type: ignore[arg-type]
    # ratio to old_logprobs is 1: -2 * 0.5; k3 = 2 - 1 - log 2; entropy 3
    assert loss.values.item() == pytest.approx(-1.0 + 0.1 * (1 - math.log(2)) - 0.01 * 3)


@pytest.mark.parametrize(
    ("value", "old", "target", "error"),
    [
        (0.5, 0.5, 1.0, 0.125),  # (0.5 - 1)² / 2
        (0.9, 0.5, 1.0, 0.045),  # moved by 0.4, clipped to 0.7: the larger error counts, (0.7 - 1)² / 2
        (0.1, 0.5, 1.0, 0.405),  # moved away: the unclipped error is the larger one
    ],
)
def test_value_loss_by_hand(value: float, old: float, target: float, error: float) -> None:
    logprobs, values = torch.zeros(1), torch.tensor([value], requires_grad=True)
    fields = on_policy(
        torch.zeros(1),
        old_values=torch.tensor([old]),
        returns=torch.tensor([target]),
    )
    loss = ActorCriticLoss(PolicyLoss(), value_coef=1.0, value_clip=0.2)(
        scored(logprobs, values), fields, one_segment(logprobs)
    )
    assert loss.values.item() == pytest.approx(error)
    free = ActorCriticLoss(PolicyLoss(), value_coef=1.0)(scored(logprobs, values), fields, one_segment(logprobs))
    assert free.values.item() == pytest.approx((value - target) ** 2 / 2)


# Parity with TRL

MAX_LENGTH = 9


def trl_loss(
    grpo_trainer: Any, batch: dict[str, torch.Tensor], logprobs: torch.Tensor, loss_type: str, **settings: Any
) -> torch.Tensor:
    """TRL's own `GRPOTrainer._compute_loss`, given per-token log-probs instead of a model."""
    args = SimpleNamespace(
        delta=None, use_bias_correction_kl=False, steps_per_generation=1, vllm_importance_sampling_cap=2.0
    )
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (logprobs, torch.zeros_like(logprobs), None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm="importance_sampling_ratio" in batch,
        vllm_importance_sampling_correction=True,
        importance_sampling_level="token",
        beta=0.0,
        epsilon_low=0.2,
        epsilon_high=0.28,
        loss_type=loss_type,
        args=args,
        max_completion_length=MAX_LENGTH,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(
            num_processes=1, gather=lambda tensor: tensor, reduce=lambda tensor, reduction: tensor, sync_gradients=True
        ),
        _metrics={"train": defaultdict(list)},
    )
    for name, value in settings.items():
        setattr(trainer, name, value)
    return grpo_trainer._compute_loss(trainer, None, batch)


def our_loss(
    loss: PolicyLoss, aggregation: Aggregation, batch: dict[str, torch.Tensor], logprobs: torch.Tensor
) -> torch.Tensor:
    """The trainer's arithmetic on the same padded tensors, unpadded and joined into one row."""
    mask = batch["completion_mask"].bool()
    lengths = mask.sum(1).tolist()
    names = {
        "old_per_token_logps": "old_logprobs",
        "ref_per_token_logps": "reference_logprobs",
        "importance_sampling_ratio": "importance_weights",
    }
    given = {ours: batch[theirs][mask] for theirs, ours in names.items() if theirs in batch}
    advantages = batch["advantages"].repeat_interleave(torch.tensor(lengths))
    fields = TokenFields(advantages=advantages, rollout_logprobs=given["old_logprobs"], **given)
    segments = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    values: TokenLoss = loss(scored(logprobs[mask]), fields, segments)
    weights = torch.tensor([aggregation.token_weight(n) for n in lengths for _ in range(n)])
    return (values.values * weights).sum() / sum(aggregation.denominator(n) for n in lengths)


def batch_of(logprobs: torch.Tensor) -> dict[str, torch.Tensor]:
    rows, width = logprobs.shape
    mask = (torch.arange(width) < torch.tensor([9, 3, 6, 1])[:, None]).long()
    rewards = torch.tensor([[1.0, 0.0], [0.3, 0.8]])
    ids = torch.zeros(rows, width, dtype=torch.long)
    return {
        "prompt_ids": ids,
        "prompt_mask": torch.ones_like(ids),
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": ADVANTAGES["grpo"](rewards).flatten(),
        "old_per_token_logps": logprobs.detach() + 0.3 * torch.randn(rows, width),
        "num_items_in_batch": mask.sum(),
    }


CASES: dict[str, tuple[PolicyLoss, str, str, dict[str, Any]]] = {
    # name: our loss and aggregation, TRL's loss type and settings
    "grpo": (PolicyLoss(), "sequence_mean", "grpo", {}),
    "dapo": (PolicyLoss(), "token_mean", "dapo", {}),
    "dr_grpo": (PolicyLoss(), "fixed_length", "dr_grpo", {}),
    "gspo": (
        PolicyLoss(ClippedSurrogate(3e-2, 4e-2, "sequence")),
        "sequence_mean",
        "grpo",
        {"importance_sampling_level": "sequence", "epsilon_low": 3e-2, "epsilon_high": 4e-2},
    ),
    # TRL's epsilon_high is the limit itself, ours what is above 1
    "cispo": (PolicyLoss(CispoSurrogate(1.0, 0.28)), "token_mean", "cispo", {"epsilon_high": 1.28}),
    "grpo with KL": (PolicyLoss(kl_coef=0.04), "sequence_mean", "grpo", {"beta": 0.04}),
    "dapo with TIS": (PolicyLoss(), "token_mean", "dapo", {}),
}


@pytest.mark.parametrize("name", CASES)
def test_losses_and_their_gradients_agree_with_trl(name: str, grpo_trainer: Any) -> None:
    torch.manual_seed(3)
    loss, aggregation, loss_type, settings = CASES[name]
    start = -2 * torch.rand(4, MAX_LENGTH)
    batch = batch_of(start)
    if "KL" in name:
        batch["ref_per_token_logps"] = start + 0.2 * torch.randn_like(start)
    if "TIS" in name:
        batch["importance_sampling_ratio"] = 0.5 + torch.rand_like(start)
    theirs, ours = start.clone().requires_grad_(), start.clone().requires_grad_()
    expected = trl_loss(grpo_trainer, batch, theirs, loss_type, **settings)
    actual = our_loss(loss, Aggregation(aggregation, MAX_LENGTH), batch, ours)  # type: ignore[arg-type]
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=0)
    expected.backward()
    actual.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=0)
    assert expected.item() != 0
