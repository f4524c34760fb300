"""AdaLRS in the trainer: scales the learning rate, and restores weights and optimiser after a failed trial."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from torch import distributed

from sail_rl.maths.adalrs import LineSearch

from .distributed import rank

if TYPE_CHECKING:
    from .trainer import Trainer

logger = logging.getLogger(__name__)
TAG = "before-trial"


class LineSearchCallback(transformers.TrainerCallback):
    """Passes each step's loss to the search and applies its decisions.

    DeepSpeed's own checkpoints keep weights and optimiser states before a trial in `folder`, so a rollback is exact
    under every ZeRO stage. The run's checkpoints fall on the ends of windows; if a run resumes where a trial begins,
    the checkpoint is the state before the trial.
    """

    def __init__(self, search: LineSearch, trainer: Trainer, folder: Path) -> None:
        self.search = search
        self.trainer = trainer
        self.folder = folder

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        scheduler: Any = self.trainer.lr_scheduler
        scheduler.lr_lambdas = [
            lambda step, scheduled=scheduled: scheduled(step) * self.search.rate for scheduled in scheduler.lr_lambdas
        ]
        if self.search.trial is not None:  # the run resumes where a trial begins
            self._remember()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Decide before the step is evaluated and saved, so that both see the weights after a rollback."""
        decision = self.search.observe(self.trainer.step_loss, remaining=state.max_steps - state.global_step)
        if decision == "continue":
            return
        if decision == "roll back":
            self._engine.load_checkpoint(str(self.folder), tag=TAG, load_lr_scheduler_states=False)
        if self.search.trial is not None:
            self._remember()
        self._set_rate()
        logger.info("step %d: %s; learning rate x %.3g", state.global_step, decision, self.search.rate)
        self.trainer.record({"train/rate_scale": self.search.rate})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if rank() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _engine(self) -> Any:
        return self.trainer.accelerator.deepspeed_engine_wrapped.engine

    def _set_rate(self) -> None:
        """Recompute the next step's learning rate, which the scheduler has already computed with the old scale."""
        scheduler: Any = self.trainer.lr_scheduler
        groups = scheduler.optimizer.param_groups
        for group, base, scheduled in zip(groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True):
            group["lr"] = base * scheduled(scheduler.last_epoch)
        scheduler._last_lr = [group["lr"] for group in groups]

    def _remember(self) -> None:
        self._engine.save_checkpoint(str(self.folder), tag=TAG)
        distributed.barrier()
