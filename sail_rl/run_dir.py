"""The files and folders of a run. Only this file defines their names."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

LINEAGE = "lineage.json"
"""The file with the history of a model, in its folder and in its stage's."""
BASE = "base"
"""The name of the base model, in recipes and in the run's folder."""


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
        self.result = root / "result.json"
        """Written last: the stage is finished."""

    def best(self, step: int | str) -> Path:
        """The model of an evaluation at this step, a candidate for the stage's best."""
        return self.root / f"best-{step}"

    def candidates(self) -> list[Path]:
        """The folders of all candidates."""
        return list(self.root.glob(self.best("*").name))

    @staticmethod
    def state(checkpoint: Path) -> Path:
        """The stage's own state in one of its checkpoints."""
        return checkpoint / "stage.json"

    @staticmethod
    def held_rollouts(checkpoint: Path, rank: int) -> Path:
        """The rollouts in one of its checkpoints that a rank has sampled and no step has used yet."""
        return checkpoint / f"rollouts_rank{rank}.npz"


class RunDir:
    """The folder of one run, a recipe's `output_dir`."""

    def __init__(self, root: str | PathLike[str]) -> None:
        self.root = Path(root)
        self.recipe = self.root / "recipe.yaml"
        """The resolved recipe; a folder without it is not a run's folder."""
        self.versions = self.root / "versions.json"
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

    def stage(self, name: str) -> StageDir:
        """The folder of the stage called `name`."""
        return StageDir(self.stages / name)

    def model(self, name: str) -> Path:
        """The model of the stage called `name`, or the run's own base model."""
        return self.base if name == BASE else self.stage(name).model

    @classmethod
    def of_model(cls, model_dir: Path) -> RunDir | None:
        """The run that made a model, if it lies at `RUN/stages/NAME/model`, or at `…/adapter` as a LoRA adapter."""
        stage = model_dir.resolve().parent
        run = cls(stage.parent.parent)
        own = (run.model(stage.name), run.stage(stage.name).adapter)
        return run if model_dir.resolve() in own and run.recipe.is_file() else None
