"""Balance of a mixture of experts: router losses and load statistics, from sums that add up over rows and ranks.

L layers, E experts, k experts a token, T positions of a row, N tokens of the whole optimiser step (all its rows on all
ranks). Everything is linear in sums over tokens, except the product of two means in the load-balancing loss: its expert
shares have to be those of the whole step before any row's part is differentiated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

DEAD_BELOW = 0.1
"""An expert with less than this part of the mean load counts as dead."""


@dataclass(frozen=True, slots=True)
class RouterSums:
    """Sums over the tokens of a row, or of rows that were added up.

    `counts` [L, E]: routed slots that each expert got (no gradient); `probabilities` [L, E]: router probabilities;
    `squares` [L]: squared log-partition functions logsumexp(logits)².
    """

    counts: torch.Tensor
    probabilities: torch.Tensor
    squares: torch.Tensor

    def detached(self) -> RouterSums:
        """The same sums without their graph."""
        return RouterSums(self.counts, self.probabilities.detach(), self.squares.detach())

    def __add__(self, other: RouterSums) -> RouterSums:
        return RouterSums(
            self.counts + other.counts, self.probabilities + other.probabilities, self.squares + other.squares
        )


def router_sums(router_logits: Sequence[torch.Tensor], mask: torch.Tensor, *, experts_per_token: int) -> RouterSums:
    """Sum one row's routing over the positions that count.

    Args:
        router_logits: L tensors [T, E].
        mask: [T], true for the positions of real tokens.
        experts_per_token: k; the choice is the router's own, the k largest float32 probabilities.
    """
    counts, probabilities, squares = [], [], []
    positions = mask.nonzero()[:, 0]  # once: each look at the mask makes an accelerator wait
    for layer in router_logits:
        logits = layer.index_select(0, positions).float()
        layer_probabilities = logits.softmax(-1)
        chosen = layer_probabilities.detach().topk(experts_per_token, dim=-1).indices.flatten()
        slots = torch.ones_like(chosen, dtype=torch.float64)  # float32 would stop counting at 2^24
        counts.append(slots.new_zeros(logits.shape[1]).scatter_add_(0, chosen, slots))
        probabilities.append(layer_probabilities.sum(0))
        squares.append(logits.logsumexp(-1).square().sum())
    return RouterSums(torch.stack(counts), torch.stack(probabilities), torch.stack(squares))


def expert_shares(counts: torch.Tensor) -> torch.Tensor:
    """Share of a layer's routed slots that each expert got, float32 [L, E] from counts [L, E] (0 without tokens)."""
    return (counts / counts.sum(-1, keepdim=True).clamp(min=1)).float()


def load_balancing_loss(shares: torch.Tensor, probabilities: torch.Tensor, *, tokens: int) -> torch.Tensor:
    """Load-balancing loss of each layer, E · Σ_i f_i · P_i (Switch Transformer, arXiv 2101.03961, eq. 4-6).

    1 at perfect balance, E when one expert gets everything. transformers' `load_balancing_loss_func` counts slots a
    token instead of shares of the slots, so that on one layer it gives k times as much.

    Args:
        shares: f [L, E], shares of the whole step's routed slots; no gradient flows into them.
        probabilities: [L, E], router probabilities summed over some of the step's tokens: all of them for the loss,
            one row's for its part of it (parts add up to the loss).
        tokens: N of the whole step, so that P = probabilities / N.

    Returns:
        [L]; the loss that is trained on is the mean over layers.
    """
    return shares.shape[1] * (shares.detach() * probabilities).sum(-1) / max(1, tokens)


def router_z_loss(squares: torch.Tensor, *, tokens: int) -> torch.Tensor:
    """Router z-loss of each layer [L], the mean over tokens of logsumexp(logits)² (ST-MoE, arXiv 2202.08906, eq. 5).

    `squares` [L] may be one row's sum: its part of the loss is returned then. `tokens`: N of the whole step.
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
