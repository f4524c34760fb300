"""One stage: a trainer with its batch source and loss, from the parent's model to `stages/NAME/model`."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import transformers
from peft import PeftModel
from transformers import AutoProcessor

from sail_rl.config import RLStage, SFTStage
from sail_rl.contracts import RolloutEngine
from sail_rl.data.encoding import Encoder
from sail_rl.data.order import RowStream
from sail_rl.data.stream import StreamPacker
from sail_rl.evaluation.evaluate import Evaluator
from sail_rl.maths.adalrs import LineSearch
from sail_rl.maths.losses import LossFunction, cross_entropy
from sail_rl.plan.plan import Plan
from sail_rl.plan.rewards import stage_scorer
from sail_rl.run_dir import StageDir
from sail_rl.trainer import checkpoints
from sail_rl.trainer.balance import router_coefficients
from sail_rl.trainer.batches import BatchSource
from sail_rl.trainer.distributed import rank, world_size
from sail_rl.trainer.line_search import LineSearchCallback
from sail_rl.trainer.nonfinite import NonFiniteStepMonitor
from sail_rl.trainer.prompt_ledger import PromptLedger
from sail_rl.trainer.repartition import fitted
from sail_rl.trainer.sampling import GroupSampler, RolloutObserver
from sail_rl.trainer.sft import StreamedBatches, SupervisedBatches
from sail_rl.trainer.trainer import Trainer
from sail_rl.trainer.weights import save_merged

from .algorithms import make_batches, make_ledger, make_loss, make_sampling
from .arguments import training_arguments
from .best import Best, BestModels
from .policy import load_policy, write_adapter
from .rows import rows_of

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class StageProgress:
    """State of a stage beside the trainer's own; saved with every checkpoint."""

    heldout_accuracy_before: float | None = None
    seconds: float = 0.0
    best: Best | None = None


@dataclass(frozen=True, slots=True)
class StageResult:
    """The result of one stage, a row of the summary."""

    name: str
    minutes: float
    heldout_accuracy_before: float | None
    heldout_accuracy_after: float | None
    """None if the stage makes no model."""


