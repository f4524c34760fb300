"""From rows and rollouts to token sequences: the one place that applies the processor for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from sail_rl.contracts import Message, Prompt, Rollout
from sail_rl.models.processing import IMAGE_TOKEN, TURN_END, SailVLProcessor


@dataclass(slots=True)
class Sample:
    """One sequence to train on: a prompt of `prompt_length` tokens, then the completion that is scored.

    `input_ids` [T]; `pixel_values` [tiles, 3, H, W] or None; `token_fields` maps a name to a float tensor with one
    value for each completion token [T - prompt_length] (RL: "advantages", "rollout_logprobs").
    """

    input_ids: torch.Tensor
    prompt_length: int
    pixel_values: torch.Tensor | None = None
    token_fields: dict[str, torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def completion_length(self) -> int:
        """Number of scored tokens."""
        return len(self.input_ids) - self.prompt_length


class Encoder:
    """Renders messages and builds `Sample`s with one processor.

    Args:
        processor: the model's processor.
        max_length: longest sequence (tokens) that may be built.
    """

    def __init__(self, processor: SailVLProcessor, *, max_length: int) -> None:
        self.processor = processor
        self.max_length = max_length

    def prompt(self, row: dict[str, Any]) -> Prompt:
        """The prompt of a dataset row (see `data.dataset.Rows`)."""
        text = self.processor.apply_chat_template(row["prompt"], add_generation_prompt=True)
        columns = {name: value for name, value in row.items() if name not in ("prompt", "images", "completion")}
        return Prompt(id=row["id"], messages=row["prompt"], text=text, images=row["images"], columns=columns)

    def sft_sample(self, row: dict[str, Any]) -> Sample:
        """Prompt and reference completion; the loss covers the completion and its end-of-turn token."""
        completion = _text(row["completion"]) + TURN_END
        tokens = self.processor.tokenizer(completion, add_special_tokens=False)["input_ids"]
        prompt = self.prompt(row)
        return self._sample(prompt.id, self.prompt_inputs(prompt), tokens)

    def rollout_samples(self, prompt: Prompt, rollouts: Sequence[Rollout]) -> list[Sample]:
        """The prompt with each rollout's tokens and, as a token field, the sampler's log-probs."""
        inputs = self.prompt_inputs(prompt)
        samples = [self._sample(prompt.id, inputs, rollout.token_ids) for rollout in rollouts]
        for sample, rollout in zip(samples, rollouts, strict=True):
            sample.token_fields["rollout_logprobs"] = torch.tensor(rollout.logprobs)
        return samples

    def prompt_size(self, prompt: Prompt) -> tuple[int, int]:
        """Tokens of the expanded prompt, and how many of them are visual."""
        ids, _ = self.prompt_inputs(prompt)
        return len(ids), int((ids == self.processor.image_token_id).sum())

    def prompt_inputs(self, prompt: Prompt) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Expanded token ids [T] and tiles [N, 3, H, W] (None without images) of a prompt."""
        inputs = self.processor(images=prompt.images or None, text=prompt.text, return_tensors="pt")
        return inputs["input_ids"][0], inputs.get("pixel_values")

    def filler(self) -> Sample:
        """One black tile without anything to score, for rows that have no image (see `packing.collate`)."""
        size = self.processor.image_processor.size
        image = Image.new("RGB", (size["width"], size["height"]))
        inputs = self.processor(images=[image], text=IMAGE_TOKEN, return_tensors="pt")
        return Sample(inputs["input_ids"][0], len(inputs["input_ids"][0]), inputs["pixel_values"])

    def _sample(self, name: str, inputs: tuple[torch.Tensor, torch.Tensor | None], completion: Sequence[int]) -> Sample:
        prompt_ids, pixel_values = inputs
        input_ids = torch.cat([prompt_ids, torch.tensor(completion, dtype=torch.long)])
        if len(input_ids) > self.max_length:
            raise ValueError(
                f"sample {name} has {len(input_ids)} tokens ({len(prompt_ids)} of them prompt) but max_length is "
                f"{self.max_length}; raise max_length or drop the row (it is never cut)"
            )
        return Sample(input_ids, len(prompt_ids), pixel_values)


def _text(completion: str | list[Message]) -> str:
    """The text of a completion column: a string, or one assistant message."""
    if isinstance(completion, str):
        return completion
    if len(completion) != 1:
        raise ValueError(f"completion has {len(completion)} messages; give exactly one assistant message")
    return completion[0]["content"]
