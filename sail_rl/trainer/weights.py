"""The trainer's weights as full tensors, under every ZeRO stage."""

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
"""Bytes of weights that ZeRO-3 gathers at a time (at least one weight)."""


def start_critic(model: SailVLForConditionalGeneration) -> None:
    """Initialise a new critic: its own layers, if it has any, copy the policy's; its value head starts at 0."""
    critic = model.critic
    critic.mean.zero_()
    critic.deviation.fill_(1.0)
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
    """Yield all weights under the names of a model without LoRA, adapters merged in (see `adapters.plain_weights`).

    ZeRO-3 gathers them during the iteration, `BUCKET_BYTES` at a time: every rank must iterate to the end
    (collective). A tied language-model head is listed once, because engines tie it themselves.

    Args:
        model: the trained model; it is not changed.
        critic: include the critic, which engines do not have.
    """
    weights = [weight for weight in plain_weights(model) if critic or not weight.name.startswith("critic.")]
    for bucket in _buckets(weights):
        partitioned = [p for weight in bucket for p in weight.parameters if hasattr(p, "ds_id")]
        with deepspeed.zero.GatheredParameters(partitioned, enabled=bool(partitioned)):
            for weight in bucket:
                yield weight.name, weight.value()


def save_merged(model: PeftModel, folder: Path) -> None:
    """Save a LoRA model as a plain model with its adapters merged in (collective; rank 0 writes)."""
    base: Any = model.get_base_model()
    weights = {}
    for name, tensor in gathered_weights(model, critic=True):
        if rank() == 0:
            weights[name] = tensor.cpu()
    if base.config.critic:
        weights |= {f"critic.{name}": buffer.cpu() for name, buffer in base.critic.named_buffers(recurse=False)}
    if rank() == 0:
        config = copy.deepcopy(base.config)
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        with zero3_disabled(), torch.device("meta"):  # only its parameter names and `save_pretrained` are needed
            plain = type(base)(config)
        plain.generation_config = base.generation_config
        plain.save_pretrained(folder, state_dict=weights)


def _buckets(weights: Iterable[PlainWeight]) -> Iterator[list[PlainWeight]]:
    """Group consecutive weights into buckets of at most `BUCKET_BYTES`; a larger weight gets its own bucket."""
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
