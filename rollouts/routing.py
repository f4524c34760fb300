"""Records which experts an in-process vLLM model routes each token to, so that the trainer can replay them (R3)."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from vllm.model_executor.layers.fused_moe.layer import MoERunner

Routes = np.ndarray


class RouteRecorder:
    """Records the choices of a live model's routers while it is `active`; `take` returns those of one request.

    vLLM's own recorder (`enable_return_routed_experts`) exists only in its GPU workers. This one reads the batch layout
    from the model runner after each forward. Prefix caching must be off, because cached positions aren't routed.

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
        self._recorded: dict[str, list[tuple[np.ndarray, Routes]]] = {}
        for number, layer in enumerate(self._layers):
            layer.router.set_capture_fn(partial(self._note, number))
        runner.model.register_forward_hook(self._forward, with_kwargs=True)

    def take(self, request: str, length: int) -> Routes:
        """Experts [length, layers, experts per token] of the first `length` positions; drops them from the record.

        Raises:
            RuntimeError: some of these positions were never computed.
        """
        chunks = self._recorded.pop(request)
        _, example = chunks[0]
        routed_experts = np.full((length, *example.shape[1:]), -1, dtype=np.int16)
        for positions, experts in chunks:  # a preempted request computes positions again; the last time counts
            kept = positions < length
            routed_experts[positions[kept]] = experts[kept]
        if (routed_experts < 0).any():
            raise RuntimeError(
                f"request {request}: the routing of {(routed_experts < 0).any((1, 2)).sum()} positions was not recorded"
            )
        return routed_experts

    def clear(self) -> None:
        """Drop the records of requests that nobody will take."""
        self._recorded.clear()

    def _note(self, layer: int, experts: torch.Tensor) -> None:
        self._step[layer] = experts

    def _forward(self, _: Any, __: Any, inputs: dict[str, Any], ___: Any) -> None:
        """After each forward: assign its tokens to their requests."""
        layers = [experts for experts in self._step if experts is not None]
        if not self.active or len(layers) != len(self._layers):
            return
        experts = torch.stack(layers, dim=1).to("cpu", torch.int16).numpy()
        positions = inputs["positions"].cpu().numpy()
        starts = self._runner.query_start_loc.np
        for number, request in enumerate(self._runner.input_batch.req_ids):
            rows = slice(starts[number], starts[number + 1])
            self._recorded.setdefault(request, []).append((positions[rows].copy(), experts[rows].copy()))
