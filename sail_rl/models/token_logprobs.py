"""Log-probs and entropies of given tokens, without materialising the [N, vocabulary] logits.

The matrix product of the head is computed for `CHUNK` tokens at a time, and again in the backward pass. Memory is
CHUNK x vocabulary instead of N x vocabulary, which makes long completions fit with a vocabulary of 151,936 tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

CHUNK = 256


@dataclass(frozen=True, slots=True)
class Distribution:
    """The distribution that tokens are sampled from: softmax(logits / temperature) without the banned tokens.

    Args:
        temperature: above 0.
        banned_token_ids: tokens that are never sampled (image placeholders); they get probability 0.

    Raises:
        ValueError: if the temperature is not above 0.
    """

    temperature: float = 1.0
    banned_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature is {self.temperature}; log-probs need a temperature above 0 (1.0 for SFT)")


MODEL_DISTRIBUTION = Distribution()
"""The model's own distribution: temperature 1 and no banned tokens."""


def _chunk_logits(hidden: torch.Tensor, weight: torch.Tensor, temperature: float, banned: torch.Tensor) -> torch.Tensor:
    """Float32 logits [n, V] of the sampling distribution for hidden states [n, H]."""
    logits = (hidden @ weight.t()).float().div_(temperature)
    return logits.index_fill_(1, banned, float("-inf")) if len(banned) else logits


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        temperature: float,
        banned: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        logprobs, entropies = [], []
        for rows, target in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True):
            log_softmax = _chunk_logits(rows, weight, temperature, banned).log_softmax(-1)
            logprobs.append(log_softmax.gather(1, target[:, None]).squeeze(1))
            entropies.append(torch.special.entr(log_softmax.exp_()).sum(-1))
        result = torch.cat(logprobs), torch.cat(entropies)
        ctx.save_for_backward(hidden, weight, targets, banned, result[1])
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)  # an output that no loss uses gets None instead of zeros
        return result

    @staticmethod
    def backward(
        ctx: Any, grad_logprobs: torch.Tensor | None, grad_entropies: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, targets, banned, entropies = ctx.saved_tensors
        to_hidden, to_weight = ctx.needs_input_grad[:2]  # frozen inputs need no gradient
        grad_hidden = torch.empty_like(hidden) if to_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if to_weight else None
        upstream = [None if grad is None else grad / ctx.temperature for grad in (grad_logprobs, grad_entropies)]
        for start in range(0, len(hidden), CHUNK):
            rows = slice(start, start + CHUNK)
            probabilities = _chunk_logits(hidden[rows], weight, ctx.temperature, banned).softmax(-1)
            own = [None if grad is None else grad[rows] for grad in upstream]
            grad = _grad_logits(probabilities, targets[rows], entropies[rows], *own).to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = grad @ weight
            if grad_weight is None:
                continue
            if grad.dtype == grad_weight.dtype:  # accumulates without a temporary [V, H] product
                grad_weight.addmm_(grad.t(), hidden[rows])
            else:
                grad_weight += grad.t() @ hidden[rows]
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None


def _grad_logits(
    probabilities: torch.Tensor,
    targets: torch.Tensor,
    entropies: torch.Tensor,
    grad_logprobs: torch.Tensor | None,
    grad_entropies: torch.Tensor | None,
) -> torch.Tensor:
    """Gradient [n, V] with respect to the logits of `probabilities` [n, V]; it overwrites `probabilities`.

    d log p(target) / d logits = onehot(target) - p, and d H / d logits = -p (log p + H).
    """
    slope = 0.0 if grad_logprobs is None else -grad_logprobs[:, None]
    if grad_entropies is None:
        grad = probabilities.mul_(slope)
    else:
        surprise = torch.special.entr(probabilities).mul_(grad_entropies[:, None])  # banned tokens: entr(0) = 0
        grad = probabilities.mul_(slope - (entropies * grad_entropies)[:, None]).add_(surprise)
    if grad_logprobs is not None:
        grad.scatter_add_(1, targets[:, None], grad_logprobs[:, None])
    return grad


def token_logprobs(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, distribution: Distribution = MODEL_DISTRIBUTION
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs of target tokens and entropies of their distributions.

    Args:
        hidden: [N, H] final hidden states.
        weight: [V, H] of the language-model head.
        targets: [N] token ids.
        distribution: the distribution that the tokens were sampled from.

    Returns:
        Log-probs [N] and entropies [N] in nats, float32 and differentiable.
    """
    banned = torch.tensor(distribution.banned_token_ids, dtype=torch.long, device=hidden.device)
    return _TokenLogprobs.apply(hidden, weight, targets, distribution.temperature, banned)
