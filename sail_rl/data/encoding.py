"""Token sequences from dataset rows and rollouts: the only module that applies the processor for training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from sail_rl.completion import THINK_END, THINK_START
from sail_rl.contracts import Prompt, Rollout
from sail_rl.maths.token_fields import TokenFields
from sail_rl.messages import texts_of
from sail_rl.models.chat import Rendered
from sail_rl.models.processing import SailVLProcessor

from .templated import refuse_templated

logger = logging.getLogger(__name__)
EmptyThought = Literal["none", "trained", "masked"]
EMPTY_THOUGHT = f"{THINK_START}\n\n{THINK_END}\n\n"
"""Qwen3's spelling of an empty thought."""


@dataclass(slots=True)
class Sample:
    """One sequence to train on: a prompt of `prompt_length` tokens, then the labelled tokens of the completion.

    Attributes:
        input_ids: [T].
        prompt_length: number of prompt tokens.
        pixel_values: [P, 3 x patch²] and `image_grid_thw` [images, 3] (see `models.vision`), or None.
        token_fields: one value for each completion token [T - prompt_length].
        routed_experts: [T, layers, k] experts to replay (see `models.routing`), or None.
        shared_prompt: samples with the same object here have equal prompts, images included (see `packing`).
    """

    input_ids: torch.Tensor
    prompt_length: int
    pixel_values: torch.Tensor | None = None
    image_grid_thw: torch.Tensor | None = None
    token_fields: TokenFields = field(default_factory=TokenFields)
    routed_experts: torch.Tensor | None = None
    shared_prompt: object | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def completion_length(self) -> int:
        """Number of labelled tokens."""
        return len(self.input_ids) - self.prompt_length


