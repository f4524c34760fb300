"""Router losses and expert balance over one optimiser step: all micro-batches of all ranks, without padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sail_rl.data.packing import MicroBatch
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
from sail_rl.models import TokenLogprobs
from sail_rl.models.routing import routers_of


@dataclass(frozen=True, slots=True)
class RouterCoefficients:
    """Coefficients of the load-balancing loss and of the router z-loss in the training loss."""

    aux: float
    z: float


def router_coefficients(model: torch.nn.Module, *, aux: float | None, z: float) -> RouterCoefficients | None:
    """Coefficients for a model, None for a dense one; `aux` None stands for the model's `router_aux_loss_coef`.

    Both are 0 where no router trains (a frozen language model, or LoRA): the losses would move other parts instead.
    """
    config: Any = model.config
    if not config.is_moe:
        return None
    if not any(weight.requires_grad for router in routers_of(model) for weight in router.parameters()):
        return RouterCoefficients(0.0, 0.0)
    return RouterCoefficients(config.text_config.router_aux_loss_coef if aux is None else aux, z)


class ExpertBalance:
    """Router losses and statistics of one step of an MoE.

    The load-balancing loss needs each expert's share of the *whole step* before the first backward pass. All
    micro-batches but the first are therefore counted ahead, without gradients; the first is counted in its training
    forward pass. With one micro-batch per rank no extra pass is needed. All ranks must have equally many.

    Args:
        coefficients: coefficients of the two losses; with `aux` 0 nothing is counted ahead.
        experts_per_token: k.
        tokens: tokens of all labelled samples of the step (the sum of `MicroBatch.uses`), over all ranks.
        all_sum: sums a tensor over the ranks (collective).
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
    def count_ahead(self, model: torch.nn.Module, micro_batches: Sequence[MicroBatch], device: torch.device) -> None:
        """Count the routing of all micro-batches but the first, without labels: the language-model head has no work."""
        if not self.coefficients.aux:
            return
        for micro_batch in micro_batches[1:]:
            output = model(**micro_batch.unlabelled().model_inputs(device))
            self._ahead = self._ahead + self._sums(micro_batch, output).counts

    def loss(self, micro_batch: MicroBatch, output: TokenLogprobs) -> torch.Tensor:
        """One micro-batch's part of both losses, weighted; the sum over micro-batches and ranks is the step's loss."""
        with torch.set_grad_enabled(bool(self.coefficients.aux or self.coefficients.z)):
            sums = self._sums(micro_batch, output)
        self._seen = sums.detached() if self._seen is None else self._seen + sums.detached()
        loss = self.coefficients.z * router_z_loss(sums.squares, tokens=self.tokens).mean()
        if self.coefficients.aux:
            if self._shares is None:
                self._shares = expert_shares(self.all_sum(self._ahead + sums.counts))
            parts = load_balancing_loss(self._shares, sums.probabilities, tokens=self.tokens)
            loss = loss + self.coefficients.aux * parts.mean()
        return loss

    def metrics(self) -> dict[str, float]:
        """Losses and loads of the step, by layer and over layers, after the last `loss` call (collective)."""
        assert self._seen is not None
        counts, probabilities, squares = (
            self.all_sum(values).cpu() for values in (self._seen.counts, self._seen.probabilities, self._seen.squares)
        )
        shares = expert_shares(counts)
        return balance_metrics(
            shares,
            aux_losses=load_balancing_loss(shares, probabilities, tokens=self.tokens),
            z_losses=router_z_loss(squares, tokens=self.tokens),
        )

    def _sums(self, micro_batch: MicroBatch, output: TokenLogprobs) -> RouterSums:
        assert output.router_logits is not None
        uses = micro_batch.uses.to(output.router_logits[0].device)
        return router_sums(output.router_logits, uses, experts_per_token=self.experts_per_token)


def balance_metrics(shares: torch.Tensor, *, aux_losses: torch.Tensor, z_losses: torch.Tensor) -> dict[str, float]:
    """Metrics, by their schema names, of expert shares [L, E] and of the layers' losses [L]."""
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
