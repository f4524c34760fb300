"""Chunked log-probs: equal to the naive computation and to TRL's fused head, in value and gradient."""

from __future__ import annotations

import pytest
import torch

from sail_rl.maths.losses import PolicyLoss
from sail_rl.maths.token_fields import TokenFields
from sail_rl.models import Distribution, TokenLogprobs
from sail_rl.models.modeling import LanguageModelHead
from sail_rl.models.token_logprobs import CHUNK, token_logprobs


def make(tokens: int, hidden: int = 16, vocabulary: int = 50) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(tokens, hidden, generator=generator, requires_grad=True)
    weight = torch.randn(vocabulary, hidden, generator=generator, requires_grad=True)
    return states, weight, torch.randint(10, vocabulary, (tokens,), generator=generator)


def naive(
    states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float, banned: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = states @ weight.T / temperature
    kept = [token for token in range(len(weight)) if token not in banned]
    log_softmax = logits[:, kept].log_softmax(-1)
    places = torch.tensor([kept.index(target) for target in targets.tolist()])
    return log_softmax.gather(1, places[:, None])[:, 0], -(log_softmax.exp() * log_softmax).sum(-1)


@pytest.mark.parametrize("tokens", [1, CHUNK, 2 * CHUNK + 3])
@pytest.mark.parametrize(("temperature", "banned"), [(1.0, ()), (0.7, (3, 4))])
def test_values_and_gradients_equal_the_naive_computation(
    tokens: int, temperature: float, banned: tuple[int, ...]
) -> None:
    states, weight, targets = make(tokens)
    logprobs, entropies = token_logprobs(states, weight, targets, Distribution(temperature, banned))
    expected, expected_entropies = naive(states, weight, targets, temperature, banned)
    torch.testing.assert_close(logprobs, expected)
    torch.testing.assert_close(entropies, expected_entropies, atol=1e-5, rtol=1e-5)
    upstream = torch.linspace(-1, 2, tokens)
    for factors in ((1.0, 0.0), (0.0, 1.0), (1.0, -0.3)):
        got = torch.autograd.grad(mixed(logprobs, entropies, upstream, factors), (states, weight), retain_graph=True)
        wanted = torch.autograd.grad(
            mixed(expected, expected_entropies, upstream, factors), (states, weight), retain_graph=True
        )
        for left, right in zip(got, wanted, strict=True):
            torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-4)


def mixed(
    logprobs: torch.Tensor, entropies: torch.Tensor, upstream: torch.Tensor, factors: tuple[float, float]
) -> torch.Tensor:
    """A loss of log-probs, of entropies, or of both; a factor of 0 leaves its term out of the graph."""
    terms = zip(factors, (logprobs, entropies), strict=True)
    return sum(factor * (term * upstream).sum() for factor, term in terms if factor)  # type: ignore[return-value]


def test_the_entropy_s_gradient_by_hand() -> None:
    """Two tokens, p = (0.8, 0.2): H = 0.500402, dH/dz = -p (log p + H) = (-0.221807, 0.221807); halved by T = 2."""
    states, weight = torch.tensor([[2 * 1.3862944]], requires_grad=True), torch.tensor([[1.0], [0.0]])
    _, entropies = token_logprobs(states, weight, torch.tensor([0]), Distribution(temperature=2.0))
    entropies.sum().backward()
    assert entropies.item() == pytest.approx(0.5004024)
    assert states.grad is not None
    assert states.grad.item() == pytest.approx(-0.2218071 / 2)


def test_gradients_that_nobody_needs_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen head gets no gradient, and no buffer for one is allocated; nor do frozen states."""
    allocated: list[torch.Size] = []
    for function in ("zeros_like", "empty_like"):
        real = getattr(torch, function)
        monkeypatch.setattr(
            torch, function, lambda x, real=real, **kwargs: allocated.append(x.shape) or real(x, **kwargs)
        )
    for frozen in ("head", "states"):
        states, weight, targets = make(5)
        (weight if frozen == "head" else states).requires_grad_(False)
        (states if frozen == "head" else weight).register_hook(lambda gradient: None)
        allocated.clear()
        token_logprobs(states, weight, targets)[0].sum().backward()
        assert allocated == [(states if frozen == "head" else weight).shape]
        assert (states.grad is None) == (frozen == "states")
        assert (weight.grad is None) == (frozen == "head")


def test_the_entropy_bonus_raises_the_entropy() -> None:
    """`entropy_coef` alone (no advantage): a few steps of plain gradient descent on the head."""
    states, weight, targets = make(8)
    weight = weight.detach().requires_grad_()
    fields = TokenFields(advantages=torch.zeros(8), rollout_logprobs=torch.zeros(8))
    seen = []
    for _ in range(5):
        logprobs, entropies = token_logprobs(states.detach(), weight, targets, Distribution(0.8, (3,)))
        seen.append(entropies.mean().item())
        loss = PolicyLoss(entropy_coef=1.0)(
            TokenLogprobs(logprobs, entropies), fields, torch.zeros(8).long()
        ).values.mean()
        (gradient,) = torch.autograd.grad(loss, weight)
        weight = (weight - gradient).detach().requires_grad_()
    assert seen == sorted(seen)
    assert seen[-1] > seen[0] + 0.1


def test_a_uniform_distribution_by_hand() -> None:
    logprobs, entropies = token_logprobs(torch.zeros(1, 4), torch.ones(8, 4), torch.tensor([2]))
    assert logprobs.item() == pytest.approx(-2.0794415)  # log(1/8)
    assert entropies.item() == pytest.approx(2.0794415)


def test_no_labelled_token_gives_an_empty_score_that_still_has_a_gradient() -> None:
    states, weight, _ = make(3)
    logprobs, _ = token_logprobs(states[:0], weight, torch.empty(0, dtype=torch.long))
    logprobs.sum().backward()
    assert logprobs.shape == (0,)
    assert weight.grad is not None
    assert not weight.grad.any()


def test_greedy_temperature_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature is 0"):
        Distribution(temperature=0.0)


def test_a_float32_head_does_not_round_the_logits_of_a_bfloat16_model() -> None:
    torch.manual_seed(0)
    head = LanguageModelHead(64, 500, bias=False).bfloat16()
    hidden, targets = torch.randn(300, 64).bfloat16(), torch.randint(500, (300,))
    exact = (hidden.double() @ head.weight.double().t()).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    rounded, _ = head(hidden, targets)
    head.in_float32 = True
    hidden.requires_grad_()
    logprobs, _ = head(hidden, targets)
    assert (logprobs - exact).abs().max() < 1e-5
    assert (rounded - exact).abs().max() > 1e-3
    assert head(hidden).dtype == torch.float32
    logprobs.sum().backward()
    assert hidden.grad is not None
    assert head.weight.grad is not None
    assert (hidden.grad.dtype, head.weight.grad.dtype) == (torch.bfloat16, torch.bfloat16)