@dataclass
class Stage:
    """One stage of a plan, ready to run.

    Args:
        plan: the checked recipe and its datasets.
        config: the stage's part of the recipe.
        parent: folder of the model to start from.
        engine: rollout engine, shared by all stages.
        evaluator: held-out evaluation with that engine.
        log: `log(metrics, step)` writes the metrics of a step on rank 0 and does nothing on other ranks.
        observer: receives the rollouts of an RL stage.
    """

    plan: Plan
    config: SFTStage | RLStage
    parent: Path
    engine: RolloutEngine
    evaluator: Evaluator
    log: Callable[[dict[str, float], int], None]
    observer: RolloutObserver
    progress: StageProgress = field(default_factory=StageProgress)
    sampler: GroupSampler | None = None
    source_state: PromptLedger | StreamPacker | None = None
    """Extra batch-source state that checkpoints save."""
    search: LineSearch | None = None
    _evaluated: tuple[int, dict[str, float]] | None = None

    @property
    def folder(self) -> Path:
        """The stage's folder with its checkpoints, final model and result."""
        return self.plan.recipe.run_dir.stage(self.config.name).root

    def run(self) -> StageResult:
        """Train from the newest complete checkpoint, or from the parent; returns the result."""
        checkpoint = checkpoints.newest_checkpoint(self.folder)
        if checkpoint:
            saved = json.loads(StageDir.state(checkpoint[0]).read_text())
            best = saved["progress"].pop("best")
            self.progress = StageProgress(**saved["progress"], best=Best(**best) if best else None)
        if self.best_models and rank() == 0:
            self.best_models.keep_only(*self._bests())
        args = training_arguments(self.plan.recipe, self.config, self.folder)
        trainer = self._trainer(args)
        if checkpoint and self.source_state:
            self.source_state.load_state(saved["source"])
            if self.sampler:
                self.sampler.load_held(StageDir.all_held_rollouts(checkpoint[0]))
        if self.config.adalrs:
            self.search = LineSearch(**(saved["search"] if checkpoint else self.config.adalrs.model_dump()))
            trainer.add_callback(LineSearchCallback(self.search, trainer, StageDir(self.folder).line_search))
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.add_callback(_StageCallback(self, trainer))
        resume = fitted(checkpoint[0], trainer, StageDir(self.folder).repartitioned) if checkpoint else None
        try:
            trainer.train(resume_from_checkpoint=resume)
            accuracy = self.evaluate(trainer)[self.evaluator.accuracy_name]
            if self.best_models and self.progress.best:
                accuracy = self.progress.best.accuracy
                self.best_models.adopt(self.progress.best)
            else:
                self._save_model(trainer)
        finally:
            if self.sampler:
                self.sampler.close()
        assert self.progress.heldout_accuracy_before is not None
        before = self.progress.heldout_accuracy_before
        return StageResult(self.config.name, self.progress.seconds / 60, before, accuracy)

    @property
    def best_models(self) -> BestModels | None:
        """The stage's best models; None if the stage keeps its last model."""
        metric, name = self.config.metric_for_best_model, self.evaluator.selection_name
        return BestModels(self.folder, name(metric), self.config.greater_is_better) if metric else None

    def evaluate_and_keep(self, trainer: Trainer) -> dict[str, float]:
        """Return the held-out metrics, and save the model if they are the best so far."""
        metrics = self.evaluate(trainer)
        if models := self.best_models:
            accuracy = metrics[self.evaluator.accuracy_name]
            step, best = trainer.state.global_step, self.progress.best

            def save(name: str) -> None:
                self._save_model(trainer, name)

            self.progress.best = models.consider(best, step, metrics, accuracy=accuracy, save=save)
        return metrics

    def evaluate(self, trainer: Trainer) -> dict[str, float]:
        """Held-out metrics of the trainer's current weights (computed once for each step)."""
        step = trainer.state.global_step
        if self._evaluated is None or self._evaluated[0] != step:
            trainer.push_weights(self.engine)
            with trainer.stopwatch.measure("time/evaluate"):
                self._evaluated = step, self.evaluator()
        return self._evaluated[1]

    def save_progress(self, checkpoint: Path) -> None:
        """Write this rank's part of the stage's own state into a checkpoint."""
        if self.sampler:
            self.sampler.held.save(StageDir.held_rollouts(checkpoint, rank()))
        if rank():
            return
        state = {
            "progress": asdict(self.progress),
            "source": self.source_state.state() if self.source_state else None,
            "search": asdict(self.search) if self.search else None,
        }
        StageDir.state(checkpoint).write_text(json.dumps(state))
        if self.best_models:
            self.best_models.keep_only(self.progress.best, *self._bests())

    def _bests(self) -> Iterator[Best | None]:
        """The best models that complete checkpoints refer to."""
        for folder, _ in checkpoints.complete_checkpoints(self.folder):
            best = json.loads(StageDir.state(folder).read_text())["progress"]["best"]
            yield Best(**best) if best else None

    def _trainer(self, args: transformers.TrainingArguments) -> Trainer:
        recipe, config = self.plan.recipe, self.config
        processor = AutoProcessor.from_pretrained(self.parent)
        encoder = Encoder(processor, max_length=recipe.model.max_length, empty_thought=config.empty_thought)
        model = load_policy(config, recipe, self.parent)
        source, loss = self._source_and_loss(encoder)
        return Trainer(
            model,
            args,
            source=source,
            loss=loss,
            encoder=encoder,
            pack_length=config.pack_length,
            monitor=NonFiniteStepMonitor(self.folder, limit=config.max_skipped_steps),
            critic_learning_rate=config.critic_learning_rate if config.kind == "rl" else None,
            router=router_coefficients(model, aux=config.router_aux_loss_coef, z=config.router_z_loss_coef),
            on_checkpoint=self.save_progress,
        )

    def _source_and_loss(self, encoder: Encoder) -> tuple[BatchSource, LossFunction]:
        config = self.config
        if config.kind == "sft":
            return self._supervised(config, encoder), cross_entropy
        how = config.sampling
        stream = self._stream(how.prompts_per_step, encoder)
        self.source_state = make_ledger(config, stream)
        self.sampler = GroupSampler(
            ledger=self.source_state,
            stream=stream,
            encoder=encoder,
            engine=self.engine,
            sampling=make_sampling(config, self.plan.recipe.seed_of(config)),
            scorer=stage_scorer(config),
            observer=self.observer,
            groups_per_score=how.groups_per_score,
            can_sample_ahead=self._can_sample_ahead if how.staleness else lambda step: False,
        )
        return make_batches(config, self.plan.recipe, self.sampler, self.parent), make_loss(config)

    def _supervised(self, config: SFTStage, encoder: Encoder) -> BatchSource:
        if config.batch_size:
            return SupervisedBatches(self._stream(config.batch_size, encoder), encoder)
        assert config.packing
        rows = rows_of(self.plan.recipe, self.plan.datasets, config.data, encoder)
        self.source_state = StreamPacker(
            RowStream(rows, 1, self.plan.recipe.seed_of(config)),
            measure=lambda number: encoder.size(rows.metadata(number), completion=True),
            pack_length=config.pack_length,
            micro_batches=config.packing.micro_batches,
            buffer=config.packing.buffer,
            world_size=world_size(),
        )
        return StreamedBatches(self.source_state, encoder, rank())

    def _can_sample_ahead(self, step: int) -> bool:
        """True if no checkpoint, evaluation or end falls within the updates on the batch that begins at `step`."""
        config = self.config
        assert config.kind == "rl"
        every = (config.save_every, self.plan.recipe.evaluation.every, config.steps)
        return all(end % period for end in range(step + 1, step + config.updates + 1) for period in every)

    def _stream(self, batch_size: int, encoder: Encoder) -> RowStream:
        rows = rows_of(self.plan.recipe, self.plan.datasets, self.config.data, encoder)
        return RowStream(rows, batch_size, self.plan.recipe.seed_of(self.config), rank(), world_size())

    def _save_model(self, trainer: Trainer, place: str = ".") -> None:
        """Write the model. With LoRA, write the adapters and the model with the adapters merged in."""
        if isinstance(trainer.model, PeftModel):
            write = partial(write_adapter, trainer, self.parent, self.folder)
            self._save(trainer, self.folder / place / "adapter", write)
            self._save(trainer, self.folder / place / "model", lambda to: save_merged(trainer.model, Path(to)))
        else:
            self._save(trainer, self.folder / place / "model", trainer.save_model)

    def _save(self, trainer: Trainer, folder: Path, write: Callable[[str], None]) -> None:
        """Write `folder` under a temporary name first, so that it only ever exists complete."""
        unfinished = folder.with_name(f"{folder.name}.partial")
        write(str(unfinished))
        trainer.accelerator.wait_for_everyone()
        if rank() == 0:
            trainer.encoder.processor.save_pretrained(unfinished)
            unfinished.rename(folder)


