"""The SAIL-VL2 model family. Importing this package registers its classes with transformers' Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

# `transformers.AutoImageProcessor` needs torchvision, but the class in its own module doesn't.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from .configuration import SailVLConfig
from .images import SailVLImageProcessor
from .modeling import SailVLForConditionalGeneration, SailVLModel, TokenLogprobs
from .packed_attention import PACKED_ATTENTION
from .processing import SailVLProcessor
from .tensor_names import register_published_names
from .token_logprobs import MODEL_DISTRIBUTION, Distribution

AutoConfig.register(SailVLConfig.model_type, SailVLConfig)
AutoModel.register(SailVLConfig, SailVLModel)
AutoModelForCausalLM.register(SailVLConfig, SailVLForConditionalGeneration)
AutoModelForImageTextToText.register(SailVLConfig, SailVLForConditionalGeneration)
AutoImageProcessor.register(SailVLConfig, image_processor_classes={"pil": SailVLImageProcessor})
AutoProcessor.register(SailVLConfig, SailVLProcessor)
register_published_names(SailVLConfig.model_type)

__all__ = [
    "MODEL_DISTRIBUTION",
    "PACKED_ATTENTION",
    "Distribution",
    "SailVLConfig",
    "SailVLForConditionalGeneration",
    "SailVLImageProcessor",
    "SailVLModel",
    "SailVLProcessor",
    "TokenLogprobs",
]
