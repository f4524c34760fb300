"""Converts prompts to chat requests of a vLLM server, and its choices to rollouts."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from transformers import AutoProcessor

from sail_rl.contracts import Prompt, Rollout, Sampling
from sail_rl.messages import data_url
from sail_rl.models.processing import IMAGE_TOKEN
from sail_rl.seeding import derive_seed

BANNED = -100
# The prompt is already rendered: the template passes its text through, with the images in their places.
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}" + IMAGE_TOKEN + "{% endif %}{% endfor %}{% endfor %}"
)


class ChatRequests:
    """Makes the bodies of chat completions and reads their choices.

    Args:
        model_dir: checkpoint with the processor.
        max_model_len: the servers' limit of prompt and completion tokens together.
    """

    def __init__(self, model_dir: Path | str, max_model_len: int) -> None:
        self._processor = AutoProcessor.from_pretrained(model_dir)
        self._tokenizer, self._max_model_len = self._processor.tokenizer, max_model_len
        self._banned = {str(token): BANNED for token in self._processor.image_token_ids}

    def body(self, prompt: Prompt, sampling: Sampling) -> dict[str, Any]:
        """The request for one prompt's group."""
        texts = prompt.text.split(IMAGE_TOKEN)
        if len(texts) - 1 != len(prompt.images):
            raise ValueError(
                f"prompt {prompt.id} has {len(texts) - 1} image placeholder(s) but {len(prompt.images)} image(s); "
                "they must agree"
            )
        content: list[dict[str, Any]] = [{"type": "text", "text": texts[0]}]
        for image, text in zip(prompt.images, texts[1:], strict=True):
            content += [
                {"type": "image_url", "image_url": {"url": _png_url(image)}},
                {"type": "text", "text": text},
            ]
        return {
            "messages": [{"role": "user", "content": [part for part in content if part.get("text") != ""]}],
            "chat_template": TEMPLATE,
            "add_generation_prompt": False,
            "n": sampling.samples_per_prompt,
            "temperature": sampling.temperature,
            "max_completion_tokens": min(sampling.max_tokens, self._room(prompt)),
            "seed": derive_seed(sampling.seed, prompt.id),  # sample i of the group gets this seed + i
            "logprobs": True,
            "return_token_ids": True,
            "logit_bias": self._banned,
        }

    def _room(self, prompt: Prompt) -> int:
        """Number of tokens that the context leaves for a completion."""
        text = self._tokenizer(prompt.text, add_special_tokens=False)["input_ids"]
        images = [self._processor.image_tokens(image.height, image.width) for image in prompt.images]
        length = len(text) + sum(images) - len(images)  # each image replaces one placeholder
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
            text=self._tokenizer.decode(choice["token_ids"], skip_special_tokens=True),
            stop_reason=choice["finish_reason"],
            weights_version=version,
        )


def _png_url(image: Any) -> str:
    image.save(content := io.BytesIO(), format="PNG")
    return data_url(content.getvalue())
