"""Converts prompts to token requests of a vLLM server, and its choices to rollouts."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from transformers import AutoProcessor

from sail_rl.contracts import Prompt, Rollout, Sampling
from sail_rl.messages import data_url
from sail_rl.models.processing import check_placeholders
from sail_rl.seeding import derive_seed

BANNED = -100


class TokenRequests:
    """Makes the bodies of generate requests and reads their choices.

    Args:
        model_dir: checkpoint with the processor.
        max_model_len: the servers' limit of prompt and completion tokens together.
    """

    def __init__(self, model_dir: Path | str, max_model_len: int) -> None:
        self._processor = AutoProcessor.from_pretrained(model_dir)
        self._max_model_len = max_model_len
        self._banned = {str(token): BANNED for token in self._processor.image_token_ids}

    def body(self, prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
        """The request for one prompt's group."""
        check_placeholders(prompt.token_ids, prompt.images, self._processor.image_token_id, name=prompt.id)
        return {
            "token_ids": list(prompt.token_ids),  # with one placeholder for each image, which the server expands
            "content_parts": [{"type": "image_url", "url": _png_url(image)} for image in prompt.images],
            "sampling_params": {
                "n": sampling.samples_per_prompt,
                "temperature": sampling.temperature,
                "max_tokens": min(sampling.max_tokens, self._room(prompt)),
                "seed": derive_seed(sampling.seed, prompt.id),  # sample i of the group gets this seed + i
                "logprobs": 0,
                "logit_bias": self._banned,
                "detokenize": False,
            },
        }

    def _room(self, prompt: Prompt) -> int:
        """Number of tokens that the context leaves for a completion."""
        images = [self._processor.image_tokens(image.height, image.width) for image in prompt.images]
        length = len(prompt.token_ids) + sum(images) - len(images)  # each image replaces one placeholder
        if length >= self._max_model_len:
            raise ValueError(f"prompt {prompt.id} has {length} tokens, but the context has only {self._max_model_len}")
        return self._max_model_len - length

    def rollout(self, choice: dict[str, Any], prompt: Prompt, version: int) -> Rollout:
        """The rollout in one of the choices; weights of this version sampled it."""
        return Rollout(
            prompt_id=prompt.id,
            sample=choice["index"],
            token_ids=choice["token_ids"],
            logprobs=[token["logprob"] for token in choice["logprobs"]["content"]],
            text=self._processor.chat.decode(choice["token_ids"]),
            stop_reason=choice["finish_reason"],
            weights_version=version,
            control_tokens=self._processor.chat.control_count(choice["token_ids"]),
        )


def _png_url(image: Any) -> str:
    image.save(content := io.BytesIO(), format="PNG")
    return data_url(content.getvalue())
