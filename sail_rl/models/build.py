"""Builds a base model from a vision encoder, a language model and a freshly initialised adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.models.aimv2.configuration_aimv2 import Aimv2VisionConfig
from transformers.models.internvl.modeling_internvl import InternVLMultiModalProjector

from .chat import EOS, IMAGE_END, IMAGE_START, PAD, THINKING_TOKENS, TURN_START
from .chat_template import CHAT_TEMPLATE
from .configuration import IMAGE_TOKEN, LANGUAGE_MODELS, SailVLConfig
from .files import read_tensors, tensor_names
from .folder import check_model_folder, described
from .images import SailVLImageProcessor
from .loading import check_loaded, load_model
from .modeling import SailVLForConditionalGeneration, SailVLModel
from .processing import SailVLProcessor
from .published import published_options
from .tensor_names import ENCODER, in_our_names
from .vision import SailViT

NOT_VISION = (
    *("head.", "text_model.", "text_projection.", "visual_projection.", "logit_scale"),  # of AIMv2
    *("model.language_model.", "language_model.", "lm_head.", "critic."),  # of SAIL-VL2
)
"""Prefixes of other tensors in checkpoints that contain a vision encoder."""
VISION_MODELS = ("aimv2_vision_model", "aimv2", "sailvl")


def build_model(*, vision_dir: Path, llm_dir: Path, output_dir: Path, seed: int) -> SailVLForConditionalGeneration:
    """Join a vision encoder and a language model, write the base model with its processor, and return it.

    The adapter is freshly initialised, as are embeddings of tokens that exceed the language model's vocabulary. All
    other weights come from the parts, in the language model's dtype. Text tokens keep their ids.

    Args:
        vision_dir: an AIMv2 vision model in the layout of transformers or of its remote code, a complete AIMv2 (of
            which the vision part is used), or a SAIL-VL2 in either layout.
        llm_dir: a Qwen3 or Qwen3-MoE with its tokenizer.
        output_dir: a new or empty folder.
        seed: the seed of the initialisation; the global random state is preserved.

    Raises:
        ValueError: if a folder holds another kind of model; names the found kind and the expected ones.
    """
    refuse_to_overwrite(output_dir)
    check_kind(vision_dir, VISION_MODELS, "the vision encoder")
    check_kind(llm_dir, LANGUAGE_MODELS, "the language model")
    tokenizer = load_tokenizer(llm_dir)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        llm = load_language_model(llm_dir, tokenizer)
        model = join(load_vision(vision_dir, dtype=llm.dtype), llm, tokenizer)
    side = model.config.vision_config.image_size
    image_processor = SailVLImageProcessor(
        size={"height": side, "width": side},
        patch_size=model.config.vision_config.patch_size,
        merge_size=model.config.shuffle,
    )
    model.save_pretrained(output_dir)
    SailVLProcessor(image_processor, tokenizer, CHAT_TEMPLATE).save_pretrained(output_dir)
    return model


def check_kind(folder: Path, wanted: tuple[str, ...], what: str) -> str:
    """The `model_type` in a folder's config.json; raises ValueError unless it is one of `wanted`."""
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder}, given as {what}, {described(folder)}; give a model's folder")
    found = json.loads(path.read_text()).get("model_type")
    if found not in wanted:
        raise ValueError(f"{folder}, given as {what}, has model_type {found!r}; give a folder with {', '.join(wanted)}")
    return found


def load_tokenizer(llm_dir: Path) -> Any:
    """The language model's tokenizer, with image tokens, thinking tags and ChatML's end of turn as EOS."""
    tokenizer = AutoTokenizer.from_pretrained(llm_dir)
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in (TURN_START, EOS) if token not in vocabulary]
    if missing:
        raise ValueError(
            f"{llm_dir}: its tokenizer lacks {', '.join(missing)}; give a Qwen3 model, whose tokenizer has ChatML"
        )
    image_tokens = [IMAGE_START, IMAGE_TOKEN, IMAGE_END]
    tokenizer.add_special_tokens({"extra_special_tokens": image_tokens}, replace_extra_special_tokens=False)
    tokenizer.add_tokens([token for token in THINKING_TOKENS if token not in vocabulary])
    tokenizer.eos_token = EOS
    if tokenizer.pad_token in (None, EOS):
        tokenizer.pad_token = PAD
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.padding_side = "left"
    return tokenizer


