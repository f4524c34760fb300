"""Records which experts an in-process vLLM model routes each token to, so that the trainer can replay them (R3)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from vllm.model_executor.layers.fused_moe.layer import MoERunner

Routes = np.ndarray


class RouteRecorder:
    """Listens to the routers of a live model while it is `active`; `take` gives what one request was routed to.

    vLLM's own recorder (`enable_return_routed_experts`) belongs to its GPU workers. This one reads the batch's layout
    where the model runner keeps it, after each forward. Prefix caching must be off: what isn't computed isn't seen.

    Args:
        runner: the model runner of the engine's worker.
    """

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._layers = [module for module in runner.model.modules() if isinstance(module, MoERunner)]
        if not self._layers:
            raise ValueError("capture_routed_experts: the model has no experts to route to; it is for an MoE")
        self._step: list[torch.Tensor | None] = [None] * len(self._layers)
        self.active = False
        self._seen: dict[str, list[tuple[np.ndarray, Routes]]] = {}
        for number, layer in enumerate(self._layers):
            layer.router.set_capture_fn(partial(self._note, number))
        runner.model.register_forward_hook(self._forward, with_kwargs=True)

    def take(self, request: str, length: int) -> Routes:
        """Experts [length, layers, experts per token] of the first `length` positions, which are forgotten.

        Raises:
            RuntimeError: some of these positions were never computed.
        """
        chunks = self._seen.pop(request)
        _, example = chunks[0]
        routed_experts = np.full((length, *example.shape[1:]), -1, dtype=np.int16)
        for positions, experts in chunks:  # a preempted request computes positions again: the last time counts
            kept = positions < length
            routed_experts[positions[kept]] = experts[kept]
        if (routed_experts < 0).any():
            raise RuntimeError(
                f"request {request}: the routing of {(routed_experts < 0).any((1, 2)).sum()} positions was not recorded"
            )
        return routed_experts

    def forget(self) -> None:
        """Drop what was noted of requests that nobody takes."""
        self._seen.clear()

    def _note(self, layer: int, experts: torch.Tensor) -> None:
        self._step[layer] = experts

    def _forward(self, _: Any, __: Any, inputs: dict[str, Any], ___: Any) -> None:
        """One forward is over: deal its tokens out to their requests."""
        layers = [experts for experts in self._step if experts is not None]
        if not self.active or len(layers) != len(self._layers):
            return
        experts = torch.stack(layers, dim=1).to("cpu", torch.int16).numpy()
        positions = inputs["positions"].cpu().numpy()
        starts = self._runner.query_start_loc.np
        for number, request in enumerate(self._runner.input_batch.req_ids):
            rows = slice(starts[number], starts[number + 1])
            self._seen.setdefault(request, []).append((positions[rows].copy(), experts[rows].copy()))
