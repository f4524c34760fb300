"""The processor: images as patches, placeholders expanded into their visual tokens, the ChatML template."""

from __future__ import annotations

from typing import Any

from transformers import BatchFeature
from transformers.processing_utils import MultiModalData, ProcessingKwargs, ProcessorMixin

from .configuration import IMAGE_TOKEN, SailVLConfig
from .images import SailVLImageProcessor
from .published import image_options

IMAGE_START, IMAGE_END = "<img>", "</img>"
TURN_START, EOS = "<|im_start|>", "<|im_end|>"
PAD = "<|endoftext|>"
THINKING_TOKENS = ["<think>", "</think>"]

# ChatML as in the published models: `<|im_end|>` directly followed by the next `<|im_start|>`, an image placeholder
# followed by a newline.
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
    """Defaults of the processor's keyword arguments."""

    _defaults = {"text_kwargs": {"padding": False, "padding_side": "left"}}  # noqa: RUF012


class SailVLProcessor(ProcessorMixin):
    """Text with one `<IMG_CONTEXT>` an image, and the images → the model's inputs (`model_input_names`).

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
        """What processor_config.json says; nothing without one: a published folder's own template isn't ours."""
        values, rest = super().get_processor_dict(model_dir, **kwargs)
        return (values if "image_processor" in values else {}), rest

    @classmethod
    def _get_arguments_from_pretrained(cls, model_dir: Any, processor_dict: Any = None, **kwargs: Any) -> list[Any]:
        """Image processor and tokenizer; a published folder has no processor files, its config.json says all."""
        if not processor_dict and (config := SailVLConfig.from_pretrained(model_dir)).published:
            tokenizer = cls._load_tokenizer_from_pretrained("tokenizer", model_dir, **kwargs)
            return [SailVLImageProcessor(**image_options(config)), tokenizer]
        return super()._get_arguments_from_pretrained(model_dir, processor_dict, **kwargs)

    @property
    def image_token_ids(self) -> list[int]:
        """All tokens that only images bring: start, context, end. None of them may be sampled."""
        return [self.image_token_id, self.image_start_id, self.image_end_id]

    def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
        """Tokenize text and process images; as many placeholders as images, else ValueError before any forward."""
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
        """The expansion of one placeholder: `<img>`, a context token for each visual token, `</img>`."""
        tiles, rows, columns = image_inputs["image_grid_thw"][image_idx]
        tokens = int(tiles * rows * columns) // self.image_processor.merge_size**2
        return IMAGE_START + IMAGE_TOKEN * tokens + IMAGE_END

    def image_tokens(self, height: int, width: int) -> int:
        """Tokens that an image of this size takes in a prompt, `<img>` and `</img>` included; no pixel is touched."""
        return 2 + self.image_processor.get_number_of_image_patches(height, width) // self.image_processor.merge_size**2

    def _get_num_multimodal_tokens(
        self, image_sizes: list[tuple[int, int]] | None = None, **kwargs: Any
    ) -> MultiModalData:
        """Tokens (with start and end) and patches for images of these (height, width); vLLM plans memory with it."""
        if image_sizes is None:
            return MultiModalData()
        patches = [self.image_processor.get_number_of_image_patches(*size, kwargs) for size in image_sizes]
        merged = kwargs.get("merge_size", self.image_processor.merge_size) ** 2
        return MultiModalData(num_image_tokens=[2 + count // merged for count in patches], num_image_patches=patches)

    @property
    def model_input_names(self) -> list[str]:
        return ["input_ids", "attention_mask", *self.image_processor.model_input_names]


def image_tokens_in(text: str) -> list[str]:
    """The image tokens that are written out in a text: as words of a user they would be taken for images."""
    return [token for token in (IMAGE_START, IMAGE_TOKEN, IMAGE_END) if token in text]


def _count_images(images: Any) -> int:
    """Number of images in None, one image, a list, or a list of lists of images."""
    if images is None:
        return 0
    if isinstance(images, (list, tuple)):
        return sum(_count_images(image) for image in images)
    return 1
