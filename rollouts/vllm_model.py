"""SAIL-VL2 as a native vLLM model: the trainer's vision tower and adapter with vLLM's Qwen3 or Qwen3-MoE.

vLLM finds it through the `vllm.general_plugins` entry point, so `vllm serve CHECKPOINT` works too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers.models.internvl.modeling_internvl import InternVLMultiModalProjector
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import MultiModalEmbeddings, SupportsLoRA, SupportsMultiModal, SupportsPP
from vllm.model_executor.models.module_mapping import MultiModelKeys
from vllm.model_executor.models.transformers.multimodal import (
    MultiModalDummyInputsBuilder,
    MultiModalProcessingInfo,
    MultiModalProcessor,
)
from vllm.model_executor.models.utils import AutoWeightsLoader, WeightsMapper, init_vllm_registered_model, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.parse import ImageProcessorItems, ImageSize, MultiModalDataParser
from vllm.sequence import IntermediateTensors

import sail_rl.models  # noqa: F401  (registers config and processor with transformers)
from sail_rl.models.images import is_processed
from sail_rl.models.tensor_names import in_our_names
from sail_rl.models.vision import SailViT, encode_images

LANGUAGE_ARCHITECTURES = {"qwen3": "Qwen3ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM"}


def register() -> None:
    """Register the model and the weight transfer with vLLM. vLLM's entry point and our engine both call this."""
    from vllm import ModelRegistry
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory

    if "sail_files" not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine("sail_files", "rollouts.file_receiver", "FileReceiver")
    ModelRegistry.register_model("SailVLForConditionalGeneration", "rollouts.vllm_model:SailVLForConditionalGeneration")


class SailVLDataParser(MultiModalDataParser):
    """Takes images that were processed ahead as they are; vLLM copies others, as their EXIF orientation may differ."""

    def _parse_image_data(self, data: Any) -> Any:
        if isinstance(data, list) and data and all(map(is_processed, data)):
            return ImageProcessorItems(data)
        return super()._parse_image_data(data)


class SailVLProcessingInfo(MultiModalProcessingInfo):
    """Tells vLLM the largest image size for its memory planning, and how to read images."""

    def get_data_parser(self) -> SailVLDataParser:
        """The parser of a request's images."""
        return SailVLDataParser(expected_hidden_size=self._get_expected_hidden_size())

    def get_image_size_with_most_features(self) -> ImageSize:
        """Size of an image with the most visual tokens that the processor allows."""
        height, width = self.get_hf_processor().image_processor.largest_size()
        return ImageSize(width=width, height=height)


@MULTIMODAL_REGISTRY.register_processor(
    MultiModalProcessor, info=SailVLProcessingInfo, dummy_inputs=MultiModalDummyInputsBuilder
)
class SailVLForConditionalGeneration(nn.Module, SupportsMultiModal, SupportsPP, SupportsLoRA):
    """Vision tower → pixel shuffle → adapter → vLLM's language model; it loads weights under the trainer's names."""

    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_prefix={
            "critic.": None,
            "model.language_model.": "language_model.model.",
            "lm_head.": "language_model.lm_head.",
            "model.": "",
        }
    )
    packed_modules_mapping = {  # noqa: RUF012
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """The text that stands for one image in a chat message."""
        if modality == "image":
            return "<IMG_CONTEXT>"
        raise ValueError(f"modality {modality!r}: SAIL-VL2 takes images only (a video is a list of frames)")

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.config = config
        if config.head_dtype:  # vLLM's head reads it from the configuration of the language model
            config.text_config.head_dtype = config.head_dtype
        with self._mark_tower_model(vllm_config, "image"):  # type: ignore[operator]
            self.vision_tower = SailViT._from_config(
                config.vision_config, attn_implementation="sdpa", dtype=vllm_config.model_config.dtype
            )
            self.multi_modal_projector = InternVLMultiModalProjector(config)
        with self._mark_language_model(vllm_config):  # type: ignore[operator]
            self.language_model: Any = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=config.text_config,
                prefix=maybe_prefix(prefix, "language_model"),
                architectures=[LANGUAGE_ARCHITECTURES[config.text_config.model_type]],
            )
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors

    def embed_multimodal(
        self,
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        **kwargs: object,
    ) -> MultiModalEmbeddings:
        """Visual tokens [tokens, hidden] of each image; `pixel_values` [P, 3 x patch²] and `image_grid_thw` [N, 3]."""
        if pixel_values is None or image_grid_thw is None:
            return []
        features = encode_images(
            self.vision_tower, self.multi_modal_projector, self.config, pixel_values, image_grid_thw.reshape(-1, 3)
        )
        return tuple(features)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: object,
    ) -> torch.Tensor | IntermediateTensors:
        """Hidden states of the language model."""
        if intermediate_tensors is not None:
            inputs_embeds = None
        return self.language_model.model(
            input_ids=input_ids,
            positions=positions,
            intermediate_tensors=intermediate_tensors,
            inputs_embeds=inputs_embeds,
        )

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """Logits [tokens, vocabulary]."""
        return self.language_model.compute_logits(hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load tensors named as in the trainer's or a published checkpoint; returns the names that were loaded."""
        return AutoWeightsLoader(self).load_weights(in_our_names(weights), mapper=self.hf_to_vllm_mapper)

    def get_mm_mapping(self) -> MultiModelKeys:
        """The parameter prefixes of language model, adapter and vision tower."""
        return MultiModelKeys.from_string_field(
            language_model="language_model", connector="multi_modal_projector", tower_model="vision_tower"
        )
