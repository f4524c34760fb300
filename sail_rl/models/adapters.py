"""Chooses how each part of a SAIL-VL2 trains: fully, through LoRA (PEFT), or not at all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from peft.utils.integrations import dequantize_module_weight
from torch import nn

from .modeling import SailVLForConditionalGeneration

PARTS = {
    "vision": ("model.vision_tower.",),
    "adapter": ("model.multi_modal_projector.",),
    "llm": ("model.language_model.", "lm_head."),
    "critic": ("critic.",),
}
"""The parameter-name prefixes of each part; a recipe can't freeze the critic."""

# The layers of attention and MLP, without norms, embeddings, the head and an MoE's router.
LINEAR_LAYERS = {
    "vision": r"model\.vision_tower\.encoder\.layers\.\d+\.(attention\.(q|k|v|out)_proj|ffn\.(gate|up|down)_proj)",
    "adapter": r"model\.multi_modal_projector\.linear_[12]",
    "llm": r"model\.language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)",
}
FULL_MODULES = {"vision": "vision_tower", "adapter": "multi_modal_projector"}
ADAPTER = "default"  # PEFT's default adapter name


@dataclass(frozen=True, slots=True)
class LoRA:
    """Low-rank adapters, W + alpha / r * B A (LoRA, arXiv 2106.09685, eq. 3), on the linear layers of `targets`."""

    r: int
    alpha: float
    dropout: float
    targets: tuple[str, ...]

    @classmethod
    def of(cls, settings: Any) -> LoRA | None:
        """The adapters of a recipe's `lora` section; None without one."""
        return cls(settings.r, settings.alpha, settings.dropout, settings.targets) if settings else None


def part_of(name: str) -> str:
    """The part to which a parameter of this name belongs, in a model with or without LoRA."""
    name = name.removeprefix("base_model.model.")
    return next(part for part, prefixes in PARTS.items() if name.startswith(prefixes))


def freeze(model: nn.Module, trainable: Collection[str]) -> None:
    """Freeze all parts except those in `trainable` and a critic."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) in {*trainable, "critic"})


def prepare_parameters(
    model: SailVLForConditionalGeneration, trainable: Collection[str], lora: LoRA | None, *, seed: int
) -> SailVLForConditionalGeneration | PeftModel:
    """Freeze all parts except those in `trainable`, and add adapters if there is `lora`."""
    if lora:
        return add_lora(model, lora, trainable=trainable, seed=seed)
    freeze(model, trainable)
    return model


def add_lora(
    model: SailVLForConditionalGeneration, lora: LoRA, *, trainable: Collection[str], seed: int = 0
) -> PeftModel:
    """Freeze the model and add LoRA to `lora.targets`; other parts in `trainable` and a critic train fully.

    Until the first step, B is 0 and the model's outputs are unchanged. The global random state is preserved.

    Args:
        model: the model, which is modified in place; the result wraps it.
        lora: the adapters. Each expert of an MoE gets an adapter of rank r, in a shared tensor (PEFT's
            `target_parameters`).
        trainable: the parts to train. They include the targets; the language model may only be a target.
        seed: the seed of A's initialisation.
    """
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules="|".join(LINEAR_LAYERS[part] for part in lora.targets),
        target_parameters=_expert_parameters(model) if "llm" in lora.targets else None,
        modules_to_save=[FULL_MODULES[part] for part in trainable if part not in lora.targets] or None,
    )
    # PEFT matches the ends of names, so it would adapt the critic's layers, too.
    critic = model._modules.pop("critic", None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # Adapters keep the model's dtype: DeepSpeed has float32 copies, and ZeRO-3 allows a single dtype.
        wrapped = get_peft_model(model, config, autocast_adapter_dtype=False)
    if critic is not None:
        model.critic = critic
    return wrapped


@contextmanager
def adapters_off(model: PeftModel) -> Iterator[None]:
    """Compute with the model as it was before training: without adapters, and with the untrained copies of parts that
    train fully. For forward passes without gradient only."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer | ModulesToSaveWrapper)]
    # PEFT's `disable_adapter` would also take `requires_grad` from the adapters, which DeepSpeed has registered.
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def describe_trainable(model: nn.Module) -> str:
    """A line for the log: the number of trained parameters by part."""
    counts: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        if ".original_module." in name:  # PEFT's unchanged copy of a module that trains fully
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
    """A weight as in a model without LoRA; `value()` computes it from `parameters`, which must be gathered by then."""

    name: str
    parameters: list[nn.Parameter]
    value: Callable[[], torch.Tensor]

    @property
    def bytes(self) -> int:
        """Memory of the gathered parameters."""
        return sum(getattr(p, "ds_numel", p.numel()) * p.element_size() for p in self.parameters)


def plain_weights(model: nn.Module) -> Iterator[PlainWeight]:
    """All weights as in a model without LoRA: with merged adapters, which leaves the model itself unchanged.

    A tied language-model head isn't listed.
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
    """W + scaling * B A as a new tensor, rounded once to the dtype of W, or of the adapter if W is quantised."""
    delta = layer.get_delta_weight(ADAPTER)
    quantised = not parameter.is_floating_point()
    whole = dequantize_module_weight(layer.get_base_layer()) if quantised else parameter
    return (whole.float() + delta.float()).to(delta.dtype if quantised else parameter.dtype)


def _plain_name(name: str) -> str:
    return name.replace(".base_layer", "").replace(f".modules_to_save.{ADAPTER}", "")


def _expert_parameters(model: SailVLForConditionalGeneration) -> list[str] | None:
    """The names of an MoE's fused experts, which are 3-D parameters instead of linear layers; None if dense."""
    names = [name for name, _ in model.named_parameters() if name.startswith("model.") and ".mlp.experts." in name]
    return names or None
