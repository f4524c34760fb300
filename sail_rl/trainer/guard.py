"""Steps whose gradient isn't finite: skipped, counted, saved for inspection, and after a few in a row the run ends."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .distributed import rank

logger = logging.getLogger(__name__)


@dataclass
class StepGuard:
    """Watches whether an optimiser step was applied.

    DeepSpeed's ZeRO stages skip a step whose gradient norm is NaN or infinite, on all ranks alike; without ZeRO (stage
    0) nothing does, so the guard takes such gradients away before the optimiser sees them. Weights and optimiser states
    stay as they were.

    Args:
        folder: the stage's folder; a skipped step's samples go to `nonfinite/` in it.
        limit: so many skipped steps in a row end the run.
    """

    folder: Path
    limit: int = 3
    skipped: int = 0
    in_a_row: int = 0
    _applied: bool = False
    _watched: torch.optim.Optimizer | None = None

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Begin to watch the optimiser that DeepSpeed will call (once, however often transformers hands it over)."""
        if optimizer is not self._watched:
            optimizer.register_step_pre_hook(self._before_step)
            self._watched = optimizer

    def check(self, batch: Any, *, step: int) -> dict[str, float]:
        """After a step: returns the metric; every rank calls it.

        Raises:
            FloatingPointError: at the `limit`-th skipped step in a row.
        """
        applied, self._applied = self._applied, False
        if applied:
            self.in_a_row = 0
            return {"train/skipped_steps": self.skipped}
        self.skipped += 1
        self.in_a_row += 1
        path = self.folder / "nonfinite" / f"step-{step}-rank-{rank()}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(batch, path)
        logger.warning("step %d: loss or gradient is not finite; skipped. Its samples are in %s", step, path)
        if self.in_a_row >= self.limit:
            raise FloatingPointError(
                f"step {step}: {self.in_a_row} steps in a row had a gradient that is not finite. The weights are those "
                f"of step {step - self.in_a_row} and the newest checkpoint is intact; look at the samples in "
                f"{path.parent} (torch.load(…, weights_only=False)), at the rewards and at the learning rate"
            )
        return {"train/skipped_steps": self.skipped}

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._applied = all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
        if not self._applied:
            optimizer.zero_grad(set_to_none=True)
