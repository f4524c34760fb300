"""Measures an RL training pass whose samples share their prompts against the same pass without sharing.

    python benchmarks/shared_prompts.py [--rounds 3 --tiles 2 --prompts 4 --samples 8 --completion 64]

A tiny SAIL-VL2 with real tiles (448 pixels, 256 visual tokens each) makes a forward and a backward pass over the groups
of a few prompts; both ways alternate. Prints a Markdown table of medians and the largest difference of the log-probs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy
import torch
from PIL import Image
from transformers import AutoProcessor

from sail_rl.contracts import Rollout
from sail_rl.data.encoding import Encoder, Sample
from sail_rl.data.packing import pack
from sail_rl.models import PACKED_ATTENTION, SailVLConfig, SailVLForConditionalGeneration
from sail_rl.models.tiny import build_tiny

SIDE = 448


def groups(encoder: Encoder, options: argparse.Namespace) -> list[Sample]:
    """The samples of all groups: random pictures of `tiles` tiles, and completions of varied lengths."""
    chance = numpy.random.default_rng(0)
    samples = []
    for number in range(options.prompts):
        pixels = chance.integers(0, 256, (SIDE, SIDE * options.tiles, 3), dtype=numpy.uint8)
        messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is the sum?"}]}]
        prompt = encoder.prompt({"id": str(number), "prompt": messages, "images": [Image.fromarray(pixels)]})
        lengths = chance.integers(options.completion // 2, 2 * options.completion, options.samples)
        ids = [chance.integers(20, 200, length).tolist() for length in lengths]
        rollouts = [Rollout(str(number), n, each, [-1.0] * len(each), "", "stop", 1) for n, each in enumerate(ids)]
        samples += encoder.rollout_samples(prompt, rollouts)
    return samples


def main() -> None:
    """Time both ways in turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"rounds": 3, "tiles": 2, "prompts": 4, "samples": 8, "completion": 64}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        build_tiny(Path(folder), ["the sum of three and four is seven"], llm="qwen3", seed=0)
        processor, config = AutoProcessor.from_pretrained(folder), SailVLConfig.from_pretrained(folder)
    config.vision_config.image_size = SIDE
    processor.image_processor.size = {"height": SIDE, "width": SIDE}
    attention = {"text_config": PACKED_ATTENTION, "vision_config": "sdpa"}
    model = SailVLForConditionalGeneration._from_config(config, attn_implementation=attention)
    encoder = Encoder(processor, max_length=1_000_000)
    shared = groups(encoder, options)
    ways = {"each sample alone": [replace(sample, shared_prompt=None) for sample in shared], "shared prompts": shared}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    tokens, logprobs = {}, {}
    for _ in range(options.rounds):
        for name, samples in ways.items():
            begin = time.process_time()
            layout, batches = pack(samples, pack_length=16_384, filler=encoder.filler())
            found = {}
            for row, batch in zip(layout, batches, strict=True):
                output = model(**batch.model_inputs(torch.device("cpu")))
                output.logprobs.sum().backward()
                parts = output.logprobs.detach().split([samples[index].completion_length for index in row])
                found |= dict(zip(row, parts, strict=True))
            model.zero_grad()
            seconds[name].append(time.process_time() - begin)
            tokens[name] = sum(batch.input_ids.numel() for batch in batches)
            logprobs[name] = torch.cat([found[index] for index in range(len(samples))])
    first = median(seconds["each sample alone"])
    print(f"{options.prompts} prompts of {shared[0].prompt_length} tokens x {options.samples} samples\n")
    print("| way | tokens | CPU seconds | ratio |\n|---|---|---|---|")
    for name, spent in seconds.items():
        print(f"| {name} | {tokens[name]} | {median(spent):.2f} | {first / median(spent):.2f}x |")
    alone, together = logprobs.values()
    print(f"\nlargest difference of a log-prob: {(alone - together).abs().max():.1e} nats")


if __name__ == "__main__":
    main()
