"""The one trainer: SFT and RL differ only in where a batch of samples comes from and which loss scores it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
import transformers

from sail_rl.contracts import RolloutEngine
from sail_rl.data.encoding import Encoder, Sample
from sail_rl.data.packing import PackedRow, collate, pack
from sail_rl.maths.losses import LossFunction
from sail_rl.models import SailVLForConditionalGeneration, TokenScores

from .balance import ExpertBalance, RouterCoefficients
from .checkpoints import mark_complete
from .stopwatch import Stopwatch
from .weights import whole_weights


class BatchSource(Protocol):
    """Where the samples of each optimiser step come from."""

    @property
    def score_options(self) -> dict[str, Any]:
        """`temperature` and `banned_token_ids` of the distribution whose log-probs the loss takes."""
        ...

    def batches(self, trainer: Trainer, *, start_step: int) -> Iterator[list[Sample]]:
        """Yield this rank's samples for optimiser steps `start_step`, `start_step + 1`, …"""
        ...


class LogprobMismatchError(RuntimeError):
    """The rollout engine's log-probs are not the trainer's: training on them would be training on noise."""


class Trainer(transformers.Trainer):
    """`transformers.Trainer` under DeepSpeed whose step packs samples and divides by one global denominator.

    Args:
        model: the policy.
        args: training arguments with `max_steps` and a DeepSpeed configuration.
        source: yields each step's samples.
        loss: per-token loss; averaged over the labelled tokens of the whole step and all ranks.
        encoder: the model's processor and the length limit.
        row_tokens: tokens of a packed row, that is of one micro-batch.
        router: coefficients of an MoE's router losses; None for a dense model, and only for one.
        on_checkpoint: writes what else belongs into a checkpoint folder, before it counts as complete (rank 0).
    """

    def __init__(
        self,
        model: SailVLForConditionalGeneration,
        args: transformers.TrainingArguments,
        *,
        source: BatchSource,
        loss: LossFunction,
        encoder: Encoder,
        row_tokens: int,
        router: RouterCoefficients | None = None,
        on_checkpoint: Callable[[Path], None] = lambda folder: None,
    ) -> None:
        super().__init__(model=model, args=args, processing_class=encoder.processor)
        assert (router is not None) == model.config.is_moe
        self.source = source
        self.loss = loss
        self.encoder = encoder
        self.row_tokens = row_tokens
        self.router = router
        self.on_checkpoint = on_checkpoint
        self.stopwatch = Stopwatch()
        self._filler = encoder.filler()
        self._step_metrics: dict[str, float] = {}
        self._pushed_step: int | None = None

    # The step

    def training_step(
        self, model: torch.nn.Module, samples: list[Sample], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Accumulate the gradient of one optimiser step over packed rows; returns this rank's share of the loss.

        The loss is sum(token losses of all ranks) / labelled tokens of all ranks. Data-parallel training averages
        gradients over ranks, hence the factor `world_size`.
        """
        model.train()
        with self.stopwatch.measure("time/train"):
            rows, tokens, positions = self._rows_of_step(samples)
            balance = self._balance(model, rows, positions)
            total = torch.zeros((), device=self.args.device)
            sums: dict[str, torch.Tensor] = {}
            for index, row in enumerate(rows):
                self.accelerator.gradient_state._set_sync_gradients(index == len(rows) - 1)
                scores: TokenScores = model(**row.model_inputs(self.args.device), **self.source.score_options)
                fields = {name: values.to(self.args.device) for name, values in row.token_fields.items()}
                token_loss = self.loss(scores.logprobs, fields)
                loss = token_loss.values.sum() / tokens
                _add(sums, "entropy", scores.entropies.sum() / tokens)
                for name, values in token_loss.metrics.items():
                    _add(sums, name, values.sum() / tokens)
                if balance:
                    loss = loss + balance.loss(row, scores)
                if not torch.isfinite(loss):  # before it reaches the weights
                    raise FloatingPointError(
                        f"step {self.state.global_step + 1}, row {index}: the loss is {loss.item()}; the newest "
                        "checkpoint is intact. Look at the samples and the learning rate"
                    )
                self.accelerator.backward(loss * self.args.world_size, scale_wrt_gas=False)
                total += loss.detach() * self.args.world_size
        self.record({name: self._all_sum(value).item() for name, value in sorted(sums.items())})
        self.record(balance.metrics() if balance else {})
        self.record({"train/tokens": tokens, "train/micro_batches": len(rows)})
        return total

    def _rows_of_step(self, samples: list[Sample]) -> tuple[list[PackedRow], int, int]:
        """Pack this rank's samples; returns its rows, and of all ranks the labelled tokens and the samples' positions.

        Every rank gets as many rows: unequal numbers of forwards hang collectives. Those with fewer repeat their first
        one with nothing to score.
        """
        rows = pack(samples, row_tokens=self.row_tokens, filler=self._filler)
        labelled, positions = sum(row.labelled for row in rows), sum(int(row.scored.sum()) for row in rows)
        counts = torch.tensor([[len(rows), labelled, positions]], device=self.args.device)
        counts = self.accelerator.gather(counts)
        rows += [rows[0].fully_masked()] * (int(counts[:, 0].max()) - len(rows))
        # Without any labelled token (no group has a signal) the loss and its gradient are 0.
        return rows, max(1, int(counts[:, 1].sum())), int(counts[:, 2].sum())

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

    def push_weights(self, engine: RolloutEngine) -> None:
        """Give the engine the current weights, unless it has them (a collective under ZeRO-3)."""
        if self._pushed_step == self.state.global_step:
            return
        with self.stopwatch.measure("time/sync"), whole_weights(self.model) as tensors:
            engine.push_weights(self.state.global_step + 1, tensors)
        self._pushed_step = self.state.global_step

    def check_logprobs(self, samples: Sequence[Sample], *, limit: float) -> None:
        """Rescore rollouts that were just sampled with these very weights and compare their log-probs.

        Raises:
            LogprobMismatchError: when any token of any rank differs by more than `limit` nats.
        """
        with self.stopwatch.measure("time/probe"):
            row = collate(samples, filler=self._filler)
            self.model_wrapped.eval()
            with torch.no_grad():
                scores = self.model_wrapped(**row.model_inputs(self.args.device), **self.source.score_options)
            gap = (scores.logprobs.cpu() - row.token_fields["rollout_logprobs"]).abs()
            gaps = self.accelerator.gather(torch.stack([gap.max(), gap.mean()])[None].to(self.args.device)).cpu()
        worst, mean = gaps[:, 0].max().item(), gaps[:, 1].mean().item()
        self.record({"rollout/logprob_diff_max": worst, "rollout/logprob_diff_mean": mean})
        if not worst <= limit:  # also true for NaN
            raise LogprobMismatchError(
                f"step {self.state.global_step}: log-probs of the rollout engine and of the trainer differ by up to "
                f"{worst:.3g} nats (mean {mean:.3g}), limit {limit:.3g}. The engine's weights, dtype or model code are "
                "not the trainer's. Raise max_logprob_diff only if the dtype explains the difference (bfloat16: about "
                "0.05 for a dense model, more for single tokens of an MoE)."
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

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            self.on_checkpoint(folder)
            mark_complete(folder)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not estimated: a batch is a list of samples, not a dictionary of tensors."""
        return 0


class _Steps:
    """The iterable that transformers' training loop walks."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def __len__(self) -> int:
        return self.trainer.args.max_steps

    def __iter__(self) -> Iterator[list[Sample]]:
        done = self.trainer.state.global_step
        return islice(self.trainer.source.batches(self.trainer, start_step=done), len(self) - done)


def _add(sums: dict[str, torch.Tensor], name: str, value: torch.Tensor) -> None:
    sums[name] = sums[name] + value if name in sums else value
