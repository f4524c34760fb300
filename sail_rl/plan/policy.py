"""The model that a stage trains: loaded from the parent, parts frozen, LoRA added, perhaps on a quantised base."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path

import torch
from peft import PeftModel
from transformers import BitsAndBytesConfig

from sail_rl.config import Recipe, RLStage, SFTStage
from sail_rl.files import StrPath
from sail_rl.models import SailVLConfig, SailVLForConditionalGeneration
from sail_rl.models.adapters import LoRA, add_lora, describe_trainable, freeze
from sail_rl.models.loading import load_model
from sail_rl.models.sizes import published_size
from sail_rl.seeding import derive_seed
from sail_rl.trainer.weights import start_critic

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


def load_policy(
    config: SFTStage | RLStage, recipe: Recipe, parent: StrPath
) -> SailVLForConditionalGeneration | PeftModel:
    """Load the parent's model and prepare it for the stage's training."""
    critic = config.critic_kind
    dtype = getattr(torch, recipe.model.dtype)
    quantisation = _nf4(dtype) if config.lora and config.lora.quantize else None
    model = load_model(Path(parent), dtype=dtype, critic=critic, quantization_config=quantisation)
    if critic and SailVLConfig.from_pretrained(parent).critic != critic:
        start_critic(model)
    policy = prepare_parameters(model, config, seed=derive_seed(recipe.seed_of(config), config.name))
    logger.info("stage %s %s", config.name, describe_trainable(policy))
    return policy


def model_config(recipe: Recipe) -> SailVLConfig | None:
    """Configuration of the recipe's checkpoint, or of its published size while the folder is missing; None: tiny model.

    Raises:
        ValueError: the checkpoint and its `size` are both missing.
    """
    path, size = recipe.model.path, recipe.model.size
    if path is None:
        return None
    if (path / "config.json").is_file():
        return SailVLConfig.from_pretrained(path)
    if size is None:
        raise ValueError(f"model.path is {path}, which has no config.json; give a saved SAIL-VL2 folder")
    return published_size(size)


def is_moe(recipe: Recipe) -> bool:
    """Whether the recipe's base model is an MoE."""
    config = model_config(recipe)
    return config.is_moe if config else recipe.model.llm == "qwen3_moe"


def prepare_parameters(
    model: SailVLForConditionalGeneration, config: SFTStage | RLStage, *, seed: int
) -> SailVLForConditionalGeneration | PeftModel:
    """Freeze the parts that the stage doesn't train, and add its adapters."""
    if not config.lora:
        freeze(model, config.learning)
        return model
    lora = LoRA(config.lora.r, config.lora.alpha, config.lora.dropout, config.lora.targets)
    return add_lora(model, lora, trainable=config.learning, seed=seed)


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
            f"stage {stage.name}: a critic of its own starts as a copy of whole weights, and lora.quantize has none; "
            "use critic.kind: head"
        )


def _nf4(dtype: torch.dtype) -> BitsAndBytesConfig:
    """NF4 with double quantisation (QLoRA, section 3) for the language model's layers; the rest keeps its dtype."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["lm_head", "critic", "model.vision_tower", "model.multi_modal_projector"],
    )
