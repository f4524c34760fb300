"""The processor: turns images into patches, expands their placeholders, and holds the ChatML template."""

from __future__ import annotations

from typing import Any

from transformers import BatchFeature
from transformers.processing_utils import MultiModalData, ProcessingKwargs, ProcessorMixin

from sail_rl.completion import THINK_END, THINK_START

from .configuration import IMAGE_TOKEN, SailVLConfig
from .images import SailVLImageProcessor
from .published import image_options

IMAGE_START, IMAGE_END = "<img>", "</img>"
TURN_START, EOS = "<|im_start|>", "<|im_end|>"
PAD = "<|endoftext|>"
THINKING_TOKENS = [THINK_START, THINK_END]

# ChatML as in the published models: no newline between `<|im_end|>` and the next `<|im_start|>`, but one after each
# image placeholder.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|im_end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class SailVLProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    """The defaults of the processor's keyword arguments."""

    _defaults = {"text_kwargs": {"padding": False, "padding_side": "left"}}  # noqa: RUF012


class SailVLProcessor(ProcessorMixin):
    """Converts images, and text with one `<IMG_CONTEXT>` per image, to the model's inputs.

    Args:
        image_processor: a `SailVLImageProcessor`.
        tokenizer: a tokenizer whose vocabulary has `<img>`, `<IMG_CONTEXT>` and `</img>`.
        chat_template: Jinja template; the published ChatML by default.
    """

    valid_processor_kwargs = SailVLProcessorKwargs

    def __init__(
        self,
        image_processor: SailVLImageProcessor | None = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.image_token = IMAGE_TOKEN
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self.image_start_id = tokenizer.convert_tokens_to_ids(IMAGE_START)
        self.image_end_id = tokenizer.convert_tokens_to_ids(IMAGE_END)
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE, **kwargs)

    @classmethod
    def get_processor_dict(cls, model_dir: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The fields of processor_config.json; empty without it, because we don't use a published folder's template."""
        values, rest = super().get_processor_dict(model_dir, **kwargs)
        return (values if "image_processor" in values else {}), rest

    @classmethod
    def _get_arguments_from_pretrained(cls, model_dir: Any, processor_dict: Any = None, **kwargs: Any) -> list[Any]:
        """Image processor and tokenizer; for a published folder, which has no processor files, from its config.json."""
        if not processor_dict and (config := SailVLConfig.from_pretrained(model_dir)).published:
            tokenizer = cls._load_tokenizer_from_pretrained("tokenizer", model_dir, **kwargs)
            return [SailVLImageProcessor(**image_options(config)), tokenizer]
        return super()._get_arguments_from_pretrained(model_dir, processor_dict, **kwargs)

    @property
    def image_token_ids(self) -> list[int]:
        """The image tokens (start, context, end), which must never be sampled."""
        return [self.image_token_id, self.image_start_id, self.image_end_id]

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """Tokenize text and process images; raises ValueError unless there are as many placeholders as images."""
        if text is None:
            raise ValueError("text is None: give the prompt text, with one <IMG_CONTEXT> for each image")
        texts = [text] if isinstance(text, str) else list(text)
        placeholders = sum(item.count(IMAGE_TOKEN) for item in texts)
        count = _count_images(images)
        if placeholders != count:
            raise ValueError(
                f"the text has {placeholders} image placeholder(s) {IMAGE_TOKEN} but {count} image(s) were given; "
                "write one placeholder for each image"
            )
        return super().__call__(images=images if count else None, text=texts, **kwargs)

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs: Any) -> str:
        """The expansion of one placeholder: `<img>`, one context token per visual token, and `</img>`."""
        tiles, rows, columns = image_inputs["image_grid_thw"][image_idx]
        tokens = int(tiles * rows * columns) // self.image_processor.merge_size**2
        return IMAGE_START + IMAGE_TOKEN * tokens + IMAGE_END

    def image_tokens(self, height: int, width: int) -> int:
        """The number of tokens of an image of this size in a prompt, including `<img>` and `</img>`."""
        return 2 + self.image_processor.get_number_of_image_patches(height, width) // self.image_processor.merge_size**2

    def _get_num_multimodal_tokens(
        self, image_sizes: list[tuple[int, int]] | None = None, **kwargs: Any
    ) -> MultiModalData:
        """The tokens (with start and end) and patches of images of these sizes, for vLLM's memory planning."""
        if image_sizes is None:
            return MultiModalData()
        patches = [self.image_processor.get_number_of_image_patches(*size, kwargs) for size in image_sizes]
        merged = kwargs.get("merge_size", self.image_processor.merge_size) ** 2
        return MultiModalData(num_image_tokens=[2 + count // merged for count in patches], num_image_patches=patches)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", *self.image_processor.model_input_names]


def image_tokens_in(text: str) -> list[str]:
    """The image tokens that a text contains as words, which the model would read as images."""
    return [token for token in (IMAGE_START, IMAGE_TOKEN, IMAGE_END) if token in text]


def _count_images(images: Any) -> int:
    """The number of images in None, an image, a list of images, or a list of such lists."""
    if images is None:
        return 0
    if isinstance(images, (list, tuple)):
        return sum(_count_images(image) for image in images)
    return 1
