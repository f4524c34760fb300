"""The one trainer: SFT and RL differ only in where a batch of samples comes from and which loss scores it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel

from sail_rl.contracts import RolloutEngine
from sail_rl.data.encoding import Encoder, Sample
from sail_rl.data.packing import PackedRow, assign_rows, collate
from sail_rl.maths.losses import LossFunction
from sail_rl.maths.token_fields import present
from sail_rl.models import SailVLForConditionalGeneration, TokenScores

from .balance import ExpertBalance, RouterCoefficients
from .batches import BatchSource, StepBatch, summed_metrics
from .checkpoints import mark_complete
from .distributed import gather_objects
from .nonfinite import NonFiniteStepMonitor
from .stopwatch import Stopwatch
from .weights import gathered_weights


class LogprobMismatchError(RuntimeError):
    """The rollout engine's log-probs are not the trainer's: training on them would be training on noise."""


class Trainer(transformers.Trainer):
    """`transformers.Trainer` under DeepSpeed whose step packs samples and divides by one global denominator.

    Args:
        model: the policy, with or without LoRA; what is frozen in it stays as it is.
        args: training arguments with `max_steps` and a DeepSpeed configuration.
        source: yields each step's samples.
        loss: per-token loss; aggregated over the whole step and all ranks, see `StepBatch`.
        encoder: the model's processor and the length limit.
        pack_length: tokens of a packed micro-batch.
        monitor: watches for steps that were skipped because their gradient isn't finite.
        router: coefficients of an MoE's router losses; None for a dense model, and only for one.
        on_checkpoint: writes what else belongs into a checkpoint folder, before it counts as complete (rank 0).
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
        self.on_checkpoint = on_checkpoint
        self.stopwatch = Stopwatch()
        self._filler = encoder.filler()
        self._step_metrics: dict[str, float] = {}
        self._pushed_step: int | None = None

    # The step

    def training_step(self, model: torch.nn.Module, batch: StepBatch, num_items_in_batch: Any = None) -> torch.Tensor:
        """Accumulate the gradient of one optimiser step over packed rows; returns this rank's share of the loss.

        The loss is sum(weight x token loss) of all ranks / mass of all ranks. Data-parallel training averages gradients
        over ranks, hence the factor `world_size`.
        """
        model.train()
        with self.stopwatch.measure("time/train"):
            rows, mass, tokens, positions = self._rows_of_step(batch)
            balance = self._balance(model, rows, positions)
            total = torch.zeros((), device=self.args.device)
            sums: dict[str, torch.Tensor] = {}
            for index, row in enumerate(rows):
                self.accelerator.gradient_state._set_sync_gradients(index == len(rows) - 1)
                scores: TokenScores = model(**row.model_inputs(self.args.device), distribution=self.source.distribution)
                loss = self._policy_loss(row, scores, sums, tokens) / mass
                if balance:
                    loss = loss + balance.loss(row, scores)
                self.accelerator.backward(loss * self.args.world_size, scale_wrt_gas=False)
                total += loss.detach() * self.args.world_size
        self.record(summed_metrics(gather_objects([{name: value.item() for name, value in sums.items()}])))
        self.record(balance.metrics() if balance else {})
        self.record({"train/tokens": tokens, "train/micro_batches": len(rows)})
        self.record(self.monitor.check(batch, step=self.state.global_step + 1))
        return total

    def _policy_loss(
        self, row: PackedRow, scores: TokenScores, sums: dict[str, torch.Tensor], tokens: int
    ) -> torch.Tensor:
        """Weighted sum of a row's token losses; adds its part of the step's metrics, means over tokens, to `sums`."""
        if not row.labelled:  # takes part in the collectives, and in nothing else
            return scores.logprobs.sum() + (0 if scores.values is None else scores.values.sum())
        fields = row.token_fields.map(lambda values: values.to(self.args.device))
        token_loss = self.loss(scores, fields, row.segments.to(self.args.device))
        for name, values in (token_loss.metrics | {"entropy": scores.entropies.detach()}).items():
            sums[name] = sums.get(name, 0) + values.sum() / tokens
        return (token_loss.values * present(fields.weights)).sum()

    def _rows_of_step(self, batch: StepBatch) -> tuple[list[PackedRow], float, int, int]:
        """Pack this rank's samples; returns its rows, and of all ranks the mass, labelled tokens and positions."""
        samples = batch.samples or [self._filler]
        places = batch.places or assign_rows([len(sample) for sample in samples], pack_length=self.pack_length)
        rows = [collate([samples[index] for index in place], filler=self._filler) for place in places]
        labelled, positions = sum(row.labelled for row in rows), sum(int(row.scored.sum()) for row in rows)
        rows = self._equally_many(rows)
        own = torch.tensor([[batch.mass, labelled, positions]], dtype=torch.float64, device=self.args.device)
        mass, labelled, positions = self.accelerator.gather(own).sum(0).tolist()
        # Without anything that counts (no group has a signal) the loss and its gradient are 0.
        return rows, mass or 1.0, max(1, int(labelled)), int(positions)

    def _equally_many(self, rows: list[PackedRow]) -> list[PackedRow]:
        """As many rows on every rank, because unequal numbers of forwards hang collectives; fills up without labels."""
        most = int(self.accelerator.gather(torch.tensor([len(rows)], device=self.args.device)).max())
        return rows + [collate([self._filler], filler=self._filler)] * (most - len(rows))

    def _balance(self, model: torch.nn.Module, rows: list[PackedRow], positions: int) -> ExpertBalance | None:
        """The step's expert balance, its rows but the first already counted; None for a dense model."""
        if self.router is None:
            return None
        experts_per_token = self.model.config.text_config.num_experts_per_tok
        balance = ExpertBalance(
            self.router, experts_per_token=experts_per_token, tokens=positions, all_sum=self._all_sum
        )
        with self.stopwatch.measure("time/count_experts"):
            balance.count_ahead(model, rows, self.args.device)
        return balance

    def _all_sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over the ranks."""
        return self.accelerator.reduce(values, "sum")

    # What a batch source asks for

    @property
    def step(self) -> int:
        """Number of finished optimiser steps."""
        return self.state.global_step

    @property
    def weights_version(self) -> int:
        """The number that the engine knows the current weights by."""
        return self.state.global_step + 1

    def push_weights(self, engine: RolloutEngine) -> None:
        """Give the engine the current weights, unless it has them (a collective under ZeRO-3)."""
        if self._pushed_step == self.state.global_step:
            return
        with self.stopwatch.measure("time/sync"):
            engine.push_weights(self.weights_version, gathered_weights(self.model))
        self._pushed_step = self.state.global_step

    @torch.no_grad()
    def compute_logprobs(self, samples: Sequence[Sample], *, model: torch.nn.Module | None = None) -> list[TokenScores]:
        """Scores of each sample's completion, on the CPU, by the policy or another model; every rank must call it."""
        model = model or self.model_wrapped
        model.eval()
        places = assign_rows([len(sample) for sample in samples], pack_length=self.pack_length)
        rows = [collate([samples[index] for index in place], filler=self._filler) for place in places]
        if model is not self.model_wrapped:  # another model routes by itself
            rows = [replace(row, routes=None) for row in rows]
        scored: dict[int, TokenScores] = {}
        for number, row in enumerate(self._equally_many(rows)):
            scores: TokenScores = model(**row.model_inputs(self.args.device), distribution=self.source.distribution)
            if number < len(rows):
                lengths = [samples[index].completion_length for index in places[number]]
                scored |= dict(zip(places[number], scores.split(lengths), strict=True))
        return [scored[index] for index in range(len(samples))]

    def check_mismatch(self, differences: torch.Tensor, *, limit: float) -> None:
        """Record the training–inference mismatch and stop the run if it is too large (collective).

        Args:
            differences: [N] |trainer - engine| log-probs (nats) of this rank's tokens that the current weights sampled.
            limit: largest allowed difference, in nats.

        Raises:
            LogprobMismatchError: if any rank has a token whose log-probs differ by more than `limit`.
        """
        largest = differences.max() if len(differences) else 0.0
        own = torch.tensor([[largest, differences.sum(), len(differences)]], device=self.args.device)
        found = self.accelerator.gather(own).cpu()
        if not found[:, 2].any():  # all rollouts were sampled ahead, with older weights
            return
        worst, mean = found[:, 0].max().item(), (found[:, 1].sum() / found[:, 2].sum()).item()
        self.record({"rollout/logprob_diff_max": worst, "rollout/logprob_diff_mean": mean})
        if not worst <= limit:  # also true for NaN
            raise LogprobMismatchError(
                f"step {self.step}: log-probs of the rollout engine and of the trainer differ by up to {worst:.3g} "
                f"nats (mean {mean:.3g}), limit {limit:.3g}. The engine's weights, dtype or model code are not the "
                "trainer's. Raise engine.max_mismatch only if the dtype explains the difference (bfloat16: about 0.05 "
                "for a dense model, more for single tokens of an MoE)."
            )

    def record(self, metrics: dict[str, float]) -> None:
        """Add metrics to what the current step logs."""
        self._step_metrics.update(metrics)

    # transformers.Trainer's seams

    def get_train_dataloader(self) -> Any:
        """The batch source as an iterable of `max_steps` batches that starts where training stands."""
        return _Steps(self)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the step's own metrics with the Trainer's."""
        super().log({**logs, **self._step_metrics, **self.stopwatch.take()}, start_time)
        self._step_metrics = {}

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """transformers' optimiser, watched for non-finite steps."""
        optimizer = super().create_optimizer(*args, **kwargs)
        self.monitor.watch(optimizer)
        return optimizer

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self.on_checkpoint(folder)
                mark_complete(folder)
        except (OSError, RuntimeError) as error:  # torch's writer turns a full disk into a RuntimeError
            free = shutil.disk_usage(self.args.output_dir).free / 2**30
            raise OSError(
                f"{folder} could not be written ({error}); {free:.1f} GiB are free there. The checkpoint before it is "
                "intact: make room and run the same command again"
            ) from error

    def _get_num_items_in_batch(self, *_: Any) -> None:
        """Not transformers' business: the step has a denominator of its own."""

    def floating_point_ops(self, inputs: Any) -> int:
        """Not estimated: a batch is a `StepBatch`, not a dictionary of tensors."""
        return 0


class _Steps:
    """The iterable that transformers' training loop walks."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def __len__(self) -> int:
        return self.trainer.args.max_steps

    def __iter__(self) -> Iterator[StepBatch]:
        done = self.trainer.state.global_step
        return islice(self.trainer.source.batches(self.trainer, start_step=done), len(self) - done)
