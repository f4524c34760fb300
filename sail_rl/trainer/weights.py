"""The trainer's weights as whole tensors, whatever the ZeRO stage."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import deepspeed
import torch
from peft import PeftModel
from torch import nn

from sail_rl.models import SailVLForConditionalGeneration
from sail_rl.models.adapters import PlainWeight, plain_weights

from .distributed import rank, zero3_disabled

BUCKET_BYTES = 2**30
"""Weights that are gathered at a time under ZeRO-3 (at least one)."""


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


def gathered_weights(model: nn.Module, *, critic: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
    """All weights under the names of a model without LoRA, adapters merged in (see `adapters.plain_weights`).

    Under ZeRO-3 they are gathered as they are asked for, `BUCKET_BYTES` at a time: a collective, so every rank must
    iterate, and to the end. A tied language-model head is not listed twice: engines tie it themselves.

    Args:
        model: the trained model; it is not changed.
        critic: list the critic, too, which is nothing to an engine.
    """
    weights = [weight for weight in plain_weights(model) if critic or not weight.name.startswith("critic.")]
    for bucket in _buckets(weights):
        partitioned = [p for weight in bucket for p in weight.parameters if hasattr(p, "ds_id")]
        with deepspeed.zero.GatheredParameters(partitioned, enabled=bool(partitioned)):
            for weight in bucket:
                yield weight.name, weight.value()


def save_merged(model: PeftModel, folder: Path) -> None:
    """Write a model with LoRA as a plain one, its adapters merged in (a collective; rank 0 writes)."""
    base: Any = model.get_base_model()
    weights = {}
    for name, tensor in gathered_weights(model, critic=True):
        if rank() == 0:
            weights[name] = tensor.cpu()
    if rank() == 0:
        config = copy.deepcopy(base.config)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        with zero3_disabled(), torch.device("meta"):  # only its names and its way of saving are needed
            plain = type(base)(config)
        plain.generation_config = base.generation_config
        plain.save_pretrained(folder, state_dict=weights)


def _buckets(weights: Iterable[PlainWeight]) -> Iterator[list[PlainWeight]]:
    """Consecutive weights of up to `BUCKET_BYTES` together, or a single larger one."""
    bucket: list[PlainWeight] = []
    size = 0
    for weight in weights:
        if bucket and size + weight.bytes > BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
        bucket.append(weight)
        size += weight.bytes
    if bucket:
        yield bucket