class _StageCallback(transformers.TrainerCallback):
    """Evaluates and logs from the callbacks of transformers' training loop."""

    def __init__(self, stage: Stage, trainer: Trainer) -> None:
        self.stage = stage
        self.trainer = trainer
        self.since = time.perf_counter()

    def on_train_begin(self, args: Any, state: transformers.TrainerState, control: Any, **kwargs: Any) -> None:
        if self.stage.progress.heldout_accuracy_before is None:
            metrics = self.stage.evaluate(self.trainer)
            self.stage.progress.heldout_accuracy_before = metrics[self.stage.evaluator.accuracy_name]
            self.stage.log(metrics, 0)

    def on_step_end(self, args: Any, state: transformers.TrainerState, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.stage.plan.recipe.evaluation.every == 0 or state.global_step == state.max_steps:
            self.trainer.record(self.stage.evaluate_and_keep(self.trainer))

    def on_log(
        self, args: Any, state: transformers.TrainerState, control: Any, logs: dict[str, float], **kwargs: Any
    ) -> None:
        if "train_runtime" in logs:  # transformers' closing totals, not a step
            return
        now = time.perf_counter()
        self.stage.progress.seconds += now - self.since
        own = {name: value for name, value in logs.items() if name != "epoch"}
        self.stage.log(own | {"time/step": now - self.since}, state.global_step)
        self.since = now
