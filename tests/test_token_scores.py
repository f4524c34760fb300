"""Chunked log-probs: equal to the naive computation and to TRL's fused head, in value and gradient."""

from __future__ import annotations

import pytest
import torch

from sail_rl.models.token_scores import CHUNK, token_scores


def make(tokens: int, hidden: int = 16, vocabulary: int = 50) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(tokens, hidden, generator=generator, requires_grad=True)
    weight = torch.randn(vocabulary, hidden, generator=generator, requires_grad=True)
    return states, weight, torch.randint(10, vocabulary, (tokens,), generator=generator)


def naive(
    states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float, banned: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = states @ weight.T / temperature
    logits[:, list(banned)] = float("-inf")
    distribution = torch.distributions.Categorical(logits=logits)
    return distribution.log_prob(targets), distribution.entropy()


@pytest.mark.parametrize("tokens", [1, CHUNK, 2 * CHUNK + 3])
@pytest.mark.parametrize(("temperature", "banned"), [(1.0, ()), (0.7, (3, 4))])
def test_values_and_gradients_equal_the_naive_computation(
    tokens: int, temperature: float, banned: tuple[int, ...]
) -> None:
    states, weight, targets = make(tokens)
    logprobs, entropies = token_scores(states, weight, targets, temperature=temperature, banned_token_ids=banned)
    expected, expected_entropies = naive(states, weight, targets, temperature, banned)
    torch.testing.assert_close(logprobs, expected)
    torch.testing.assert_close(entropies, expected_entropies.nan_to_num(), atol=1e-5, rtol=1e-5)
    upstream = torch.linspace(-1, 2, tokens)
    got = torch.autograd.grad((logprobs * upstream).sum(), (states, weight))
    wanted = torch.autograd.grad((expected * upstream).sum(), (states, weight))
    for left, right in zip(got, wanted, strict=True):
        torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-4)


def test_a_uniform_distribution_by_hand() -> None:
    logprobs, entropies = token_scores(torch.zeros(1, 4), torch.ones(8, 4), torch.tensor([2]))
    assert logprobs.item() == pytest.approx(-2.0794415)  # log(1/8)
    assert entropies.item() == pytest.approx(2.0794415)


def test_no_labelled_token_gives_an_empty_score_that_still_has_a_gradient() -> None:
    states, weight, _ = make(3)
    logprobs, _ = token_scores(states[:0], weight, torch.empty(0, dtype=torch.long))
    logprobs.sum().backward()
    assert logprobs.shape == (0,)
    assert weight.grad is not None
    assert not weight.grad.any()


def test_greedy_temperature_is_refused() -> None:
    states, weight, targets = make(1)
    with pytest.raises(ValueError, match="temperature is 0"):
        token_scores(states, weight, targets, temperature=0.0)
