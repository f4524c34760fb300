"""Which parts of a SAIL-VL2 learn, and how: whole, through LoRA (PEFT), or not at all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from torch import nn

from .modeling import SailVLForConditionalGeneration

PARTS = {
    "vision": ("model.vision_tower.",),
    "adapter": ("model.multi_modal_projector.",),
    "llm": ("model.language_model.", "lm_head."),
    "critic": ("critic.",),
}
"""Prefixes of the parameter names of each part; a critic isn't the recipe's to freeze."""

# Attention and MLP; never norms, embeddings, the head or an MoE's router.
LINEAR_LAYERS = {
    "vision": r"model\.vision_tower\.encoder\.layers\.\d+\.(attention\.(q|k|v|out)_proj|ffn\.(gate|up|down)_proj)",
    "adapter": r"model\.multi_modal_projector\.linear_[12]",
    "llm": r"model\.language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)",
}
WHOLE_MODULES = {"vision": "vision_tower", "adapter": "multi_modal_projector"}
ADAPTER = "default"  # PEFT's name of the one adapter there is


@dataclass(frozen=True, slots=True)
class LoRA:
    """Low-rank adapters, W + alpha / r * B A (LoRA, arXiv 2106.09685, eq. 3), on the linear layers of `targets`."""

    r: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]


def part_of(name: str) -> str:
    """The part that a parameter belongs to, by its name in a model with or without LoRA."""
    name = name.removeprefix("base_model.model.")
    return next(part for part, prefixes in PARTS.items() if name.startswith(prefixes))


def freeze(model: nn.Module, trainable: Collection[str]) -> None:
    """Freeze all parts but those of `trainable` and a critic."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) in {*trainable, "critic"})


def add_lora(
    model: SailVLForConditionalGeneration, lora: LoRA, *, trainable: Collection[str], seed: int = 0
) -> PeftModel:
    """Freeze the model and add LoRA to `lora.targets`; other parts of `trainable` and a critic learn whole.

    Until the first step the model computes what it did before (B is 0). The global random state is left as it was.

    Args:
        model: changed in place; what is returned wraps it.
        lora: the adapters. An MoE's experts get one of rank r each, in one tensor (PEFT's `target_parameters`).
        trainable: parts; at least the targets, and the language model only as one of them.
        seed: of A.
    """
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules="|".join(LINEAR_LAYERS[part] for part in lora.targets),
        target_parameters=_expert_parameters(model) if "llm" in lora.targets else None,
        modules_to_save=[WHOLE_MODULES[part] for part in trainable if part not in lora.targets] or None,
    )
    # Out of PEFT's sight, which would adapt the critic's layers too: it matches names by their ends.
    critic = model._modules.pop("critic", None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # In the model's dtype: DeepSpeed keeps float32 copies of what it trains, and ZeRO-3 allows one dtype only.
        wrapped = get_peft_model(model, config, autocast_adapter_dtype=False)
    if critic is not None:
        model.critic = critic
    return wrapped


def describe_trainable(model: nn.Module) -> str:
    """One line: how many parameters train, by part."""
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        if ".original_module." in name:  # PEFT's untouched copy of a module that learns whole
            continue
        count = counts.setdefault(part_of(name), [0, 0])
        size = getattr(parameter, "ds_numel", parameter.numel())  # partitioned under ZeRO-3
        count[0] += size * parameter.requires_grad
        count[1] += size
    learning, everything = (sum(column) for column in zip(*counts.values(), strict=True))
    parts = ", ".join(f"{part} {own:,} of {total:,}" for part, (own, total) in counts.items())
    return f"trains {learning:,} of {everything:,} parameters ({learning / everything:.1%}): {parts}"


@dataclass(frozen=True, slots=True)
class PlainWeight:
    """A weight of the model as it is without LoRA: `value()` reads `parameters`, which must be whole by then."""

    name: str
    parameters: list[nn.Parameter]
    value: Callable[[], torch.Tensor]

    @property
    def bytes(self) -> int:
        """Memory of the whole parameters."""
        return sum(getattr(p, "ds_numel", p.numel()) * p.element_size() for p in self.parameters)


def plain_weights(model: nn.Module) -> Iterator[PlainWeight]:
    """All weights, named as in a model without LoRA, adapters merged in without changing the model.

    A tied language-model head is not listed twice.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    layers = {}
    for name, module in base.named_modules():
        if isinstance(module, LoraLayer):
            layers[f"{_plain_name(name)}.{getattr(module, 'parameter_name', 'weight')}"] = module
    for name, parameter in base.named_parameters():
        plain = _plain_name(name)
        if ".lora_" in name or ".original_module." in name:
            continue
        if plain in layers:
            layer = layers[plain]
            factors = [p for factor in (layer.lora_A, layer.lora_B) for p in factor.parameters()]
            yield PlainWeight(plain, [parameter, *factors], partial(_merged, parameter, layer))
        else:
            yield PlainWeight(plain, [parameter], parameter.detach)


@torch.no_grad()
def _merged(parameter: nn.Parameter, layer: Any) -> torch.Tensor:
    """W + scaling * B A as a new tensor, rounded once to the dtype of W (of the adapter, where W is quantised)."""
    delta = layer.get_delta_weight(ADAPTER)
    quantised = not parameter.is_floating_point()
    whole = dequantize_module_weight(layer.get_base_layer()) if quantised else parameter
    return (whole.float() + delta.float()).to(delta.dtype if quantised else parameter.dtype)


def _plain_name(name: str) -> str:
    return name.replace(".base_layer", "").replace(f".modules_to_save.{ADAPTER}", "")


def _expert_parameters(model: SailVLForConditionalGeneration) -> list[str] | None:
    """Names of an MoE's fused experts, which are 3-D parameters and not linear layers; None for a dense model."""
    names = [name for name, _ in model.named_parameters() if name.startswith("model.") and ".mlp.experts." in name]
    return names or None
