"""The processor: turns images into patches, expands their placeholders, and holds the chat template."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from transformers import BatchFeature
from transformers.processing_utils import MultiModalData, ProcessingKwargs, ProcessorMixin

from .chat import IMAGE_END, IMAGE_START, ChatTokenizer
from .chat_template import CHAT_TEMPLATE
from .configuration import IMAGE_TOKEN, SailVLConfig
from .images import SailVLImageProcessor
from .published import image_options


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
        for name in ("is_local", "local_files_only"):  # how it was loaded, which transformers would save
            tokenizer.init_kwargs.pop(name, None)
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
        """Tokenize texts and process images, which may be nested by text; a text may have none.

        With `return_offsets_mapping` the offsets refer to the given texts, as assistant masks need them: all tokens of
        an image have the place of its placeholder.

        Raises:
            ValueError: unless there are as many placeholders as images.
        """
        if text is None:
            raise ValueError("text is None: give the prompt text, with one <IMG_CONTEXT> for each image")
        texts = [text] if isinstance(text, str) else list(text)
        placeholders = sum(item.count(IMAGE_TOKEN) for item in texts)
        flat = _flat(images)
        count = len(flat)
        if placeholders != count:
            raise ValueError(
                f"the text has {placeholders} image placeholder(s) {IMAGE_TOKEN} but {count} image(s) were given; "
                "write one placeholder for each image"
            )
        inputs = super().__call__(images=flat or None, text=texts, **kwargs)
        if not flat and kwargs.get("return_tensors") == "pt":  # a batch of transformers' pipeline needs equal keys
            inputs |= self.image_processor.without_images()
        if flat and "offset_mapping" in inputs:
            grids = iter(inputs["image_grid_thw"])
            sizes = ([self._expansion(next(grids)) for _ in range(text.count(IMAGE_TOKEN))] for text in texts)
            mapped = map(in_given_text, inputs["offset_mapping"], texts, sizes)
            offsets = [list(pairs) for pairs in mapped]
            inputs["offset_mapping"] = torch.tensor(offsets) if kwargs.get("return_tensors") == "pt" else offsets
        return inputs

    @cached_property
    def chat(self) -> ChatTokenizer:
        """Encodes conversations, with control tokens from the template alone."""
        return ChatTokenizer(self)

    def encoded(self, token_ids: Sequence[int], images: Sequence[Any], *, name: str) -> BatchFeature:
        """The model's inputs of a prompt that is encoded already, as `__call__` makes them from its text.

        Args:
            token_ids: the prompt's tokens with one placeholder for each image, see `ChatTokenizer.render`.
            images: the images, in the order of the placeholders.
            name: names the prompt in errors.

        Returns:
            `input_ids` and `attention_mask` [1, T], and with images `pixel_values` and `image_grid_thw`.

        Raises:
            ValueError: unless there are as many placeholders as images.
        """
        check_placeholders(token_ids, images, self.image_token_id, name=name)
        pixels = self.image_processor(list(images), return_tensors="pt") if images else {}
        counts = iter(pixels["image_grid_thw"].prod(-1).tolist() if images else [])
        ids: list[int] = []
        for token in token_ids:
            if token == self.image_token_id:
                visual = next(counts) // self.image_processor.merge_size**2
                ids += [self.image_start_id, *[token] * visual, self.image_end_id]
            else:
                ids.append(token)
        text = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
        return BatchFeature(text | {key: pixels[key] for key in self.image_processor.model_input_names if images})

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs: Any) -> str:
        """The expansion of one placeholder: `<img>`, one context token per visual token, and `</img>`."""
        return self._expansion(image_inputs["image_grid_thw"][image_idx])

    def _expansion(self, grid: Any) -> str:
        tokens = int(math.prod(int(side) for side in grid)) // self.image_processor.merge_size**2
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


def check_placeholders(token_ids: Sequence[int], images: Sequence[Any], image_token_id: int, *, name: str) -> None:
    """Raise ValueError unless a prompt has as many image placeholders as images."""
    if not token_ids:
        raise ValueError(f"prompt {name} has no token ids; make prompts with Encoder.prompt")
    placeholders = sum(token == image_token_id for token in token_ids)
    if placeholders != len(images):
        raise ValueError(
            f"prompt {name} has {placeholders} image placeholder(s) but {len(images)} image(s); they must agree"
        )


def in_given_text(offsets: Sequence[Sequence[int]], text: str, expansions: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The (start, end) of tokens in a text, from those in the text whose placeholders were replaced by `expansions`."""
    spans, position, shift = [], 0, 0  # (start and end in the expanded text, start in the given one)
    for expansion in expansions:
        position = text.index(IMAGE_TOKEN, position)
        spans.append((position + shift, position + shift + len(expansion), position))
        position += len(IMAGE_TOKEN)
        shift += len(expansion) - len(IMAGE_TOKEN)
    before = [(0, 0, -len(IMAGE_TOKEN)), *spans]
    for start, end in offsets:
        _, last, place = next(span for span in reversed(before) if span[0] <= start)
        if int(start) < last:
            yield place, place + len(IMAGE_TOKEN)
        else:
            moved = place + len(IMAGE_TOKEN) - last
            yield int(start) + moved, int(end) + moved


def _flat(images: Any) -> list[Any]:
    """The images in None, an image, a list of images, or a list of such lists."""
    if images is None:
        return []
    if isinstance(images, (list, tuple)):
        return [image for own in images for image in _flat(own)]
    return [images]
