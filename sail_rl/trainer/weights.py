"""The trainer's weights as whole tensors, whatever the ZeRO stage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import deepspeed
import torch
from torch import nn


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """Yield all named parameters, gathered under ZeRO-3 (a collective: every rank must enter).

    A tied language-model head is not listed twice: engines tie it themselves.
    """
    partitioned = [parameter for parameter in model.parameters() if hasattr(parameter, "ds_id")]
    with deepspeed.zero.GatheredParameters(partitioned, enabled=bool(partitioned)), torch.no_grad():
        yield list(model.named_parameters())
