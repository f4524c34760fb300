"""The policy that a stage trains: the parent's model with frozen parts, LoRA, and perhaps a quantised base."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
import transformers
from peft import PeftModel
from transformers import BitsAndBytesConfig

from sail_rl.config import Recipe, RLStage, SFTStage
from sail_rl.files import StrPath
from sail_rl.models import SailVLConfig, SailVLForConditionalGeneration
from sail_rl.models.adapter_card import adapter_card
from sail_rl.models.adapters import LoRA, describe_trainable, prepare_parameters
from sail_rl.models.folder import name_base
from sail_rl.models.loading import load_model
from sail_rl.run_dir import StageDir
from sail_rl.seeding import derive_seed
from sail_rl.trainer.distributed import rank
from sail_rl.trainer.weights import start_critic

logger = logging.getLogger(__name__)


def load_policy(
    config: SFTStage | RLStage, recipe: Recipe, parent: StrPath
) -> SailVLForConditionalGeneration | PeftModel:
    """Load the parent's model and prepare it for the stage's training."""
    critic = config.critic_kind
    dtype = getattr(torch, recipe.model.dtype)
    quantisation = _nf4(dtype) if config.lora and config.lora.quantize else None
    model = load_model(
        Path(parent),
        dtype=dtype,
        critic=critic,
        head_dtype=recipe.model.head_dtype,
        quantization_config=quantisation,
    )
    if critic and SailVLConfig.from_pretrained(parent).critic != critic:
        start_critic(model)
    policy = prepare_parameters(
        model, config.learning, LoRA.of(config.lora), seed=derive_seed(recipe.seed_of(config), config.name)
    )
    logger.info("stage %s %s", config.name, describe_trainable(policy))
    return policy


def write_adapter(trainer: transformers.Trainer, base: Path, stage: Path, folder: str) -> None:
    """Save the trainer's LoRA adapter in `folder`, with a card, and its base model as seen from the stage's folder."""
    trainer.save_model(folder)
    if rank() == 0:
        name_base(Path(folder), base, place=StageDir(stage).adapter)
        (Path(folder) / "README.md").write_text(adapter_card(Path(folder), stage.name))


def _nf4(dtype: torch.dtype) -> BitsAndBytesConfig:
    """NF4 with double quantisation (QLoRA, section 3) for the language model's layers; the rest keeps its dtype."""
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["lm_head", "critic", "model.vision_tower", "model.multi_modal_projector"],
    )
