"""`vllm serve CHECKPOINT`: a saved model behind the OpenAI API answers with transformers' log-probs."""

from __future__ import annotations

import base64
import io
import json
import urllib.error
import urllib.request
from typing import Any

import pytest
import torch
from conftest import picture, question

from sail_rl.data.encoding import Encoder
from sail_rl.models import SailVLForConditionalGeneration

REQUEST_LIMIT = 60.0  # seconds


def complete(address: str, content: list[dict[str, Any]], banned: list[int]) -> dict[str, Any]:
    """One chat completion with its log-probs and token ids."""
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 8,
        "temperature": 1.0,
        "seed": 1,
        "logprobs": True,
        "return_token_ids": True,
        "logit_bias": {str(token): -100 for token in banned},
    }
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=REQUEST_LIMIT) as response:
        return json.load(response)


@pytest.mark.slow
@torch.no_grad()
def test_a_chat_with_images_has_our_prompt_and_the_logprobs_of_transformers(
    real_server: str, model: SailVLForConditionalGeneration, encoder: Encoder
) -> None:
    images = [picture(0, 112, 56), picture(1)]
    content: list[dict[str, Any]] = []
    for image in images:
        image.save(png := io.BytesIO(), format="PNG")
        url = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
        content.append({"type": "image_url", "image_url": {"url": url}})
    content.append({"type": "text", "text": "What is the sum?"})
    answer = complete(real_server, content, encoder.processor.image_token_ids)

    prompt_ids, inputs = encoder.prompt_inputs(question(encoder, "chat", images))
    assert answer["prompt_token_ids"] == prompt_ids.tolist()
    choice = answer["choices"][0]
    tokens = torch.tensor(choice["token_ids"])
    logits = model(input_ids=torch.cat([prompt_ids, tokens])[None], **inputs).logits[0, len(prompt_ids) - 1 : -1]
    expected = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]  # vLLM gives those before bias and temperature
    served = torch.tensor([token["logprob"] for token in choice["logprobs"]["content"]])
    torch.testing.assert_close(served, expected, atol=1e-5, rtol=0)
