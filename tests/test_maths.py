"""Advantages and losses, by hand-computed numbers."""

from __future__ import annotations

import math

import pytest
import torch

from sail_rl.maths.advantages import group_advantages, informative_groups
from sail_rl.maths.losses import ClippedPolicyLoss, cross_entropy


def test_group_advantages_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0.5, 0.5]])
    # mean 0.5, sample deviation sqrt(4 * 0.25 / 3) = 0.57735; +-0.5 / (0.57735 + 0.0001)
    expected = 0.5 / (math.sqrt(1 / 3) + 1e-4)
    assert group_advantages(rewards)[0].tolist() == pytest.approx([expected, -expected, -expected, expected])
    assert group_advantages(rewards)[1].tolist() == [0, 0, 0, 0]


def test_advantages_don_t_depend_on_the_other_groups_or_on_a_constant() -> None:
    rewards = torch.tensor([[1.0, 0.2, 0.7], [0.0, 0.9, 0.1]])
    torch.testing.assert_close(group_advantages(rewards)[:1], group_advantages(rewards[:1]))
    torch.testing.assert_close(group_advantages(rewards + 3), group_advantages(rewards))


def test_a_group_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="samples_per_prompt of 2 or more"):
        group_advantages(torch.tensor([[1.0]]))


def test_groups_with_equal_rewards_carry_no_signal() -> None:
    rewards = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0], [0.3, 0.3]])
    assert informative_groups(rewards).tolist() == [False, True, False, False]


def test_cross_entropy_is_the_negative_logprob() -> None:
    assert cross_entropy(torch.tensor([-0.5, -2.0]), {}).values.tolist() == [0.5, 2.0]


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
    fields = {"advantages": torch.tensor([advantage]), "rollout_logprobs": torch.tensor([0.0])}
    result = ClippedPolicyLoss(clip_low=0.20, clip_high=0.28)(logprob, fields)
    assert result.values.item() == pytest.approx(loss)
    result.values.sum().backward()
    assert logprob.grad is not None
    assert logprob.grad.item() == pytest.approx(slope)


def test_clip_metrics_count_tokens_whose_gradient_is_cut() -> None:
    logprobs = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.0]).log()
    fields = {"advantages": torch.tensor([1.0, -1.0, -1.0, 1.0, 1.0]), "rollout_logprobs": torch.zeros(5)}
    metrics = ClippedPolicyLoss()(logprobs, fields).metrics
    assert metrics["ratio/clip_high_fraction"].tolist() == [1, 0, 0, 0, 0]
    assert metrics["ratio/clip_low_fraction"].tolist() == [0, 0, 1, 0, 0]
    assert metrics["ratio/mean"].tolist() == pytest.approx([1.5, 1.5, 0.5, 0.5, 1.0])
    assert metrics["kl/rollout"][0].item() == pytest.approx(0.5 - math.log(1.5))
