"""Checks of the base model and of LoRA, before anything loads."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path

import torch

from sail_rl.config import Recipe, RLStage, SFTStage
from sail_rl.models import SailVLConfig
from sail_rl.models.folder import check_model_folder
from sail_rl.models.sizes import published_size

logger = logging.getLogger(__name__)


def check_lora(recipe: Recipe) -> None:
    """Refuse LoRA settings that this model, DeepSpeed stage or machine can't have, before anything loads.

    Raises:
        ValueError: naming the stage, the field and the remedy.
    """
    for stage in recipe.training:
        if stage.lora is None:
            continue
        if "llm" in stage.lora.targets and is_moe(recipe):
            _check_experts(stage, recipe)
        if stage.lora.quantize:
            _check_quantised(stage, recipe)


def model_config(recipe: Recipe) -> SailVLConfig | None:
    """Configuration of the recipe's checkpoint, or of its published size while the folder is missing; None: tiny model.

    Raises:
        ValueError: the checkpoint and its `size` are both missing.
    """
    path, size = recipe.model.path, recipe.model.size
    if path is None:
        return None
    if size is not None and not path.exists():
        return published_size(size)
    check_base(path)
    return SailVLConfig.from_pretrained(path)


def check_base(path: Path) -> None:
    """Refuse a `model.path` that isn't a whole SAIL-VL2.

    Raises:
        ValueError: says what is there instead.
    """
    try:
        check_model_folder(path)
    except ValueError as error:
        raise ValueError(f"model.path: {error}") from None


def is_moe(recipe: Recipe) -> bool:
    """True if the recipe's base model is an MoE."""
    config = model_config(recipe)
    return config.is_moe if config else recipe.model.llm == "qwen3_moe"


def _check_experts(stage: SFTStage | RLStage, recipe: Recipe) -> None:
    assert stage.lora is not None
    if stage.lora.dropout:
        raise ValueError(
            f"stage {stage.name}: lora.dropout is {stage.lora.dropout:g}, but an MoE's experts are adapted as one "
            "tensor, whose inputs can't be dropped; set lora.dropout to 0"
        )
    if recipe.deepspeed.zero_stage == 3:
        raise ValueError(
            f"stage {stage.name}: LoRA on an MoE's experts reads their tensor where ZeRO-3 doesn't gather it; set "
            "deepspeed.zero_stage to 2"
        )
    if stage.lora.quantize:
        raise ValueError(
            f"stage {stage.name}: lora.quantize reaches linear layers only, which an MoE's experts are not: hardly any "
            "memory would be saved; leave it out"
        )


def _check_quantised(stage: SFTStage | RLStage, recipe: Recipe) -> None:
    if find_spec("bitsandbytes") is None:
        raise ValueError(f"stage {stage.name}: lora.quantize needs bitsandbytes; pip install -e '.[qlora]'")
    if not torch.cuda.is_available():
        raise ValueError(f"stage {stage.name}: lora.quantize needs a GPU, and there is none; leave it out")
    if recipe.deepspeed.zero_stage == 3:
        raise ValueError(
            f"stage {stage.name}: ZeRO-3 can't partition lora.quantize's 4-bit weights; set deepspeed.zero_stage to 2"
        )
    if stage.critic_kind == "model":
        raise ValueError(
            f"stage {stage.name}: a separate critic copies unquantised weights, which lora.quantize lacks; "
            "use critic.kind: head"
        )
