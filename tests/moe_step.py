"""One optimiser step of an MoE as its own job, started by test_moe.py: writes the whole gradients of the step."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from test_moe import samples_of
from transformers import AutoProcessor

from sail_rl.config import Recipe
from sail_rl.data.encoding import Encoder
from sail_rl.maths.losses import cross_entropy
from sail_rl.models import MODEL_DISTRIBUTION
from sail_rl.models.loading import load_model
from sail_rl.stages.arguments import training_arguments
from sail_rl.trainer.balance import RouterCoefficients
from sail_rl.trainer.batches import Learner, StepBatch
from sail_rl.trainer.distributed import join_process_group, leave_process_group, rank, world_size
from sail_rl.trainer.nonfinite import NonFiniteStepMonitor
from sail_rl.trainer.trainer import Trainer
from sail_rl.trainer.weights import gathered_weights


class Batches:
    """Six samples in the second of three steps, dealt to the ranks unevenly: of two, one gets four.

    The other steps carry no signal on any rank, so they make no update, not even one of the router losses.
    """

    distribution = MODEL_DISTRIBUTION

    def __init__(self, encoder: Encoder) -> None:
        samples = samples_of(encoder, 6)
        self.own = samples if world_size() == 1 else (samples[:4], samples[4:])[rank()]

    def batches(self, learner: Learner, *, start_step: int) -> Iterator[StepBatch]:
        yield StepBatch([], 3.0)
        yield StepBatch.token_mean(self.own)
        yield StepBatch([], 0.0)


def main(model_dir: str, folder: str, zero_stage: str, pack_length: str, checkpointing: str) -> None:
    """Take one step and write its gradients to `folder`/gradients.pt (rank 0)."""
    join_process_group(timeout_minutes=2)
    stage: dict[str, Any] = {"name": "s", "kind": "sft", "data": "d", "steps": 3, "batch_size": 6}
    stage |= {"optimizer": {"learning_rate": 1.0, "max_grad_norm": 1e9, "schedule": "constant"}}
    recipe = Recipe.model_validate(
        {
            "name": "step",
            "output_dir": folder,
            "data": {"files": {"d": "unused.jsonl"}},
            "evaluation": {"data": "d", "rewards": {"accuracy": {"path": "rewards.answer:math_answer"}}},
            "deepspeed": {"zero_stage": int(zero_stage)},
            "stages": [stage | {"gradient_checkpointing": bool(int(checkpointing))}],
        }
    )
    encoder = Encoder(AutoProcessor.from_pretrained(model_dir), max_length=256)
    # Read first: with ZeRO-3's arguments around, a loaded model is partitioned.
    before = {name: weight.detach() for name, weight in load_model(Path(model_dir)).named_parameters()}
    args = training_arguments(recipe, recipe.stages[0], Path(folder) / "stage")
    args.optim = "sgd"  # with a learning rate of 1 the weights lose exactly their gradient
    trainer = Trainer(
        load_model(Path(model_dir)),
        args,
        source=Batches(encoder),
        loss=cross_entropy,
        encoder=encoder,
        pack_length=int(pack_length),
        monitor=NonFiniteStepMonitor(Path(folder)),
        router=RouterCoefficients(0.5, 0.1),
    )
    trainer.train()
    gradients = {name: before[name] - weight.cpu() for name, weight in gathered_weights(trainer.model)}
    if rank() == 0:
        torch.save(gradients, Path(folder) / "gradients.pt")
    leave_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
