"""Rollouts in a second and seconds for a weight push, by engine, on the quickstart's task; a Markdown table.

    python benchmarks/rollout_speed.py [--model DIR] [--prompts 32] [--samples 8] [--rounds 5]

The engines take turns within each round, so that whatever else the machine does hits all of them; medians are printed,
and ratios to `transformers.generate` in the same run. Without `--model` a tiny SAIL-VL2 is built.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from transformers import AutoProcessor

from rollouts.hf import HFEngine
from rollouts.vllm_engine import VLLMEngine
from rollouts.workers import WorkerEngine
from sail_rl.contracts import Sampling
from sail_rl.data.dataset import Rows
from sail_rl.data.digits import build_digits
from sail_rl.data.encoding import Encoder
from sail_rl.models.loading import load_model
from sail_rl.models.tiny import build_tiny


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    for name, default in (("prompts", 32), ("samples", 8), ("rounds", 5), ("max-tokens", 48)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = build_digits(Path(folder), seed=0, sft_rows=64, rl_rows=options.prompts, heldout_rows=8)
        rows = Rows(paths["rl"])
        model_dir = options.model or build_tiny(Path(folder) / "tiny", rows.texts(), llm="qwen3", seed=0)
        encoder = Encoder(AutoProcessor.from_pretrained(model_dir), max_length=256)
        prompts = [encoder.prompt(rows[index]) for index in range(options.prompts)]
        weights = dict(load_model(model_dir).named_parameters())
        engines: dict[str, Any] = {
            "transformers.generate (HFEngine)": HFEngine(model_dir, max_model_len=256),
            "WorkerEngine, 1 process": WorkerEngine(model_dir, workers=1, threads=1, max_model_len=256),
            "WorkerEngine, 2 processes": WorkerEngine(model_dir, workers=2, threads=1, max_model_len=256),
            "VLLMEngine, in process": VLLMEngine(model_dir, max_model_len=256),
        }
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
        base = median(speeds["transformers.generate (HFEngine)"])
        print("| engine | tokens/s | ratio | push, ms |\n|---|---|---|---|")
        for name, engine in engines.items():
            speed = median(speeds[name])
            print(f"| {name} | {speed:,.0f} | {speed / base:.2f}x | {1000 * median(pushes[name]):.0f} |")
            engine.close()


if __name__ == "__main__":
    main()
