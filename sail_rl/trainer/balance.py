"""Balance of the experts over one optimiser step: all its packed rows, all ranks, nothing that only fills up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from sail_rl.data.packing import PackedRow
from sail_rl.maths.balance import (
    RouterSums,
    dead_experts,
    expert_shares,
    load_balancing_loss,
    load_entropy,
    max_violation,
    router_sums,
    router_z_loss,
)
from sail_rl.models import SailVLConfig, TokenScores


@dataclass(frozen=True, slots=True)
class RouterCoefficients:
    """Weights of the load-balancing loss and of the router z-loss in the loss that is trained on."""

    aux: float
    z: float


def router_coefficients(config: SailVLConfig, *, aux: float | None, z: float) -> RouterCoefficients | None:
    """Coefficients for a model; None for a dense one. `aux` None: the model's own `router_aux_loss_coef`."""
    if not config.is_moe:
        return None
    return RouterCoefficients(config.text_config.router_aux_loss_coef if aux is None else aux, z)


class ExpertBalance:
    """Router losses and statistics of one step of an MoE.

    The load-balancing loss needs each expert's share of the *whole step* before the first backward pass. So all rows
    but the first are counted ahead, without gradients; the first row's counts come from its training forward. One row
    a rank then needs no pass ahead. Every rank must have as many rows.

    Args:
        coefficients: of the two losses; with `aux` 0 nothing is counted ahead.
        experts_per_token: k.
        tokens: positions of the step that count (`PackedRow.scored`), all ranks.
        all_sum: sums a tensor over the ranks (a collective).
    """

    def __init__(
        self,
        coefficients: RouterCoefficients,
        *,
        experts_per_token: int,
        tokens: int,
        all_sum: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        self.coefficients = coefficients
        self.experts_per_token = experts_per_token
        self.tokens = tokens
        self.all_sum = all_sum
        self._ahead: torch.Tensor | float = 0.0
        self._shares: torch.Tensor | None = None
        self._seen: RouterSums | None = None

    @torch.no_grad()
    def count_ahead(self, model: torch.nn.Module, rows: Sequence[PackedRow], device: torch.device) -> None:
        """Count the routing of all rows but the first, with nothing for the language-model head to score."""
        if not self.coefficients.aux:
            return
        for row in rows[1:]:
            scores = model(**row.fully_masked().model_inputs(device))
            self._ahead = self._ahead + self._sums(row, scores).counts

    def loss(self, row: PackedRow, scores: TokenScores) -> torch.Tensor:
        """The part of one row in both losses, weighted; the parts of all rows of all ranks add up to the step's."""
        sums = self._sums(row, scores)
        self._seen = sums.detached() if self._seen is None else self._seen + sums.detached()
        loss = self.coefficients.z * router_z_loss(sums.squares, tokens=self.tokens).mean()
        if self.coefficients.aux:
            if self._shares is None:
                self._shares = expert_shares(self.all_sum(self._ahead + sums.counts))
            parts = load_balancing_loss(self._shares, sums.probabilities, tokens=self.tokens)
            loss = loss + self.coefficients.aux * parts.mean()
        return loss

    def metrics(self) -> dict[str, float]:
        """Losses and load of the step by layer and over layers (see docs/metrics.md), after all rows; a collective."""
        assert self._seen is not None
        counts, probabilities, squares = (
            self.all_sum(values).cpu() for values in (self._seen.counts, self._seen.probabilities, self._seen.squares)
        )
        if not self.tokens:  # nothing in the step had anything to learn from
            return {}
        shares = expert_shares(counts)
        return balance_metrics(
            shares,
            aux_losses=load_balancing_loss(shares, probabilities, tokens=self.tokens),
            z_losses=router_z_loss(squares, tokens=self.tokens),
        )

    def _sums(self, row: PackedRow, scores: TokenScores) -> RouterSums:
        assert scores.router_logits is not None
        mask = row.scored.to(scores.router_logits[0].device)
        return router_sums(scores.router_logits, mask, experts_per_token=self.experts_per_token)


def balance_metrics(shares: torch.Tensor, *, aux_losses: torch.Tensor, z_losses: torch.Tensor) -> dict[str, float]:
    """Metrics of expert shares [L, E] and of the losses of each layer [L], under the names of the schema."""
    by_layer = {
        "moe/entropy": load_entropy(shares),
        "moe/load_max_violation": max_violation(shares),
        "moe/dead_experts": dead_experts(shares).float(),
        "moe/aux_loss": aux_losses,
        "moe/z_loss": z_losses,
    }
    metrics = {name: values.mean().item() for name, values in by_layer.items()}
    metrics["moe/load_max_violation"] = by_layer["moe/load_max_violation"].max().item()
    metrics["moe/dead_experts"] = by_layer["moe/dead_experts"].sum().item()
    for name, values in by_layer.items():
        metrics |= {f"{name}/{layer}": value for layer, value in enumerate(values.tolist())}
    for layer, loads in enumerate(shares.tolist()):
        metrics |= {f"moe/load/{layer}/{expert}": load for expert, load in enumerate(loads)}
    return metrics
