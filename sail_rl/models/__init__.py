"""The model family: the only place that knows SAIL-VL2. Importing it registers the classes with transformers' autos."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor

# Not `transformers.AutoImageProcessor`: that name needs torchvision, the class itself does not.
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
