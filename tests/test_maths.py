"""Advantages, aggregation and small estimators, by hand-computed and published numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sail_rl.maths.advantages import (
    ADVANTAGES,
    centred_advantages,
    generalised_advantages,
    group_advantages,
    leave_one_out_advantages,
    length_adaptive_lams,
    penalties_to_go,
)
from sail_rl.maths.aggregation import Aggregation
from sail_rl.maths.importance import ImportanceCorrection, effective_sample_share
from sail_rl.maths.kl import kl_estimate
from sail_rl.maths.mismatch import Mismatch, MismatchLimits, order_statistic
from sail_rl.maths.segments import segment_means, segment_sums
from sail_rl.trainer.groups import Group, NumberedPrompt, RolloutSummary

REWARDS = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0.5, 0.5]])


def test_group_advantages_by_hand() -> None:
    # mean 0.5, sample deviation sqrt(4 * 0.25 / 3) = 0.57735; +-0.5 / (0.57735 + 0.0001)
    expected = 0.5 / (math.sqrt(1 / 3) + 1e-4)
    assert group_advantages(REWARDS)[0].tolist() == pytest.approx([expected, -expected, -expected, expected])
    assert group_advantages(REWARDS)[1].tolist() == [0, 0, 0, 0]


def test_dr_grpo_only_subtracts_the_mean() -> None:
    assert centred_advantages(REWARDS).tolist() == [[0.5, -0.5, -0.5, 0.5], [0, 0, 0, 0]]


def test_rloo_subtracts_the_mean_of_the_others() -> None:
    rewards = torch.tensor([[3.0, 0.0, 0.0]])
    assert leave_one_out_advantages(rewards).tolist() == [[3.0, -1.5, -1.5]]


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo"])
def test_group_estimates_don_t_depend_on_the_other_groups_or_on_a_constant(name: str) -> None:
    rewards = torch.tensor([[1.0, 0.2, 0.7], [0.0, 0.9, 0.1]])
    estimate = ADVANTAGES[name]
    torch.testing.assert_close(estimate(rewards)[:1], estimate(rewards[:1]))
    torch.testing.assert_close(estimate(rewards + 3), estimate(rewards))


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo"])
def test_a_group_of_one_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="samples_per_prompt of 2 or more"):
        ADVANTAGES[name](torch.tensor([[1.0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ADVANTAGES)
def test_equal_rewards_give_exactly_zero_advantages(name: str, dtype: torch.dtype) -> None:
    # 175 groups: 7 sizes, 25 rewards. In float32, the mean of 8 rewards of 0.9 is not 0.9.
    for size in range(2, 9):
        for reward in [number / 50 for number in range(21, 46)]:
            rewards = torch.full((3, size), reward, dtype=dtype)
            assert ADVANTAGES[name](rewards).tolist() == [[0.0] * size] * 3, (size, reward)
    mixed = torch.tensor([[0.9] * 8, [0.9] * 7 + [0.1]], dtype=dtype)
    assert ADVANTAGES[name](mixed)[0].tolist() == [0.0] * 8


def group(rewards: Sequence[float]) -> Group:
    return Group(NumberedPrompt(0, 0), 0, [RolloutSummary(reward, 1, False, 1, 1) for reward in rewards], 1, 0)


def test_rewards_that_differ_by_rounding_are_equal_for_sampler_and_estimators() -> None:
    rewards = [0.1 + 0.2, 0.3]
    assert rewards[0] != rewards[1]
    assert not group(rewards).informative
    for name, estimate in ADVANTAGES.items():
        assert estimate(torch.tensor([rewards], dtype=torch.float64)).tolist() == [[0.0, 0.0]], name


def test_groups_with_equal_rewards_carry_no_signal() -> None:
    rewards = [[1.0, 1.0], [0.0, 1.0], [0.0, 0.0], [0.3, 0.3]]
    assert [group(values).informative for values in rewards] == [False, True, False, False]


def test_each_token_pays_its_own_and_later_penalties() -> None:
    assert penalties_to_go(torch.tensor([1.0, 2.0, 4.0])).tolist() == [7.0, 6.0, 4.0]


# Generalised advantage estimation


@pytest.mark.parametrize(
    ("lam", "expected"),
    [
        # The expected values in the tests of DeepMind's rlax (truncated_generalized_advantage_estimation, gamma 0.99).
        (1.0, [-1.45118, -4.4557, 2.5396, 0.5249, -0.49]),
        (0.7, [-0.676979, -5.248167, 2.4846, 0.6704, -0.49]),
        (0.4, [0.56731, -6.042, 2.3431, 0.815, -0.49]),
    ],
)
def test_gae_gives_the_numbers_of_a_public_implementation(lam: float, expected: list[float]) -> None:
    values = torch.tensor([[1.0, 4.0, -3.0, -2.0, -1.0]])
    # rlax goes on from a last value of -1; here an episode ends, so that value goes into the last reward.
    rewards = torch.tensor([[0.0, 0.0, 1.0, 0.0, -0.5 + 0.99 * -1.0]])
    advantages = generalised_advantages(rewards, values, gamma=0.99, lam=lam)
    torch.testing.assert_close(advantages, torch.tensor([expected]), atol=1e-3, rtol=0)


def test_gae_equals_the_double_sum_of_the_paper_and_leaves_padding_alone() -> None:
    torch.manual_seed(0)
    lengths, gamma, lams = [7, 3, 1], 0.9, torch.tensor([0.8, 0.5, 0.3])
    rewards, values = torch.zeros(3, 7), torch.zeros(3, 7)
    for row, length in enumerate(lengths):
        rewards[row, :length], values[row, :length] = torch.randn(length), torch.randn(length)
    advantages = generalised_advantages(rewards, values, gamma=gamma, lam=lams)
    for row, (length, lam) in enumerate(zip(lengths, lams.tolist(), strict=True)):
        ends = [*values[row, :length].tolist(), 0.0]
        deltas = [rewards[row, t].item() + gamma * ends[t + 1] - ends[t] for t in range(length)]
        expected = [sum((gamma * lam) ** (u - t) * deltas[u] for u in range(t, length)) for t in range(length)]
        assert advantages[row, :length].tolist() == pytest.approx(expected, abs=1e-5)
        assert advantages[row, length:].tolist() == [0] * (7 - length)


def test_gae_with_lambda_and_gamma_one_is_the_final_reward_minus_the_value() -> None:
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.2, 0.5, 0.9]])
    advantages = generalised_advantages(rewards, values, gamma=1.0, lam=1.0)
    assert advantages[0].tolist() == pytest.approx([0.8, 0.5, 0.1])


def test_length_adaptive_lambda_lets_gae_s_coefficients_sum_to_a_share_of_the_length() -> None:
    lams = length_adaptive_lams(torch.tensor([1, 20, 40, 400]), 0.05)  # 0.05 x length: 0.05, 1, 2, 20
    assert lams.tolist() == pytest.approx([0.0, 0.0, 0.5, 0.95])
    assert (lams[3] ** torch.arange(400)).sum().item() == pytest.approx(0.05 * 400, rel=1e-4)


# Segments, aggregation, estimators


def test_segment_sums_and_means_stand_at_each_token_of_their_sample() -> None:
    values, segments = torch.tensor([1.0, 2.0, 3.0, 10.0]), torch.tensor([0, 0, 0, 2])
    assert segment_sums(values, segments).tolist() == [6, 6, 6, 10]
    assert segment_means(values, segments).tolist() == [2, 2, 2, 10]
    assert segment_means(values[:0], segments[:0]).tolist() == []


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # two samples with token losses (1, 2, 3) and (10,); 5 is the fixed length
        ("token_mean", 16 / 4),
        ("sequence_mean", (2 + 10) / 2),
        ("fixed_length", (6 / 5 + 10 / 5) / 2),
    ],
)
def test_aggregations_by_hand(kind: str, expected: float) -> None:
    aggregation = Aggregation(kind, length=5)  # type: ignore[arg-type]
    losses = [[1.0, 2.0, 3.0], [10.0]]
    total = sum(aggregation.token_weight(len(tokens)) * sum(tokens) for tokens in losses)
    assert total / sum(aggregation.denominator(len(tokens)) for tokens in losses) == pytest.approx(expected)


def test_kl_estimates_by_hand() -> None:
    policy, reference = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
    assert kl_estimate(policy, reference, "k1").item() == pytest.approx(math.log(2))
    assert kl_estimate(policy, reference, "k2").item() == pytest.approx(math.log(2) ** 2 / 2)
    assert kl_estimate(policy, reference, "k3").item() == pytest.approx(0.5 - 1 + math.log(2))


def test_kl_estimates_have_the_expectations_that_their_names_promise() -> None:
    """Over all tokens of a small vocabulary: k1 and k3 have the KL as mean, k2's gradient is the KL's."""
    torch.manual_seed(0)
    logits, reference = torch.randn(6, requires_grad=True), torch.randn(6).log_softmax(-1)
    logprobs = logits.log_softmax(-1)
    policy = logprobs.exp()
    exact = (policy * (logprobs - reference)).sum()
    for kind in ("k1", "k3"):
        assert (policy * kl_estimate(logprobs, reference, kind)).sum().item() == pytest.approx(exact.item(), rel=1e-5)
    (expected,) = torch.autograd.grad(exact, logits, retain_graph=True)
    (actual,) = torch.autograd.grad((policy.detach() * kl_estimate(logprobs, reference, "k2")).sum(), logits)
    torch.testing.assert_close(actual, expected)


def test_importance_weights_are_truncated_or_masked_by_token_or_sequence() -> None:
    trainer, sampler = torch.tensor([3.0, 0.5, 1.0]).log(), torch.zeros(3)
    segments = torch.tensor([0, 0, 1])
    weights = ImportanceCorrection("truncate", "token", high=2.0)(trainer, sampler, segments)
    assert weights.tolist() == pytest.approx([2.0, 0.5, 1.0])
    weights = ImportanceCorrection("mask", "token", high=2.0, low=0.75)(trainer, sampler, segments)
    assert weights.tolist() == pytest.approx([0.0, 0.0, 1.0])
    weights = ImportanceCorrection("truncate", "sequence", high=2.0)(trainer, sampler, segments)
    assert weights.tolist() == pytest.approx([1.5, 1.5, 1.0])


def test_effective_sample_share_is_one_for_equal_weights_and_small_for_a_few_heavy_ones() -> None:
    assert effective_sample_share(1.0, 1.0) == 1
    weights = torch.tensor([4.0, 0.0, 0.0, 0.0])
    assert effective_sample_share(weights.mean().item(), weights.square().mean().item()) == pytest.approx(1 / 4)


# The training–inference mismatch

LIMITS = MismatchLimits(mean=0.03, p99=0.2, kl=5.0)


def measured(differences: torch.Tensor, *, completions: int) -> Mismatch:
    found = Mismatch.of(differences, completions=completions)
    assert found is not None
    return found


def test_mismatch_by_hand() -> None:
    found = measured(torch.tensor([0.0] * 98 + [-math.log(2), math.log(2)]), completions=4)
    assert found.mean == pytest.approx(2 * math.log(2) / 100)
    assert found.p99 == found.max == pytest.approx(math.log(2))
    # k3 of trainer / engine = r: r - 1 - log r is log 2 - 1/2 for r = 1/2, and 1 - log 2 for r = 2
    assert found.kl == pytest.approx((math.log(2) - 0.5 + 1 - math.log(2)) / 4)
    assert found.beyond(MismatchLimits(mean=0.02, p99=0.6, kl=0.1)) == ["p99", "kl"]
    assert found.beyond(MismatchLimits(mean=0.01, p99=0.7, kl=0.2)) == ["mean"]


def test_the_gate_does_not_depend_on_the_number_of_tokens_as_the_maximum_does() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = 0.03 * torch.randn(40_000, generator=generator) * torch.rand(40_000, generator=generator).sqrt()
    few, many = measured(noise[:100], completions=1), measured(noise, completions=400)
    assert many.max > 1.5 * few.max
    assert many.mean == pytest.approx(few.mean, rel=0.2)
    assert many.p99 == pytest.approx(few.p99, rel=0.5)
    assert few.beyond(LIMITS) == many.beyond(LIMITS) == []
    outliers = noise.clone()
    outliers[:8] = -3.0  # tokens of an MoE whose experts changed
    assert measured(outliers, completions=400).beyond(LIMITS) == []


@given(st.lists(st.floats(width=32), min_size=1, max_size=9), st.data())
def test_an_order_statistic_is_exact(numbers: list[float], data: st.DataObject) -> None:
    """Of several ranks, too: they sum counts, and counts of all values are the sums of the ranks' counts."""
    values = torch.tensor(numbers, dtype=torch.float32).abs()
    place = data.draw(st.integers(1, len(numbers)))
    found, expected = order_statistic(values, place, lambda counts: counts), values.kthvalue(place).values.item()
    assert found == expected or (math.isnan(found) and math.isnan(expected))


@pytest.mark.parametrize("wrong", [0.04, -0.12, float("nan"), float("-inf")])
def test_wrong_weights_are_found(wrong: float) -> None:
    noise = 0.01 * torch.randn(4_000, generator=torch.Generator().manual_seed(0))
    assert "mean" in measured(noise + wrong, completions=40).beyond(LIMITS)