class Encoder:
    """Renders messages and builds `Sample`s with one processor.

    Texts of a row are plain: a control token in them, such as `<|im_end|>`, is spelled with ordinary tokens, and the
    first such row is logged. Texts that are already rendered with a chat template are refused.

    Args:
        processor: the model's processor.
        max_length: longest allowed sequence, in tokens.
        empty_thought: "none" leaves a completion without a thought as it is; "trained" and "masked" prepend
            EMPTY_THOUGHT, as a part of the completion or of the prompt.
        source: the rows' file, for messages.
    """

    def __init__(
        self,
        processor: SailVLProcessor,
        *,
        max_length: int,
        empty_thought: EmptyThought = "none",
        source: str = "",
    ) -> None:
        self.processor = processor
        self._source, self._warned = source, False
        self.max_length = max_length
        self.empty_thought = empty_thought

    def prompt(self, row: dict[str, Any]) -> Prompt:
        """The prompt of a dataset row (see `data.dataset.Rows`). Each video frame becomes an image of one tile."""
        images = [self._frame(frame) for frame in row.get("video") or ()] or row["images"]
        columns = {
            name: value for name, value in row.items() if name not in ("prompt", "images", "video", "completion")
        }
        rendered = self._rendered(row)
        return Prompt(row["id"], row["prompt"], rendered.text, images, columns, token_ids=rendered.token_ids)

    def processed_prompt(self, row: dict[str, Any]) -> Prompt:
        """The prompt of a row, whose images have been processed for the model (see `process_ahead`)."""
        prompt = self.prompt(row)
        for image in prompt.images:
            self.processor.image_processor.process_ahead(image)
        return prompt

    def length(self, metadata: dict[str, Any], *, completion: bool) -> int:
        """Tokens of a row's prompt (and `completion`) from its `Rows.metadata`, without decoding images."""
        return self.size(metadata, completion=completion)[0]

    def size(self, metadata: dict[str, Any], *, completion: bool) -> tuple[int, int]:
        """(tokens, visual tokens) of a row's prompt (and `completion`); tokens include visual tokens."""
        image_processor = self.processor.image_processor
        sizes = [image_processor.frame_size(*size) for size in metadata["video"]] or metadata["images"]
        tokens = len(self._rendered(metadata).token_ids)
        if completion:
            tokens += sum(map(len, self._answered(metadata)))
        return _size(tokens, [self.processor.image_tokens(*size) for size in sizes])

    def sft_sample(self, row: dict[str, Any]) -> Sample:
        """Prompt and reference completion; the loss covers the completion and its end-of-turn token.

        The completion is thought and answer, or the answer alone in a row without a thought (the conditional loss of
        the SAIL-VL2 report, section 4.2).
        """
        given, completion = self._answered(row)
        prompt = self.prompt(row)
        ids, images = self.prompt_inputs(prompt)
        return self._sample(prompt.id, (torch.cat([ids, torch.tensor(given, dtype=torch.long)]), images), completion)

    def rollout_samples(self, prompt: Prompt, rollouts: Sequence[Rollout]) -> list[Sample]:
        """A sample for each rollout of the prompt, with the field `rollout_logprobs`."""
        inputs = self.prompt_inputs(prompt)
        samples = [self._sample(prompt.id, inputs, rollout.token_ids) for rollout in rollouts]
        for sample, rollout in zip(samples, rollouts, strict=True):
            sample.shared_prompt = inputs
            sample.token_fields.rollout_logprobs = torch.tensor(rollout.logprobs)
            if rollout.routed_experts is not None:  # the engine's model never processed the last token
                experts = np.pad(rollout.routed_experts, ((0, 1), (0, 0), (0, 0)), constant_values=-1)
                sample.routed_experts = torch.from_numpy(experts)
        return samples

    def prompt_size(self, prompt: Prompt) -> tuple[int, int]:
        """(tokens, visual tokens) of the expanded prompt, without decoding images."""
        sizes = [self.processor.image_tokens(image.height, image.width) for image in prompt.images]
        return _size(len(prompt.token_ids), sizes)

    def prompt_inputs(self, prompt: Prompt) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Expanded token ids [T] of a prompt, and its images by the model's argument names ({} without images)."""
        inputs = self.processor.encoded(prompt.token_ids, prompt.images, name=prompt.id)
        names = self.processor.image_processor.model_input_names
        return inputs["input_ids"][0], {name: inputs[name] for name in names if name in inputs}

    def filler(self) -> Sample:
        """A small black image without labels, for micro-batches without an image (see `packing.collate`)."""
        side = self.processor.image_processor.patch_size * self.processor.image_processor.merge_size
        image = Image.new("RGB", (side, side))
        inputs = self.processor.encoded([self.processor.image_token_id], [image], name="of the filler")
        ids = inputs["input_ids"][0]
        return Sample(ids, len(ids), inputs["pixel_values"], inputs["image_grid_thw"])

    def _answered(self, row: dict[str, Any]) -> tuple[list[int], list[int]]:
        """The masked and the trained tokens of the assistant's turn."""
        completion, encode = row["completion"], self.processor.chat.encode
        refuse_templated(completion, "completion")
        self._report(row["id"], self.processor.chat.spelled_in(completion))
        end = [self.processor.tokenizer.eos_token_id]
        if self.empty_thought == "none" or THINK_END in completion:
            return [], encode(completion) + end
        if self.empty_thought == "masked":
            return encode(EMPTY_THOUGHT), encode(completion) + end
        return [], encode(EMPTY_THOUGHT + completion) + end

    def _rendered(self, row: dict[str, Any]) -> Rendered:
        """The chat template applied to a row's messages, with one placeholder for each image."""
        for text in texts_of(row["prompt"]):
            refuse_templated(text, "prompt")
        rendered = self.processor.chat.render(row["prompt"])
        self._report(row["id"], rendered.spelled)
        return rendered

    def _report(self, name: str, spelled: Sequence[str]) -> None:
        """Log the first row that has control tokens in its texts."""
        if spelled and not self._warned:
            self._warned = True
            logger.warning(
                "%srow %s has %s in its text: control tokens in texts are encoded as plain text, here and in all "
                "further rows; remove them if they were meant as control tokens, which the chat template writes",
                f"{self._source}, " if self._source else "",
                name,
                ", ".join(spelled),
            )

    def _frame(self, frame: Image.Image) -> Image.Image:
        height, width = self.processor.image_processor.frame_size(frame.height, frame.width)
        return frame.resize((width, height), Image.Resampling.BICUBIC)

    def _sample(
        self, name: str, inputs: tuple[torch.Tensor, dict[str, torch.Tensor]], completion: Sequence[int]
    ) -> Sample:
        prompt_ids, images = inputs
        input_ids = torch.cat([prompt_ids, torch.tensor(completion, dtype=torch.long)])
        if len(input_ids) > self.max_length:
            raise ValueError(
                f"sample {name} has {len(input_ids)} tokens ({len(prompt_ids)} of them prompt) but max_length is "
                f"{self.max_length}; raise max_length or drop the row (it is never cut)"
            )
        return Sample(input_ids, len(prompt_ids), images.get("pixel_values"), images.get("image_grid_thw"))


def _size(tokens: int, images: Sequence[int]) -> tuple[int, int]:
    """(tokens, visual tokens) of a text of so many tokens whose image placeholders expand to `images` tokens each."""
    # An image's tokens replace one placeholder; two of them, its start and end tokens, are not visual.
    return tokens + sum(images) - len(images), sum(images) - 2 * len(images)
