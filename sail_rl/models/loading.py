"""Loads saved models, and refuses incomplete ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .configuration import SailVLConfig
from .files import read_tensors, tensor_names
from .modeling import SailVLForConditionalGeneration
from .packed_attention import PACKED_ATTENTION


def load_model(
    model_dir: Path,
    *,
    dtype: torch.dtype | str = torch.float32,
    critic: str | None = None,
    head_dtype: str | None = None,
    quantization_config: Any = None,
) -> SailVLForConditionalGeneration:
    """Load a saved model, with packed attention in its language model and SDPA in its vision tower.

    Args:
        model_dir: the folder of a saved model in this library's layout or the published one. A critic in it is loaded
            only if `critic` requests one.
        dtype: the dtype of the weights; "auto" keeps that of the files.
        critic: "head" or "model" adds a critic (see `critic.Critic`), randomly initialised if the folder has none.
        head_dtype: "float32" computes logits in float32; None: as its config.json says.
        quantization_config: transformers' quantisation settings (GPU only).

    Raises:
        ValueError: if the folder's tensors don't match its config.json.
    """
    config = SailVLConfig.from_pretrained(model_dir)
    config.critic = critic
    config.head_dtype = head_dtype or config.head_dtype
    model, found = SailVLForConditionalGeneration.from_pretrained(
        model_dir,
        config=config,
        dtype=dtype,
        quantization_config=quantization_config,
        attn_implementation={"text_config": PACKED_ATTENTION, "vision_config": "sdpa"},
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # check_loaded reports them
    )
    check_loaded(model_dir, found, config.vision_config)
    ends = model.generation_config.eos_token_id
    if isinstance(ends, list):
        model.generation_config.eos_token_id = list(dict.fromkeys(ends))
    if config.tie_word_embeddings:
        check_tied_head(model_dir)
    return model


def check_loaded(model_dir: Path, found: dict[str, Any], vision: Any = None) -> None:
    """Refuse files with missing tensors, which transformers initialises randomly, or with unknown ones.

    Args:
        model_dir: the folder, for the message.
        found: transformers' loading information.
        vision: the vision encoder's configuration, if the model has one.

    Raises:
        ValueError: names tensors that are missing or unknown, or whose shapes differ from config.json.
    """
    for name, shape, wanted in found["mismatched_keys"]:
        if name.endswith("position_embedding.weight"):
            raise ValueError(
                f"{model_dir}: its position embeddings are for {shape[0]} patches, but {vision.image_size}-pixel tiles "
                f"with patches of {vision.patch_size} have {wanted[0]}; set force_image_size (or "
                "vision_config.image_size) in config.json to the tile size it was trained with"
            )
    problems = [
        f"{name} has shape {list(shape)}, not {list(wanted)}" for name, shape, wanted in found["mismatched_keys"]
    ]
    problems += [f"{name} is missing" for name in found["missing_keys"] if not name.startswith("critic.")]
    problems += [f"{name} is unknown" for name in found["unexpected_keys"]]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(f"{model_dir}: config.json and tensors don't agree: {'; '.join(sorted(problems)[:5])}{more}")


def check_tied_head(model_dir: Path) -> None:
    """Refuse files of a model with tied embeddings that also hold a different head, which loading would discard.

    Raises:
        ValueError: if head and embeddings differ.
    """
    policy = {name for name in tensor_names(model_dir) if not name.startswith("critic.")}
    names = {name for name in policy if name.endswith(("lm_head.weight", "embed_tokens.weight"))}
    if not any(name.endswith("lm_head.weight") for name in names):
        return
    first, *others = (tensor for _, tensor in read_tensors(model_dir, names))
    if not all(torch.equal(first, other) for other in others):
        raise ValueError(
            f"{model_dir}: config.json ties the head to the embeddings (tie_word_embeddings), but the files hold a "
            "head that differs from them; set tie_word_embeddings to false in config.json"
        )
