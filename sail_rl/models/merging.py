"""Loads a saved model, or a LoRA adapter merged onto its base model, for itself or into an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from safetensors import safe_open

from sail_rl.contracts import RolloutEngine
from sail_rl.imports import resolve

from .adapters import plain_weights
from .files import tensor_names
from .folder import ADAPTER_WEIGHTS, ModelFolder
from .loading import load_model
from .modeling import SailVLForConditionalGeneration

VARIANTS = ("use_dora", "use_qalora", "lora_bias", "trainable_token_indices")
"""PEFT's settings under which the merged weight is not W + scaling * B A."""


def load_merged(folder: ModelFolder, *, dtype: torch.dtype | str = torch.float32) -> SailVLForConditionalGeneration:
    """Load a model, with the folder's adapter merged in if it has one.

    A merged weight is W + scaling * B A, rounded once to the dtype of W, as training writes it.

    Args:
        folder: see `folder.model_folder`.
        dtype: the dtype of the weights; "auto" keeps that of the model's files.

    Raises:
        ValueError: the model's tensors don't match its config.json, or the adapter doesn't fit the model.
    """
    if folder.adapter is None:
        return load_model(folder.model, dtype=dtype)
    check_adapter(folder.adapter)
    model = load_model(folder.model, dtype=dtype)
    adapted = _with_adapter(model, folder)
    with torch.no_grad():
        for weight in plain_weights(adapted):
            if len(weight.parameters) > 1:  # one that an adapter changes
                weight.parameters[0].copy_(weight.value())
    return adapted.unload()


def load_engine(path: str, folder: ModelFolder, *, max_length: int, dtype: str) -> RolloutEngine:
    """The rollout engine named by `path` with the weights of a saved model (and its adapter), as version 1."""
    engine: RolloutEngine = resolve(path)(folder.model, max_model_len=max_length, dtype=dtype)
    engine.push_weights(1, load_merged(folder, dtype=getattr(torch, dtype)).named_parameters())
    return engine


def check_adapter(adapter: Path) -> None:
    """Refuse an adapter of a kind that isn't plain LoRA, before its base model loads.

    Raises:
        ValueError: names the setting of adapter_config.json.
    """
    config: Any = LoraConfig.from_pretrained(str(adapter))
    if config.peft_type != "LORA":
        raise ValueError(f"{adapter}: peft_type is {str(config.peft_type)!r}; only LoRA adapters can be merged")
    if config.bias != "none":
        raise ValueError(f"{adapter}: bias is {config.bias!r}, whose changes aren't merged; merge it with PEFT")
    if found := [name for name in VARIANTS if getattr(config, name, None)]:
        raise ValueError(f"{adapter}: {found[0]} is set, which isn't plain LoRA; merge it with PEFT")


def _with_adapter(model: SailVLForConditionalGeneration, folder: ModelFolder) -> PeftModel:
    """Wrap the model; every tensor of the adapter's file must have its place in it, and the other way round."""
    assert folder.adapter is not None
    misfit = f"{folder.adapter}: the adapter doesn't fit its base model {folder.model}"
    try:
        wide = _is_float32(folder.adapter)  # otherwise, the adapter gets the model's dtype
        adapted = PeftModel.from_pretrained(model, str(folder.adapter), autocast_adapter_dtype=wide)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{misfit} ({str(error).splitlines()[-1].strip()}); give the right one with --base") from None
    own, wanted = tensor_names(folder.adapter), set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    if differing := sorted(own ^ wanted):
        raise ValueError(
            f"{misfit}: {differing[0]} is only in the {'adapter' if differing[0] in own else 'model'} "
            f"({len(differing)} such tensors); give the right one with --base"
        )
    return adapted


def _is_float32(adapter: Path) -> bool:
    with safe_open(adapter / ADAPTER_WEIGHTS, framework="pt") as file:
        return any(file.get_slice(name).get_dtype() == "F32" for name in file.keys())  # noqa: SIM118 - not a mapping
