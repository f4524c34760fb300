"""Skips steps with a non-finite gradient, counts them and saves their samples; several in a row end the run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sail_rl.run_dir import StageDir

from .distributed import rank

logger = logging.getLogger(__name__)


@dataclass
class NonFiniteStepMonitor:
    """Detects optimiser steps that were skipped because their gradient was not finite.

    Under ZeRO, DeepSpeed skips a step on all ranks when its gradient norm is NaN or infinite. Without ZeRO (stage 0)
    DeepSpeed skips nothing, so the monitor drops non-finite gradients before the optimiser sees them. A skipped step
    leaves weights and optimiser states unchanged.

    Args:
        folder: the stage's folder; the samples of skipped steps are saved in its subfolder `nonfinite/`.
        limit: number of consecutive skipped steps that ends the run.
    """

    folder: Path
    limit: int = 3
    skipped: int = 0
    in_a_row: int = 0
    _applied: bool = False
    _watched: torch.optim.Optimizer | None = None

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Watch the optimiser that DeepSpeed will call; repeated calls with the same optimiser have no effect."""
        if optimizer is not self._watched:
            optimizer.register_step_pre_hook(self._before_step)
            self._watched = optimizer

    def check(self, batch: Any, *, step: int) -> dict[str, float]:
        """Return the number of skipped steps as a metric; every rank calls this after every step.

        Raises:
            FloatingPointError: after `limit` consecutive skipped steps.
        """
        applied, self._applied = self._applied, False
        if applied:
            self.in_a_row = 0
            return {"train/skipped_steps": self.skipped}
        self.skipped += 1
        self.in_a_row += 1
        path = StageDir(self.folder).nonfinite / f"step-{step}-rank-{rank()}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(batch, path)
        logger.warning("step %d was skipped: its loss or gradient is not finite. Its samples are in %s", step, path)
        if self.in_a_row >= self.limit:
            raise FloatingPointError(
                f"step {step}: {self.in_a_row} steps in a row had a non-finite gradient. The weights are those of step "
                f"{step - self.in_a_row}, and the newest checkpoint is intact. Inspect the samples in {path.parent} "
                "(torch.load(…, weights_only=False)), the rewards and the learning rate"
            )
        return {"train/skipped_steps": self.skipped}

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._applied = all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
        if not self._applied:
            optimizer.zero_grad(set_to_none=True)
