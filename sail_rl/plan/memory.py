"""An estimate of the GPU memory that a stage takes, without weights: parameters on the meta device, and arithmetic."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from peft import PeftModel

from sail_rl.config import Recipe, RLStage, SFTStage
from sail_rl.imports import resolve
from sail_rl.models import SailVLConfig, SailVLForConditionalGeneration
from sail_rl.models.adapters import LoRA, prepare_parameters

GIB = 2**30
CONTEXT = 1.5 * GIB  # CUDA context, NCCL, fragments
CHUNK = 256  # tokens whose logits are in memory at the same time, see models.token_logprobs


@dataclass(frozen=True, slots=True)
class Parameters:
    """Parameter counts of a policy."""

    total: int
    trained: int
    largest: int
    """Parameters of the largest tensor."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Bytes on one GPU by use, and bytes of one rank in CPU memory (`cpu`)."""

    gpu: Mapping[str, float]
    cpu: float

    @property
    def total(self) -> float:
        """All bytes on one GPU."""
        return sum(self.gpu.values())


def count_parameters(config: SailVLConfig, stage: SFTStage | RLStage) -> Parameters:
    """Count the parameters of the stage's policy with its frozen parts and adapters. Nothing is allocated."""
    return _count(config.to_json_string(), stage.learning, LoRA.of(stage.lora))


@cache  # the stages of a recipe often train the same parts
def _count(config: str, learning: tuple[str, ...], lora: LoRA | None) -> Parameters:
    with torch.device("meta"):
        model = SailVLForConditionalGeneration(SailVLConfig(**json.loads(config)))
        policy: SailVLForConditionalGeneration | PeftModel = prepare_parameters(model, learning, lora, seed=0)
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in policy.parameters()]
    trained = sum(size for size, learns in sizes if learns)
    return Parameters(sum(size for size, _ in sizes), trained, max(size for size, _ in sizes))


def estimate(recipe: Recipe, stage: SFTStage | RLStage, config: SailVLConfig, *, ranks: int) -> Estimate:
    """Memory of one stage on each of `ranks` GPUs.

    Model states are DeepSpeed's (a bfloat16 weight takes 2 bytes, and a trained one 18 more: its gradient in 2 and 4, a
    float32 copy, Adam's two moments); activations are those of one micro-batch of `pack_length` tokens, all of them
    visual at worst.
    """
    own = count_parameters(config, stage)
    width = 2 if recipe.model.dtype == "bfloat16" else 4
    zero, offload = recipe.deepspeed.zero_stage, recipe.deepspeed.offload_optimizer
    states = model_states(own, ranks=ranks, zero_stage=zero, offload=offload, width=width)
    gpu = dict(states.gpu)
    gpu["activations"] = activations(config, stage.pack_length, checkpointing=stage.gradient_checkpointing, width=width)
    gpu["logits"] = 3.0 * CHUNK * config.text_config.vocab_size * 4
    if "llm" in stage.learning and stage.lora is None:  # summed in float32, then rounded, see models.token_logprobs
        gpu["head's gradient"] = (4.0 + width) * config.text_config.vocab_size * config.text_config.hidden_size
    if recipe.model.head_dtype and width == 2:
        gpu["float32 head"] = 4.0 * config.text_config.vocab_size * config.text_config.hidden_size
    if copies := stage.needs_reference + (stage.critic_kind == "model") * 9:
        gpu["reference, critic"] = float(copies * width * own.total)
    if getattr(resolve(recipe.engine.path), "shares_gpu", True) and "devices" not in recipe.engine.kwargs:
        gpu["engine"] = width * own.total + recipe.engine.kwargs.get("kv_cache_gib", 0.5) * GIB
    return Estimate(gpu | {"CUDA": CONTEXT}, states.cpu)


def model_states(own: Parameters, *, ranks: int, zero_stage: int, offload: bool, width: int) -> Estimate:
    """Weights, gradients and optimiser states (DeepSpeed's memory documentation; frozen weights have only themselves).

    Args:
        own: the policy's parameters.
        ranks: number of ranks over which ZeRO partitions the states.
        zero_stage: 0 to 3.
        offload: keep the optimiser's part in CPU memory.
        width: bytes of a number, 2 or 4.
    """
    copies = 4 if width == 2 else 0
    optimizer = (8 + copies) * own.trained / (ranks if zero_stage >= 1 else 1)
    gradients = (width + copies) * own.trained / (ranks if zero_stage >= 2 else 1)
    weights = float(width * own.total)
    if zero_stage == 3:  # this rank's share, and the gathered layers
        weights = weights / ranks + 2 * width * own.largest
    if offload:
        return Estimate({"weights": weights, "gradients": 0.0, "optimiser": 0.0}, gradients + optimizer)
    return Estimate({"weights": weights, "gradients": gradients, "optimiser": optimizer}, 0.0)


def activations(config: SailVLConfig, tokens: int, *, checkpointing: bool, width: int) -> float:
    """Bytes that the backward pass keeps of one micro-batch; with checkpointing the layers' inputs and one layer."""
    text, vision = config.text_config, config.vision_config
    inner = text.num_experts_per_tok * text.moe_intermediate_size if config.is_moe else text.intermediate_size
    heads = (2 * text.num_attention_heads + 2 * text.num_key_value_heads) * text.head_dim
    layer = tokens * (6 * text.hidden_size + heads + 4 * inner) * width
    patches = tokens * round(1 / config.downsample_ratio) ** 2
    seen = patches * (6 * vision.hidden_size + 4 * vision.hidden_size + 4 * vision.intermediate_size) * width
    if checkpointing:
        inputs = tokens * text.hidden_size * text.num_hidden_layers
        return (inputs + patches * vision.hidden_size * vision.num_hidden_layers) * width + max(layer, seen)
    return float(layer * text.num_hidden_layers + seen * vision.num_hidden_layers)
