"""Rollout routing replay (R3): an MoE's forward pass uses the experts that the rollout engine used.

Two engines whose hidden states differ by rounding may choose different experts, and then a token's log-probs differ by
far more than rounding (Ma et al., arXiv 2510.11370). Replaying the engine's choice removes this difference. Router
logits, and therefore the router's gradient, remain the trainer's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter


def make_replayable(language_model: nn.Module) -> None:
    """Make every router of a Qwen3-MoE obey `set_routed_experts`."""
    for router in routers_of(language_model):
        router.routed_experts = None
        router.register_forward_hook(_replay)


def set_routed_experts(language_model: nn.Module, routed_experts: torch.Tensor | None) -> None:
    """Set the experts that the next forward passes use, until the next call.

    They persist because gradient checkpointing repeats the forward pass during the backward pass.

    Args:
        language_model: a Qwen3-MoE after `make_replayable`.
        routed_experts: [T, layers, k] expert indices (-1: the router's own choice), or None for no replay.

    Raises:
        ValueError: if the number of layers is not that of the model.
    """
    routers = routers_of(language_model)
    if routed_experts is not None and routed_experts.shape[1] != len(routers):
        raise ValueError(
            f"routed_experts has {routed_experts.shape[1]} layers, but the model has {len(routers)} MoE layers; "
            "rollouts and trainer must use the same model"
        )
    for layer, router in enumerate(routers):
        router.routed_experts = None if routed_experts is None else routed_experts[:, layer].long()


def routers_of(model: nn.Module) -> list[Any]:
    """The routers of all layers of a Qwen3-MoE or of a model around it; none of a dense model."""
    return [module for module in model.modules() if isinstance(module, Qwen3MoeTopKRouter)]


def _replay(router: Any, _: Any, output: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """The router's output with `router.routed_experts` as its choice, weighted by the router's own probabilities."""
    logits, scores, own = output
    if router.routed_experts is None:
        return output
    experts = torch.where(router.routed_experts < 0, own, router.routed_experts)
    weights = logits.softmax(-1, dtype=torch.float).gather(-1, experts)
    if router.norm_topk_prob:
        weights = weights / weights.sum(-1, keepdim=True)
    return logits, weights.to(scores.dtype), experts
