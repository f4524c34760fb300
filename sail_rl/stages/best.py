"""The best model of a stage by a held-out metric."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sail_rl.files import atomic_path
from sail_rl.run_dir import StageDir
from sail_rl.trainer.distributed import rank


@dataclass(slots=True)
class Best:
    """The best evaluation so far. `accuracy` is the held-out accuracy that the summary shows."""

    step: int
    value: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class BestModels:
    """The folders `best-STEP` of one stage, each with a `model` (and `adapter`).

    A folder is kept as long as a complete checkpoint refers to it, so a kill never loses the best model.
    """

    folder: Path
    metric: str
    greater: bool

    def consider(
        self,
        best: Best | None,
        step: int,
        metrics: Mapping[str, float],
        *,
        accuracy: float,
        save: Callable[[str], None],
    ) -> Best | None:
        """Save this step's model if its metric is the best so far (a collective). Return the best evaluation.

        Raises:
            ValueError: the evaluation has no such metric.
        """
        if self.metric not in metrics:
            raise ValueError(f"metric_for_best_model is {self.metric}, but an evaluation has {', '.join(metrics)}")
        value = metrics[self.metric]
        if best and (value <= best.value if self.greater else value >= best.value):
            return best
        save(StageDir(self.folder).best(step).name)
        return Best(step, value, accuracy)

    def keep_only(self, *bests: Best | None) -> None:
        """Delete the models of all other evaluations (rank 0)."""
        stage = StageDir(self.folder)
        for path in set(stage.candidates()) - {stage.best(best.step) for best in bests if best}:
            shutil.rmtree(path)

    def adopt(self, best: Best) -> None:
        """Make the best model the stage's model. The candidate is kept until the stage's result is written."""
        if rank() == 0:
            for path in StageDir(self.folder).best(best.step).iterdir():
                with atomic_path(self.folder / path.name) as partial:
                    shutil.copytree(path, partial, copy_function=_link)


def _link(source: str, target: str) -> str:
    """Make a hard link, or a copy where the file system has no hard links."""
    try:
        os.link(source, target)
        return target
    except OSError:
        return str(shutil.copy2(source, target))


def remove_candidates(folder: Path) -> None:
    """Delete the candidates of a finished stage (rank 0)."""
    for path in StageDir(folder).candidates():
        shutil.rmtree(path)
