"""Rollout routing replay (R3): an MoE forward that uses the experts which the sampler used.

Two engines whose hidden states differ by rounding may choose different experts, and then a token's log-prob differs by
far more than rounding (Ma et al., arXiv 2510.11370). Replaying the sampler's choice removes this; the router's logits,
and so its gradient, stay the trainer's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter


def make_replayable(language_model: nn.Module) -> None:
    """Let every router of a Qwen3-MoE heed `set_routes`."""
    for router in _routers(language_model):
        router.routes = None
        router.register_forward_hook(_replay)


def set_routes(language_model: nn.Module, routes: torch.Tensor | None) -> None:
    """Replay `routes` [T, layers, experts per token] from now on (-1: the router's own choice), or nothing (None).

    They stay until the next call, because gradient checkpointing runs the forward again in the backward pass.
    """
    routers = _routers(language_model)
    if routes is not None and routes.shape[1] != len(routers):
        raise ValueError(f"routes of {routes.shape[1]} layers came to a model with {len(routers)} MoE layers")
    for layer, router in enumerate(routers):
        router.routes = None if routes is None else routes[:, layer].long()


def _routers(language_model: nn.Module) -> list[Any]:
    return [module for module in language_model.modules() if isinstance(module, Qwen3MoeTopKRouter)]


def _replay(router: Any, _: Any, output: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """The router's output with the experts of `router.routes`, weighted by the router's own probabilities."""
    logits, scores, own = output
    if router.routes is None:
        return output
    experts = torch.where(router.routes < 0, own, router.routes)
    weights = logits.softmax(-1, dtype=torch.float).gather(-1, experts)
    if router.norm_topk_prob:
        weights = weights / weights.sum(-1, keepdim=True)
    return logits, weights.to(scores.dtype), experts
