"""Measures the training–inference mismatch of an MoE under vLLM, with and without routing replay (R3).

    python benchmarks/routing_replay.py [--model DIR] [--prompts 64] [--samples 4]

In each dtype, the trainer computes log-probs of the same rollouts twice: with its own routing, and with replay of the
sampler's routing. The default model is a tiny, untrained SAIL-VL2 MoE; a trained one is more informative. Prints a
Markdown table.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor

from rollouts.vllm_engine import VLLMEngine
from sail_rl.contracts import Prompt, Sampling
from sail_rl.data.dataset import Rows
from sail_rl.data.digits import build_digits
from sail_rl.data.encoding import Encoder, Sample
from sail_rl.data.packing import collate
from sail_rl.models import Distribution
from sail_rl.models.loading import load_model
from sail_rl.models.tiny import build_tiny


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = build_digits(Path(folder), seed=0, sft_rows=64, rl_rows=options.prompts, heldout_rows=8)
        rows = Rows(paths["rl"])
        model_dir = options.model or build_tiny(Path(folder) / "tiny", rows.texts(), llm="qwen3_moe", seed=0)
        encoder = Encoder(AutoProcessor.from_pretrained(model_dir), max_length=256)
        prompts = [encoder.prompt(rows[index]) for index in range(options.prompts)]
        print("| dtype | routing | mean | 99th percentile | largest | tokens above 0.1 |\n|---|---|---|---|---|---|")
        for dtype in ("float32", "bfloat16"):
            measure(model_dir, encoder, prompts, options.samples, dtype)
            gc.collect()


@torch.no_grad()
def measure(model_dir: Path, encoder: Encoder, prompts: list[Prompt], samples: int, dtype: str) -> None:
    """Print the two rows of a dtype, and how often trainer and engine route differently."""
    model = load_model(model_dir, dtype=getattr(torch, dtype)).eval()
    engine = VLLMEngine(model_dir, max_model_len=256, dtype=dtype, capture_routed_experts=True)
    engine.push_weights(1, model.named_parameters())
    groups = engine.generate(prompts, Sampling(samples, 48, 1.0, seed=1, routed_experts=True))
    engine.close()
    pairs = zip(prompts, groups, strict=True)
    sampled = [sample for prompt, group in pairs for sample in encoder.rollout_samples(prompt, group)]
    different, total = 0, 0
    for name, replayed in (("trainer's own", False), ("replayed", True)):
        mismatch = []
        for sample in sampled:
            output = compute_logprobs(model, encoder, sample, replayed)
            mismatch.append((output.logprobs - sample.token_fields.rollout_logprobs).abs())
            if not replayed:
                missed = elsewhere(output.router_logits, sample)
                different, total = different + int(missed.sum()), total + missed.numel()
        nats = torch.cat(mismatch).float()
        above = (nats > 0.1).float().mean()
        print(f"| {dtype} | {name} | {nats.mean():.2e} | {nats.quantile(0.99):.2e} | {nats.max():.2e} | {above:.2%} |")
    print(f"| {dtype} | *routed elsewhere: {different / total:.2%} of {total:,} positions and layers* | | | | |")


def compute_logprobs(model: Any, encoder: Encoder, sample: Sample, replayed: bool) -> Any:
    """The log-probs of one sample by the trainer's forward pass."""
    micro_batch = collate([sample], filler=encoder.filler())
    if not replayed:
        micro_batch = replace(micro_batch, routed_experts=None)
    banned = tuple(encoder.processor.image_token_ids)
    return model(**micro_batch.model_inputs(torch.device("cpu")), distribution=Distribution(banned_token_ids=banned))


def elsewhere(router_logits: tuple[torch.Tensor, ...], sample: Sample) -> torch.Tensor:
    """[T - 1, layers], true where the trainer's router chooses other experts than the sampler."""
    assert sample.routed_experts is not None
    theirs = sample.routed_experts[:-1].long().sort().values
    ours = torch.stack([logits.topk(theirs.shape[-1]).indices for logits in router_logits], dim=1)
    return (ours[: len(theirs)].sort().values != theirs).any(-1)


if __name__ == "__main__":
    main()
