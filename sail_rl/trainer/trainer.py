"""The one trainer: SFT and RL differ only in their batch source and their loss."""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel

from sail_rl.contracts import RolloutEngine
from sail_rl.data.encoding import Encoder, Sample
from sail_rl.data.packing import MicroBatch, collate, pack
from sail_rl.maths.losses import LossFunction
from sail_rl.maths.token_fields import present
from sail_rl.models import SailVLForConditionalGeneration, TokenLogprobs
from sail_rl.models.adapters import adapters_off

from .balance import ExpertBalance, RouterCoefficients
from .batches import BatchSource, StepBatch, StepTotals, summed_metrics
from .checkpoints import mark_complete
from .distributed import gather_objects
from .nonfinite import NonFiniteStepMonitor
from .schedule import UpdateSchedule, decayed_parameters, set_critic_learning_rate, without_weight_decay
from .stopwatch import Stopwatch
from .weights import gathered_weights

logger = logging.getLogger(__name__)


class Trainer(transformers.Trainer):
    """A `transformers.Trainer` under DeepSpeed whose step packs samples and divides by one global denominator.

    It implements `Learner` for its batch source.

    Args:
        model: the policy, with or without LoRA; frozen parameters stay frozen.
        args: training arguments with `max_steps` and a DeepSpeed configuration.
        source: yields the samples of each step.
        loss: per-token loss, aggregated over the whole step and all ranks (see `StepBatch`).
        encoder: the model's processor and the length limit.
        pack_length: tokens of a micro-batch.
        monitor: detects steps that were skipped because their gradient is not finite.
        router: coefficients of an MoE's router losses; None for a dense model.
        critic_learning_rate: constant learning rate of the critic's weights; None: the policy's, with its schedule.
        on_checkpoint: writes this rank's further files into a checkpoint folder, before it is marked complete.
    """

    def __init__(
        self,
        model: SailVLForConditionalGeneration | PeftModel,
        args: transformers.TrainingArguments,
        *,
        source: BatchSource,
        loss: LossFunction,
        encoder: Encoder,
        pack_length: int,
        monitor: NonFiniteStepMonitor,
        router: RouterCoefficients | None = None,
        critic_learning_rate: float | None = None,
        on_checkpoint: Callable[[Path], None] = lambda folder: None,
    ) -> None:
        super().__init__(model=model, args=args, processing_class=encoder.processor)
        assert (router is not None) == model.config.is_moe
        self.source = source
        self.loss = loss
        self.encoder = encoder
        self.pack_length = pack_length
        self.monitor = monitor
        self.router = router
        self.critic_learning_rate = critic_learning_rate
        self.on_checkpoint = on_checkpoint
        self.stopwatch = Stopwatch()
        self._filler = encoder.filler()
        self._step_metrics: dict[str, float] = {}
        self._pushed_step: int | None = None

    # The step

    def training_step(self, model: torch.nn.Module, batch: StepBatch, num_items_in_batch: Any = None) -> torch.Tensor:
        """Accumulate the gradient of one optimiser step over micro-batches; returns this rank's share of the loss.

        The loss is the sum of weight x token loss over all ranks, divided by the sum of all ranks' `loss_denominator`.
        Data-parallel training averages gradients over ranks; the factor `world_size` turns the mean into a sum. A step
        without any labelled token on any rank makes no update: Adam's momentum would move the weights.
        """
        model.train()
        micro_batches, totals = self._pack_step(batch)
        self.record({"train/tokens": totals.tokens, "train/empty_step": float(totals.empty)})
        if totals.empty:
            self.lr_scheduler.updated = False
            logger.warning("step %d: no sample carries a signal, so weights and optimiser stay", self.step + 1)
            self.record({"grad_norm": 0.0, "train/micro_batches": 0})
            return torch.zeros((), device=self.args.device)
        no_decay = without_weight_decay(self.optimizer) if batch.critic_only else nullcontext()
        with self.stopwatch.measure("time/train"), no_decay:
            balance = self._balance(model, micro_batches, totals, trained=not batch.critic_only)
            total = torch.zeros((), device=self.args.device)
            sums: dict[str, torch.Tensor] = {}
            for index, micro_batch in enumerate(micro_batches):
                self.accelerator.gradient_state._set_sync_gradients(index == len(micro_batches) - 1)
                output = self._forward(model, micro_batch, critic_only=batch.critic_only)
                loss = self._policy_loss(micro_batch, output, sums, totals) / totals.loss_denominator
                if balance:
                    loss = loss + balance.loss(micro_batch, output)
                self.accelerator.backward(loss * self.args.world_size, scale_wrt_gas=False)
                total += loss.detach() * self.args.world_size
        sums["loss"] = total / self.args.world_size
        self.record(summed_metrics(gather_objects([{name: value.item() for name, value in sums.items()}])))
        self.record(balance.metrics() if balance else {})
        self.record({"train/micro_batches": len(micro_batches)})
        self.record(self.monitor.check(batch, step=self.step + 1))
        self.lr_scheduler.updated = self.monitor.in_a_row == 0 and not batch.critic_only
        return total

    def _forward(self, model: torch.nn.Module, micro_batch: MicroBatch, *, critic_only: bool = False) -> TokenLogprobs:
        inputs = micro_batch.model_inputs(self.args.device)
        output: TokenLogprobs = model(**inputs, distribution=self.source.distribution, critic_only=critic_only)
        return output

    def _policy_loss(
        self, micro_batch: MicroBatch, output: TokenLogprobs, sums: dict[str, torch.Tensor], totals: StepTotals
    ) -> torch.Tensor:
        """Weighted sum of a micro-batch's token losses; adds its part of the step's mean metrics to `sums`."""
        if not micro_batch.labelled:  # padding: runs so that collectives match, and contributes zero loss
            return output.logprobs.sum() + (0 if output.values is None else output.values.sum())
        fields = micro_batch.token_fields.map(lambda values: values.to(self.args.device))
        token_loss = self.loss(output, fields, micro_batch.target_samples.to(self.args.device))
        for name, values in (token_loss.metrics | {"entropy": output.entropies.detach()}).items():
            sums[name] = sums.get(name, 0) + values.sum() / totals.tokens
        return (token_loss.values * present(fields.weights)).sum()

    def _pack_step(self, batch: StepBatch) -> tuple[list[MicroBatch], StepTotals]:
        """This rank's micro-batches, and the totals over all ranks."""
        samples = batch.samples or [self._filler]
        _, packed = pack(samples, pack_length=self.pack_length, filler=self._filler, layout=batch.layout)
        tokens = sum(micro_batch.labelled for micro_batch in packed)
        positions = sum(int(micro_batch.uses.sum()) for micro_batch in packed)
        own = torch.tensor([[batch.loss_denominator, tokens, positions]], dtype=torch.float64, device=self.args.device)
        loss_denominator, tokens, positions = self.accelerator.gather(own).sum(0).tolist()
        return self._padded(packed), StepTotals(loss_denominator, int(tokens), int(positions))

    def _padded(self, micro_batches: list[MicroBatch]) -> list[MicroBatch]:
        """The micro-batches and unlabelled ones, so that all ranks have equally many: otherwise collectives hang."""
        most = int(self.accelerator.gather(torch.tensor([len(micro_batches)], device=self.args.device)).max())
        return micro_batches + [collate([self._filler], filler=self._filler)] * (most - len(micro_batches))

    def _balance(
        self, model: torch.nn.Module, micro_batches: list[MicroBatch], totals: StepTotals, *, trained: bool
    ) -> ExpertBalance | None:
        """The step's expert balance, with all micro-batches but the first already counted; None for a dense model."""
        if self.router is None:
            return None
        balance = ExpertBalance(
            self.router if trained else RouterCoefficients(0.0, 0.0),
            experts_per_token=self.model.config.text_config.num_experts_per_tok,
            tokens=totals.positions,
            all_sum=lambda values: self.accelerator.reduce(values, "sum"),
        )
        with self.stopwatch.measure("time/count_experts"):
            balance.count_ahead(model, micro_batches, self.args.device)
        return balance

    @property
    def step_loss(self) -> float | None:
        """The loss of the step that has just ended, over all ranks; NaN if it was skipped, None if it was empty."""
        loss = self._step_metrics.get("loss")
        return loss if loss is None or self.monitor.in_a_row == 0 else math.nan

    # `Learner`: the interface for batch sources

    @property
    def step(self) -> int:
        """Number of finished optimiser steps."""
        return self.state.global_step

    @property
    def weights_version(self) -> int:
        """The version under which engines know the current weights."""
        return self.step + 1

    def push_weights(self, engine: RolloutEngine) -> None:
        """Send the current weights to the engine, unless it already has them (collective under ZeRO-3)."""
        if self._pushed_step == self.step:
            return
        with self.stopwatch.measure("time/sync"):
            engine.push_weights(self.weights_version, gathered_weights(self.model))
        self._pushed_step = self.step

    @torch.no_grad()
    def compute_logprobs(
        self, samples: Sequence[Sample], *, model: torch.nn.Module | None = None, adapters: bool = True
    ) -> list[TokenLogprobs]:
        """Log-probs of each sample's completion, on the CPU, see `Learner` (collective)."""
        layout, packed = pack(samples, pack_length=self.pack_length, filler=self._filler)
        if model or not adapters:  # another model chooses its own experts
            packed = [replace(micro_batch, routed_experts=None) for micro_batch in packed]
        model = model or self.model_wrapped
        model.eval()
        found: dict[int, TokenLogprobs] = {}
        with nullcontext() if adapters else adapters_off(self.model):
            for number, micro_batch in enumerate(self._padded(packed)):
                output = self._forward(model, micro_batch)
                if number < len(layout):
                    lengths = [samples[index].completion_length for index in layout[number]]
                    found |= dict(zip(layout[number], output.split(lengths), strict=True))
        return [found[index] for index in range(len(samples))]

    def normalise_returns(self, mean: float, deviation: float) -> None:
        """Tell a new critic the mean and deviation of returns, see `Learner`."""
        base: Any = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        base.critic.normalise(mean, deviation)

    def record(self, metrics: dict[str, float]) -> None:
        """Add metrics to what the current step logs."""
        self._step_metrics.update(metrics)

    # transformers.Trainer's seams

    def get_train_dataloader(self) -> Any:
        """The batch source as an iterable that continues from the current step and ends after `max_steps`."""
        return _Steps(self)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the recorded metrics and durations of the step with those of transformers."""
        super().log({**logs, **self._step_metrics, **self.stopwatch.take()}, start_time)
        self._step_metrics = {}

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Create transformers' optimiser and watch it for non-finite steps."""
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.critic_learning_rate:
            set_critic_learning_rate(optimizer, self.model, self.critic_learning_rate)
        self.monitor.watch(optimizer)
        return optimizer

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Names of the parameters that weight decay applies to."""
        return decayed_parameters(model)

    def create_scheduler(self, *args: Any, **kwargs: Any) -> UpdateSchedule:
        """Create transformers' schedule as one that counts updates."""
        schedule: Any = super().create_scheduler(*args, **kwargs)
        self.lr_scheduler = UpdateSchedule.of(schedule)
        return self.lr_scheduler

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.step}"
        try:
            super()._save_checkpoint(model, trial)
            self.on_checkpoint(folder)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                mark_complete(folder)
        except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
            free = shutil.disk_usage(self.args.output_dir).free / 2**30
            raise OSError(
                f"{folder} could not be written ({error}); {free:.1f} GiB are free there. The previous checkpoint is "
                "intact: free some space and run the same command again"
            ) from error

    def _get_num_items_in_batch(self, *_: Any) -> None:
        """None, so that transformers does not rescale the loss: the step has its own denominator."""

    def floating_point_ops(self, inputs: Any) -> int:
        """0: not estimated, because a batch is a `StepBatch` instead of a dictionary of tensors."""
        return 0


class _Steps:
    """The iterable of step batches for transformers' training loop."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def __len__(self) -> int:
        return self.trainer.args.max_steps

    def __iter__(self) -> Iterator[StepBatch]:
        done = self.trainer.step
        return islice(self.trainer.source.batches(self.trainer, start_step=done), len(self) - done)
