"""Router losses and load statistics of a mixture of experts, from sums that add up over micro-batches and ranks.

L layers, E experts, k experts per token, T positions of a micro-batch, N tokens of the whole optimiser step (all
micro-batches of all ranks). Everything is linear in sums over tokens, except the product of two means in the
load-balancing loss: its expert shares must be those of the whole step before any micro-batch's part is differentiated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

DEAD_BELOW = 0.1
"""An expert with less than this fraction of the mean load counts as dead."""


@dataclass(frozen=True, slots=True)
class RouterSums:
    """Sums over the tokens of one or more micro-batches.

    `counts` [L, E]: routed slots of each expert (no gradient); `probabilities` [L, E]: router probabilities; `squares`
    [L]: squared log-partition functions logsumexp(logits)².
    """

    counts: torch.Tensor
    probabilities: torch.Tensor
    squares: torch.Tensor

    def detached(self) -> RouterSums:
        """The same sums, detached from the graph."""
        return RouterSums(self.counts, self.probabilities.detach(), self.squares.detach())

    def __add__(self, other: RouterSums) -> RouterSums:
        return RouterSums(
            self.counts + other.counts, self.probabilities + other.probabilities, self.squares + other.squares
        )


def router_sums(router_logits: Sequence[torch.Tensor], uses: torch.Tensor, *, experts_per_token: int) -> RouterSums:
    """Sum one micro-batch's routing over the tokens of its labelled samples.

    Args:
        router_logits: L tensors [T, E].
        uses: [T], how many of these samples contain a position (0 in padding): how often it counts.
        experts_per_token: k; the counted choice is the router's own, the k largest float32 probabilities.
    """
    counts, probabilities, squares = [], [], []
    positions = uses.nonzero()[:, 0]  # once, because each use of the mask synchronises with the accelerator
    times = uses[positions].double()  # float32 cannot count beyond 2^24
    for layer in router_logits:
        logits = layer.index_select(0, positions).float()
        layer_probabilities = logits.softmax(-1)
        chosen = layer_probabilities.detach().topk(experts_per_token, dim=-1).indices.flatten()
        slots = times.repeat_interleave(experts_per_token)
        counts.append(slots.new_zeros(logits.shape[1]).scatter_add_(0, chosen, slots))
        probabilities.append(times.float() @ layer_probabilities)
        squares.append(times.float() @ logits.logsumexp(-1).square())
    return RouterSums(torch.stack(counts), torch.stack(probabilities), torch.stack(squares))


def expert_shares(counts: torch.Tensor) -> torch.Tensor:
    """Each expert's share of its layer's routed slots, float32 [L, E], from counts [L, E] (0 without tokens)."""
    return (counts / counts.sum(-1, keepdim=True).clamp(min=1)).float()


def load_balancing_loss(shares: torch.Tensor, probabilities: torch.Tensor, *, tokens: int) -> torch.Tensor:
    """Load-balancing loss of each layer, E · Σ_i f_i · P_i (Switch Transformer, arXiv 2101.03961, eq. 4-6).

    It is 1 at perfect balance and E if one expert gets all slots. transformers' `load_balancing_loss_func` uses slots
    per token instead of shares of the slots, so its value for one layer is k times as large.

    Args:
        shares: f [L, E], shares of the whole step's routed slots; no gradient flows into them.
        probabilities: [L, E], router probabilities summed over all tokens of the step, or over one micro-batch for its
            part of the loss (the parts add up to the loss).
        tokens: N of the whole step, so that P = probabilities / N.

    Returns:
        [L]; the training loss is the mean over layers.
    """
    return shares.shape[1] * (shares.detach() * probabilities).sum(-1) / max(1, tokens)


def router_z_loss(squares: torch.Tensor, *, tokens: int) -> torch.Tensor:
    """Router z-loss of each layer [L], the mean over tokens of logsumexp(logits)² (ST-MoE, arXiv 2202.08906, eq. 5).

    `squares` [L] is the sum over the whole step, or over one micro-batch for its part. `tokens`: N of the whole step.
    """
    return squares / max(1, tokens)


def load_entropy(shares: torch.Tensor) -> torch.Tensor:
    """Entropy of each layer's load [L] in nats (log E: balanced) from shares [L, E]."""
    return torch.special.entr(shares).sum(-1)


def max_violation(shares: torch.Tensor) -> torch.Tensor:
    """The busiest expert's load over the mean, minus 1, of each layer [L] (arXiv 2408.15664, section 4.1)."""
    return shares.amax(-1) * shares.shape[1] - 1


def dead_experts(shares: torch.Tensor) -> torch.Tensor:
    """Number of experts [L] with less than DEAD_BELOW of the mean load."""
    return (shares * shares.shape[1] < DEAD_BELOW).sum(-1)
