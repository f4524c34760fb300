"""PPO's critic, a part of the policy's module, so that both share one DeepSpeed engine, optimiser and checkpoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Critic(nn.Module):
    """Estimates the return at each position: mean + deviation · value head.

    Mean and deviation are those of the first rewards. The value head starts at 0, so the critic starts at the mean
    reward; a value head alone would spend a short run on learning the mean.

    Args:
        hidden_size: the size H of the hidden states.
        trunk: the critic's own model; with None, the critic shares the policy's hidden states.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, hidden_size: int, trunk: nn.Module | None) -> None:
        super().__init__()
        self.model = trunk
        self.value_head = nn.Linear(hidden_size, 1, bias=False)
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("deviation", torch.ones(1))

    def normalise(self, mean: float, deviation: float) -> None:
        """Set the mean and deviation of returns, unless that was done before or all returns are equal."""
        if (self.mean.item(), self.deviation.item()) == (0.0, 1.0) and deviation > 0:
            self.mean.fill_(mean)
            self.deviation.fill_(deviation)

    def forward(self, positions: torch.Tensor, hidden: torch.Tensor, inputs: dict[str, Any]) -> torch.Tensor:
        """Values [N] at the `positions` [N], from the policy's hidden states [1, T, H] or inputs."""
        if self.model is not None:
            hidden = self.model(**inputs).last_hidden_state
        return self.mean.float() + self.deviation.float() * self.value_head(hidden[0, positions]).squeeze(-1).float()


def zero_gradient(values: torch.Tensor) -> torch.Tensor:
    """The same values with a gradient of 0, which ZeRO needs of every parameter; `detach` would leave none."""
    return values.detach() + 0.0 * (values - values.detach())
