"""In-process training of a stage's real policy, shared by the tests of freezing and of LoRA."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from conftest import picture, question
from transformers import AutoProcessor

from sail_rl.config import Recipe, SFTStage
from sail_rl.contracts import Rollout
from sail_rl.data.encoding import Encoder, Sample
from sail_rl.maths.losses import LossFunction, cross_entropy
from sail_rl.models import MODEL_DISTRIBUTION
from sail_rl.stages import arguments
from sail_rl.stages.policy import load_policy
from sail_rl.trainer.balance import router_coefficients
from sail_rl.trainer.batches import BatchSource, Learner, StepBatch
from sail_rl.trainer.distributed import join_process_group
from sail_rl.trainer.nonfinite import NonFiniteStepMonitor
from sail_rl.trainer.trainer import Trainer
from sail_rl.trainer.weights import gathered_weights


def recipe_of(folder: Path, *, zero_stage: int = 2, path: Path | None = None, **settings: Any) -> Recipe:
    """A recipe of one SFT stage with these settings; those of `optimizer` are merged into its defaults."""
    optimizer = {"learning_rate": 1e-2, "schedule": "constant", "weight_decay": 0.1} | settings.pop("optimizer", {})
    stage = {"name": "s", "kind": "sft", "data": "d", "steps": 2, "batch_size": 4, "save_every": 1000}
    return Recipe.model_validate(
        {
            "name": "tested",
            "output_dir": folder,
            "model": {"path": path},
            "data": {"files": {"d": "unused.jsonl"}},
            "evaluation": {"data": "d", "rewards": {"accuracy": {"path": "rewards.answer:math_answer"}}},
            "deepspeed": {"zero_stage": zero_stage},
            "stages": [stage | settings | {"optimizer": optimizer}],
        }
    )


def samples_of(encoder: Encoder) -> list[Sample]:
    """Four samples, one of them without an image."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(4):
        tokens = torch.randint(20, 200, (4 + number,), generator=generator).tolist()
        prompt = question(encoder, str(number), [picture(number)] if number else [])
        made += encoder.rollout_samples(prompt, [Rollout("p", 0, tokens, [-5.0] * len(tokens), "", "stop", 1)])
    return made


class SameBatch:
    """The same samples in every step."""

    def __init__(self, samples: list[Sample]) -> None:
        self.distribution = MODEL_DISTRIBUTION
        self.batch = StepBatch.token_mean(samples)

    def batches(self, learner: Learner, *, start_step: int) -> Iterator[StepBatch]:
        for _ in count(start_step):
            yield self.batch


def partitioned(recipe: Recipe, make: Any = arguments.deepspeed_config) -> dict[str, Any]:
    """ZeRO-3 that partitions everything: by default tensors below 100,000 numbers stay whole, all of a tiny model."""
    config = make(recipe)
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return config


def train(
    recipe: Recipe,
    parent: Path,
    *,
    loss: LossFunction = cross_entropy,
    resume: Path | None = None,
    source: BatchSource | None = None,
) -> Trainer:
    """Train the recipe's stage from `parent`, or from a checkpoint; returns the trainer as it is afterwards."""
    join_process_group()
    config = recipe.stages[0]
    assert isinstance(config, SFTStage)
    with patch.object(arguments, "deepspeed_config", partitioned):
        args = arguments.training_arguments(recipe, config, recipe.output_dir)  # first: it switches ZeRO-3 on
    policy = load_policy(config, recipe, parent)
    encoder = Encoder(AutoProcessor.from_pretrained(parent), max_length=256)
    trainer = Trainer(
        policy,
        args,
        source=source or SameBatch(samples_of(encoder)),
        loss=loss,
        encoder=encoder,
        pack_length=64,
        monitor=NonFiniteStepMonitor(recipe.output_dir),
        router=router_coefficients(policy, aux=config.router_aux_loss_coef, z=config.router_z_loss_coef),
    )
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    return trainer


def weights_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    """Copies of all weights, LoRA merged in."""
    return {name: tensor.cpu().clone() for name, tensor in gathered_weights(trainer.model)}