def load_language_model(llm_dir: Path, tokenizer: Any) -> Any:
    """The language model, with more embeddings if the tokenizer's ids exceed its padded vocabulary."""
    llm, found = AutoModelForCausalLM.from_pretrained(llm_dir, output_loading_info=True, ignore_mismatched_sizes=True)
    check_loaded(llm_dir, found)
    if len(tokenizer) > llm.config.vocab_size:
        llm.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)
    end, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    for config in (llm.config, llm.generation_config):
        known = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        others = [token for token in dict.fromkeys(known) if token not in (None, end)]
        # Generation stops at any of these tokens; the model's configuration names the end-of-turn token.
        config.eos_token_id = [end, *others] if others and isinstance(config, GenerationConfig) else end
        config.pad_token_id = pad
    return llm


def load_vision(vision_dir: Path, *, dtype: torch.dtype) -> tuple[SailViT, dict[str, Any]]:
    """The vision encoder, and `SailVLConfig` options of the SAIL-VL2 that it comes from."""
    config = AutoConfig.from_pretrained(vision_dir)
    if any(name.startswith("trunk.") for name in tensor_names(vision_dir)):
        return load_remote_code_vision(vision_dir, dtype=dtype), {}
    if isinstance(config, SailVLConfig):
        config.text_config.num_hidden_layers = 0  # its layers aren't needed, so that they aren't loaded
        model, found = SailVLModel.from_pretrained(
            vision_dir, config=config, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
        tower = model.vision_tower
        options = {name: getattr(config, name) for name in ("select_layer", "downsample_ratio", "ps_version")}
    else:
        vision = config if isinstance(config, Aimv2VisionConfig) else config.vision_config
        vision.use_head = False
        tower, found = SailViT.from_pretrained(
            vision_dir,
            config=vision,
            dtype=dtype,
            key_mapping={r"^vision_model\.": ""},
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        options = {}
    found["unexpected_keys"] = [name for name in found["unexpected_keys"] if not name.startswith(NOT_VISION)]
    check_loaded(vision_dir, found, tower.config)
    return tower, options


def load_remote_code_vision(vision_dir: Path, *, dtype: torch.dtype) -> SailViT:
    """The encoder in a folder of AIMv2's remote code, whose names lack the published SAIL-VL2's `vision_model.`."""
    fields = json.loads((vision_dir / "config.json").read_text())
    known = {field: fields[field] for field in Aimv2VisionConfig().to_dict().keys() & fields.keys() - {"model_type"}}
    tensors = ((f"vision_model.{name}", tensor) for name, tensor in read_tensors(vision_dir))
    ours = {name.removeprefix(ENCODER): tensor for name, tensor in in_our_names(tensors)}
    tower, found = SailViT.from_pretrained(
        None,
        config=Aimv2VisionConfig(**known | {"use_head": False}),
        state_dict=ours,
        dtype=dtype,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    check_loaded(vision_dir, found, tower.config)
    return tower


def join(vision: tuple[SailViT, dict[str, Any]], llm: Any, tokenizer: Any) -> SailVLForConditionalGeneration:
    """Join the loaded parts; the adapter is initialised here, from the global random state."""
    tower, options = vision
    config = SailVLConfig(
        vision_config=tower.config,
        text_config=llm.config,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        dtype=llm.dtype,
        **options,
    )
    assert config.tokens_per_tile  # raises if the grid of patches can't be divided into 2x2 squares
    with torch.device("meta"):
        model = SailVLForConditionalGeneration(config)
    model.model.vision_tower, model.model.language_model = tower, llm.model
    model.model.multi_modal_projector = InternVLMultiModalProjector(config)
    model.model.multi_modal_projector.apply(model._init_weights)
    model.model.multi_modal_projector.to(llm.dtype)
    model.lm_head.weight = nn.Parameter(llm.lm_head.weight)
    model.tie_weights()
    model.generation_config = llm.generation_config
    return model


def convert_model(source: Path, output_dir: Path, *, published: bool) -> SailVLForConditionalGeneration:
    """Convert a SAIL-VL2 of either layout to this library's layout or to the published one; returns the model."""
    refuse_to_overwrite(output_dir)
    check_model_folder(source)
    processor = SailVLProcessor.from_pretrained(source)
    fields = published_options(processor.image_processor) if published else {}
    model = load_model(source, dtype="auto")
    if published:
        model.config.published = (model.config.published or {}) | fields
    model.save_pretrained(output_dir, save_original_format=published)
    (processor.tokenizer if published else processor).save_pretrained(output_dir)
    return model


def refuse_to_overwrite(folder: Path) -> None:
    """Raise ValueError unless the folder is new or empty."""
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; give a new folder")
