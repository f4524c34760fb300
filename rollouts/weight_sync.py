"""Replaces all weights of a live vLLM model; correct on CPU and GPU, for dense and MoE, tied and untied models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from vllm.config import ModelConfig
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload


@torch.no_grad()
def reload_weights(model: nn.Module, model_config: ModelConfig, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Load `tensors` (the trainer's names) into a model that is already serving; call it only while the model is idle.

    A plain `load_weights` is not enough: on CPU, kernels keep re-packed copies of the weights, which would stay stale.
    The caller must reset the prefix cache and the encoder cache afterwards.
    """
    module: Any
    for module in model.modules():
        # MoE on CPU: the fused kernel packs the experts once; without it the next forward packs them again.
        if getattr(getattr(module, "quant_method", None), "moe_kernel", None) is not None:
            module.quant_method.moe_kernel = None
    initialize_layerwise_reload(model)
    load_weights: Any = model.load_weights
    load_weights((name, tensor.detach()) for name, tensor in tensors)
    finalize_layerwise_reload(model, model_config)
    for module in model.modules():
        # Tied embeddings on CPU: the head's packed copy is made from the embedding, which has just changed.
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)
