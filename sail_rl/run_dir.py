"""The files and folders of a run. Only this file defines their names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from sail_rl.lock import locked

LINEAGE = "lineage.json"
"""The file with the history of a model, in its folder and in its stage's."""
BASE = "base"
"""The name of the base model, in recipes and in the run's folder."""
PARTIAL = ".partial"
"""The end of the names of unfinished files and folders (see `files.atomic_path`)."""
SHOWN = 3
"""Number of unknown files that an error names."""


class StageDir:
    """The folder of one stage, `RUN/stages/NAME`; its checkpoints are transformers' `checkpoint-STEP`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.key = root / "key"
        """Hash of everything that the stage's result depends on."""
        self.model = root / "model"
        self.adapter = root / "adapter"
        """LoRA's adapters, beside the model with the adapters merged in."""
        self.dataset = root / "data.parquet"
        """The dataset that a harvest or filter stage makes."""
        self.counts = root / "counts.json"
        """Rollouts, prompts and kept rows of that dataset."""
        self.export = root / "export"
        self.lineage = root / LINEAGE
        self.nonfinite = root / "nonfinite"
        """Samples of the steps that were skipped."""
        self.line_search = root / "adalrs"
        """States that AdaLRS returns to."""
        self.repartitioned = root / "repartitioned"
        """A copy of a checkpoint for another number of ranks, while a stage resumes from it."""
        self.result = root / "result.json"
        """Written last: the stage is finished."""

    def best(self, step: int | str) -> Path:
        """The model of an evaluation at this step, a candidate for the stage's best."""
        return self.root / f"best-{step}"

    def candidates(self) -> list[Path]:
        """The folders of all candidates."""
        return list(self.root.glob(self.best("*").name))

    def written(self) -> list[Path]:
        """All files and folders that a run has written here, the key first; others belong to the user."""
        return sorted(_written(self, r"best-\d+|checkpoint-\d+|tmp-checkpoint-\d+"), key=lambda path: path != self.key)

    @staticmethod
    def state(checkpoint: Path) -> Path:
        """The stage's own state in one of its checkpoints."""
        return checkpoint / "stage.json"

    @staticmethod
    def held_rollouts(checkpoint: Path, rank: int) -> Path:
        """The rollouts in one of its checkpoints that a rank has sampled and no step has used yet."""
        return checkpoint / f"rollouts_rank{rank}.npz"

    @staticmethod
    def all_held_rollouts(checkpoint: Path) -> list[Path]:
        """The files of `held_rollouts` of all ranks that wrote a checkpoint."""
        return sorted(checkpoint.glob("rollouts_rank*.npz"))


class RunDir:
    """The folder of one run, a recipe's `output_dir`."""

    def __init__(self, root: str | PathLike[str]) -> None:
        self.root = Path(root)
        self.recipe = self.root / "recipe.yaml"
        """The resolved recipe, written after `versions`; a folder without the two is not a run's folder."""
        self.versions = self.root / "versions.json"
        self.lock = self.root / "LOCK"
        """Held by the process that writes to this folder."""
        self.data = self.root / "data"
        """Datasets that were built, fetched or curated."""
        self.data_manifest = self.data / "manifest.json"
        """The arguments of the datasets' builder, and the paths of its files."""
        self.base = self.root / BASE
        """The tiny base model, if the recipe names no checkpoint."""
        self.base_complete = self.base / "COMPLETE"
        self.stages = self.root / "stages"
        self.ready = self.root / "READY"
        """Rank 0 has checked everything, and the datasets are ready."""
        self.wandb = self.root / "wandb"
        self.wandb_id = self.root / "wandb_run_id"
        self.metrics = self.root / "metrics.jsonl"
        self.traces = self.root / "traces.jsonl"
        self.trace_images = self.root / "trace_images"
        self.prompts_seen = self.root / "prompts_seen.jsonl"
        self.rollouts = self.root / "rollouts"
        self.summary = self.root / "summary.json"
        """Written last: the run is finished."""
        self.report = self.root / "report.html"
        self.overview = self.root / "curves.png"
        self.curves = self.root / "curves"

    def broken_rows(self, name: str) -> Path:
        """The rows of a dataset that were dropped because their pictures can't be decoded, with the reasons."""
        return self.data / f"{name}.broken.jsonl"

    def stage(self, name: str) -> StageDir:
        """The folder of the stage called `name`."""
        return StageDir(self.stages / name)

    def model(self, name: str) -> Path:
        """The model of the stage called `name`, or the run's own base model."""
        return self.base if name == BASE else self.stage(name).model

    @property
    def has_run(self) -> bool:
        """True if a run has begun in this folder."""
        return self.recipe.is_file() and self.versions.is_file()

    def written(self) -> list[Path]:
        """All files and folders that a run writes here; others belong to the user."""
        return list(_written(self))

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder if it is missing, and be the only process that writes to it.

        Raises:
            ValueError: another process writes to it; it isn't a folder; or it can't be written.
        """
        self.refuse_strangers()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"output_dir {self.root} can't be made: {error.strerror}; give another folder") from None
        with locked(self.lock, of=self.root):
            self.refuse_strangers()
            yield

    def refuse_strangers(self) -> None:
        """Raise ValueError if this is a file, or a folder with other files in which no run has begun.

        Datasets may be there before a run: `sail-rl check` makes them.
        """
        if self.root.exists() and not self.root.is_dir():
            raise ValueError(f"output_dir {self.root} is a file; give a folder")
        if not self.root.is_dir() or self.has_run:
            return
        unfinished = {f"{path.name}{PARTIAL}" for path in (self.versions, self.recipe)}  # left by a kill
        known = {self.data.name, self.lock.name, self.versions.name, *unfinished}
        if others := sorted({path.name for path in self.root.iterdir()} - known):
            more = f" and {len(others) - SHOWN} more" if len(others) > SHOWN else ""
            raise ValueError(
                f"output_dir {self.root} is not the folder of a run, and it holds {', '.join(others[:SHOWN])}{more}; "
                "give a new or an empty folder"
            )

    @classmethod
    def of_model(cls, model_dir: Path) -> RunDir | None:
        """The run that made a model, if it lies at `RUN/stages/NAME/model`, or at `…/adapter` as a LoRA adapter."""
        stage = model_dir.resolve().parent
        run = cls(stage.parent.parent)
        own = (run.model(stage.name), run.stage(stage.name).adapter)
        return run if model_dir.resolve() in own and run.recipe.is_file() else None


def _written(folder: StageDir | RunDir, further: str = "(?!)") -> Iterator[Path]:
    """The existing files and folders that `folder` names, or whose names match `further`; with unfinished ones."""
    named = {path.name for path in vars(folder).values() if path.parent == folder.root}
    for path in folder.root.iterdir() if folder.root.is_dir() else ():
        name = path.name.removesuffix(PARTIAL)
        if name in named or re.fullmatch(further, name):
            yield path
