"""Translates a stage's settings into those of transformers and DeepSpeed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

from sail_rl.config import Recipe, RLStage, SFTStage


def training_arguments(recipe: Recipe, config: SFTStage | RLStage, folder: Path) -> transformers.TrainingArguments:
    """Training arguments of transformers for a stage. The batch sizes are 1, because the trainer accumulates itself."""
    optimizer = config.optimizer
    return transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=config.steps,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        learning_rate=optimizer.learning_rate,
        lr_scheduler_type=optimizer.schedule,
        warmup_steps=optimizer.warmup_steps,
        weight_decay=optimizer.weight_decay,
        adam_beta2=optimizer.adam_beta2,
        max_grad_norm=optimizer.max_grad_norm,
        gradient_checkpointing=config.gradient_checkpointing,
        bf16=recipe.model.dtype == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        seed=recipe.seed_of(config),
        save_steps=config.save_every,
        save_total_limit=2,  # the newest may be half-written when a run is killed
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        ignore_data_skip=True,  # the batch source resumes at the right step itself
        deepspeed=deepspeed_config(recipe),
    )


def deepspeed_config(recipe: Recipe) -> dict[str, Any]:
    """DeepSpeed's configuration; "auto" values are filled in from the training arguments."""
    zero: dict[str, Any] = {
        "stage": recipe.deepspeed.zero_stage,
        "stage3_gather_16bit_weights_on_model_save": recipe.deepspeed.zero_stage == 3,
    }
    if recipe.deepspeed.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    return {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "data_types": {"grad_accum_dtype": "fp32"},  # a bfloat16 sum would lose small micro-batches
        "zero_optimization": zero | recipe.deepspeed.zero_options,
        "zero_force_ds_cpu_optimizer": False,
    }
