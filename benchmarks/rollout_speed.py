"""Measures the tokens per second, weight-push time and start time of each engine; prints a table for each model.

    python benchmarks/rollout_speed.py [--sizes tiny 100m] [--prompts 32] [--samples 8] [--rounds 5]

The task is the quickstart's, and the models are untrained. The engines take turns within each round, so that other load
of the machine affects them equally. The tables show medians, and ratios to `transformers.generate` with all prompts in
one padded batch.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoProcessor

from rollouts.hf import HFEngine
from rollouts.vllm_engine import VLLMEngine
from rollouts.workers import WorkerEngine
from sail_rl.contracts import Prompt, Sampling
from sail_rl.data.dataset import Rows
from sail_rl.data.digits import build_digits
from sail_rl.data.encoding import Encoder
from sail_rl.models import SailVLConfig, SailVLForConditionalGeneration
from sail_rl.models.loading import load_model
from sail_rl.models.tiny import build_tiny

WIDE = {"hidden_size": 768, "num_hidden_layers": 13, "num_attention_heads": 12, "num_key_value_heads": 4}
BASE = "transformers.generate, one padded batch"


class PaddedBatch(HFEngine):
    """All prompts in one call of `generate` with left padding, the fastest method with transformers alone."""

    @torch.no_grad()
    def generate(self, prompts: Any, sampling: Sampling) -> Any:
        """The tokens of every sample up to its end, without log-probs."""
        images = [image for prompt in prompts for image in prompt.images]
        texts = [prompt.text for prompt in prompts]
        inputs = self._processor(images=images, text=texts, padding=True, return_tensors="pt")
        length = inputs["input_ids"].shape[1]
        output = self._model.generate(**inputs, **self._options(sampling, length))
        eos = self._processor.tokenizer.eos_token_id
        return [[_Tokens(row[: int((row == eos).cumsum(0).eq(0).sum()) + 1])] for row in output[:, length:]]


class _Tokens:
    def __init__(self, ids: torch.Tensor) -> None:
        self.token_ids = ids.tolist()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=["tiny", "100m"], default=["tiny", "100m"])
    for name, default in (("prompts", 32), ("samples", 8), ("rounds", 5), ("max-tokens", 48)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = build_digits(Path(folder), seed=0, sft_rows=64, rl_rows=options.prompts, heldout_rows=8)
        rows = Rows(paths["rl"])
        for size in options.sizes:
            model_dir = build_tiny(Path(folder) / size, rows.texts(), llm="qwen3", seed=0)
            if size == "100m":
                widen(model_dir)
            encoder = Encoder(AutoProcessor.from_pretrained(model_dir), max_length=256)
            measure(model_dir, [encoder.prompt(rows[index]) for index in range(options.prompts)], options)


def widen(model_dir: Path) -> None:
    """Replace the tiny model by one of about 100M parameters with the same processor."""
    config = SailVLConfig.from_pretrained(model_dir)
    for name, value in (WIDE | {"intermediate_size": 2560}).items():
        setattr(config.text_config, name, value)
    config.text_config.layer_types = ["full_attention"] * WIDE["num_hidden_layers"]
    SailVLForConditionalGeneration(config).save_pretrained(model_dir)


def measure(model_dir: Path, prompts: list[Prompt], options: argparse.Namespace) -> None:
    """Print one model's table."""
    weights = dict(load_model(model_dir).named_parameters())
    factories: dict[str, Callable[[], Any]] = {
        BASE: lambda: PaddedBatch(model_dir, max_model_len=256),
        "HFEngine, one group at a time": lambda: HFEngine(model_dir, max_model_len=256),
        "WorkerEngine, 1 process": lambda: WorkerEngine(model_dir, workers=1, threads=1, max_model_len=256),
        "WorkerEngine, 2 processes": lambda: WorkerEngine(model_dir, workers=2, threads=1, max_model_len=256),
        "VLLMEngine, in process": lambda: VLLMEngine(model_dir, max_model_len=256),
    }
    engines, starts = {}, {}
    for name, make in factories.items():
        start = time.perf_counter()
        engines[name] = make()
        starts[name] = time.perf_counter() - start
    speeds: dict[str, list[float]] = {name: [] for name in engines}
    pushes: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(options.rounds + 1):  # the first one warms up
        sampling = Sampling(options.samples, options.max_tokens, 1.0, seed=number)
        for name, engine in engines.items():
            start = time.perf_counter()
            engine.push_weights(number + 1, weights.items())
            pushed = time.perf_counter()
            groups = engine.generate(prompts, sampling)
            tokens = sum(len(rollout.token_ids) for group in groups for rollout in group)
            if number:
                pushes[name].append(pushed - start)
                speeds[name].append(tokens / (time.perf_counter() - pushed))
    base = median(speeds[BASE])
    print(f"\n{sum(tensor.numel() for tensor in weights.values()) / 1e6:.1f}M parameters\n")
    print("| engine | tokens/s | ratio | push, ms | start, s |\n|---|---|---|---|---|")
    for name, engine in engines.items():
        speed = median(speeds[name])
        push = 1000 * median(pushes[name])
        print(f"| {name} | {speed:,.0f} | {speed / base:.2f}x | {push:.0f} | {starts[name]:.1f} |")
        engine.close()


if __name__ == "__main__":
    main()
