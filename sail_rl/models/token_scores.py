"""Log-probabilities and entropies of given tokens, without ever holding the [N, vocabulary] logits.

The head's matrix product is done `CHUNK` tokens at a time, and again in the backward pass: memory is
CHUNK x vocabulary instead of N x vocabulary (at 151,936 tokens the difference decides whether long CoT fits).
"""

from __future__ import annotations

from typing import Any

import torch

CHUNK = 256


def _chunk_logits(hidden: torch.Tensor, weight: torch.Tensor, temperature: float, banned: torch.Tensor) -> torch.Tensor:
    """Float32 logits [n, V] of the sampling distribution for hidden states [n, H]."""
    logits = (hidden @ weight.t()).float().div_(temperature)
    return logits.index_fill_(1, banned, float("-inf")) if len(banned) else logits


class _TokenScores(torch.autograd.Function):
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
        ctx.save_for_backward(hidden, weight, targets, banned)
        ctx.temperature = temperature
        result = torch.cat(logprobs), torch.cat(entropies)
        ctx.mark_non_differentiable(result[1])
        return result

    @staticmethod
    def backward(ctx: Any, grad_logprobs: torch.Tensor, _: torch.Tensor) -> tuple[Any, ...]:
        hidden, weight, targets, banned = ctx.saved_tensors
        grad_hidden, grad_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
        for start in range(0, len(hidden), CHUNK):
            rows = slice(start, start + CHUNK)
            # d log p(target) / d logits = onehot(target) - softmax(logits)
            grad = _chunk_logits(hidden[rows], weight, ctx.temperature, banned).softmax(-1).neg_()
            grad.scatter_add_(1, targets[rows, None], torch.ones_like(grad[:, :1]))
            grad = grad.mul_(grad_logprobs[rows, None] / ctx.temperature).to(hidden.dtype)
            grad_hidden[rows] = grad @ weight
            grad_weight += grad.t() @ hidden[rows]
        return grad_hidden, grad_weight.to(weight.dtype), None, None, None


def token_scores(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    temperature: float = 1.0,
    banned_token_ids: tuple[int, ...] = (),
) -> tuple[torch.Tensor, torch.Tensor]:
    """Score target tokens under softmax(hidden @ weight.T / temperature) without the banned tokens.

    Args:
        hidden: [N, H] final hidden states; `weight`: [V, H] of the language-model head; `targets`: [N] token ids.
        temperature: of the distribution that tokens were sampled from (above 0).
        banned_token_ids: tokens that can't be sampled (image placeholders); they get probability 0.

    Returns:
        Log-probabilities [N] in nats, float32 and differentiable; entropies [N] in nats, detached (a metric).
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; log-probs need a temperature above 0 (1.0 for SFT)")
    banned = torch.tensor(banned_token_ids, dtype=torch.long, device=hidden.device)
    return _TokenScores.apply(hidden, weight, targets, temperature, banned)
