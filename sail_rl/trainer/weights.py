"""The trainer's weights as whole tensors, whatever the ZeRO stage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import deepspeed
import torch
from torch import nn

from sail_rl.models import SailVLForConditionalGeneration


def start_critic(model: SailVLForConditionalGeneration) -> None:
    """Let a new critic begin with the policy's layers (if it has its own) and with a value of 0 everywhere."""
    critic = model.critic
    pairs: list[tuple[torch.Tensor, torch.Tensor | None]] = [(critic.value_head.weight, None)]
    if critic.model is not None:
        pairs += list(zip(critic.model.parameters(), model.model.parameters(), strict=True))
    for own, source in pairs:
        partitioned = [p for p in (own, source) if hasattr(p, "ds_id")]
        with (
            deepspeed.zero.GatheredParameters(partitioned, modifier_rank=0, enabled=bool(partitioned)),
            torch.no_grad(),
        ):
            if source is None:
                own.zero_()
            else:
                own.copy_(source)


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """Yield all named parameters, gathered under ZeRO-3 (a collective: every rank must enter).

    A tied language-model head is not listed twice: engines tie it themselves. A critic is nothing to them.
    """
    partitioned = [parameter for parameter in model.parameters() if hasattr(parameter, "ds_id")]
    with deepspeed.zero.GatheredParameters(partitioned, enabled=bool(partitioned)), torch.no_grad():
        yield [(name, tensor) for name, tensor in model.named_parameters() if not name.startswith("critic.")]
