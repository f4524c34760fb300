"""Measures time and extra peak memory of log-probs over a large vocabulary: naive, sail-rl, and TRL's fused head.

    python benchmarks/logprob_memory.py [--repeats 3] [--vocabulary 151936 --hidden 512 --tokens 2048]

Forward and backward passes run in float32 on one thread, or in bfloat16 on a GPU. Each run has its own process, because
a process's peak never falls; extra memory is the peak minus the memory held before. Prints Markdown tables of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

GIB = 2**30
HEADS = ("naive", "sail-rl", "sail-rl, frozen head", "sail-rl, with entropy bonus", "trl")
MODELS = ("naive", "sail-rl", "trl")


def run_head(variant: str, options: argparse.Namespace) -> dict[str, float]:
    """Measure a head alone on hidden states of `tokens` labelled positions."""
    import torch
    import trl.trainer.utils  # noqa: F401  # before memory is measured

    from sail_rl.models.token_logprobs import token_logprobs

    device, dtype = _device()
    torch.manual_seed(0)
    hidden = torch.randn(options.tokens, options.hidden, device=device, dtype=dtype, requires_grad=True)
    weight = torch.randn(options.vocabulary, options.hidden, device=device, dtype=dtype).mul_(0.02)
    weight.requires_grad_(variant != "sail-rl, frozen head")
    targets = torch.randint(options.vocabulary, (options.tokens,), device=device)

    def step() -> Any:
        if variant == "naive":
            logprobs = (hidden @ weight.t()).float().log_softmax(-1).gather(1, targets[:, None])
            return logprobs.sum()
        if variant == "trl":
            return _trl_head(hidden, weight, targets)
        logprobs, entropies = token_logprobs(hidden, weight, targets)
        return logprobs.sum() + (entropies.sum() if variant.endswith("bonus") else 0)

    return _measure(step)


def run_model(variant: str, llm: str, options: argparse.Namespace) -> dict[str, float]:
    """Measure a SAIL-VL2 with a tiny body on one packed text whose positions are all labelled."""
    import torch

    from sail_rl.data.packing import Segment
    from sail_rl.models import PACKED_ATTENTION, SailVLForConditionalGeneration
    from sail_rl.models.tiny import tiny_config

    device, dtype = _device()
    torch.manual_seed(0)
    config = tiny_config(vocab_size=options.vocabulary, image_token_id=5, llm=llm, eos_token_id=2, pad_token_id=0)
    text = config.text_config
    text.hidden_size, text.num_hidden_layers, text.max_position_embeddings = options.hidden, 2, options.tokens
    model = SailVLForConditionalGeneration._from_config(
        config, dtype=dtype, attn_implementation={"text_config": PACKED_ATTENTION, "vision_config": "sdpa"}
    ).to(device)
    ids = torch.randint(10, options.vocabulary, (1, options.tokens + 1), device=device)
    packed = {
        "position_ids": torch.arange(options.tokens, device=device)[None],
        "segments": (Segment(options.tokens),),
    }
    inputs = {"input_ids": ids[:, :-1], **packed}
    targets = ids[:, 1:]
    if variant == "trl":
        from trl.trainer.utils import add_fused_lm_head

        add_fused_lm_head(model, outputs=("log_probs", "entropy"))

    def step() -> Any:
        if variant == "naive":
            return model(**inputs).logits.float().log_softmax(-1).gather(2, targets[..., None]).sum()
        if variant == "trl":
            return model(**inputs, shift_labels=targets, fused_lm_head=True).log_probs.sum()
        positions = torch.arange(options.tokens, device=device)
        return model(**inputs, targets=targets[0], target_positions=positions).logprobs.sum()

    return _measure(step)


def _trl_head(hidden: Any, weight: Any, targets: Any) -> Any:
    """TRL's head on a model that consists of the head only."""
    import torch
    from transformers import PretrainedConfig
    from transformers.modeling_outputs import BaseModelOutput
    from trl.trainer.utils import add_fused_lm_head

    class Head(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = PretrainedConfig()
            self.lm_head = torch.nn.Linear(*weight.shape[::-1], bias=False, device="meta")
            self.lm_head.weight = torch.nn.Parameter(weight.detach())

        def base_model(self, **_: Any) -> Any:
            return BaseModelOutput(last_hidden_state=hidden[None])

        def get_output_embeddings(self) -> Any:
            return self.lm_head

        def forward(self, **_: Any) -> None: ...

    model: Any = Head()
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    return model(shift_labels=targets[None], fused_lm_head=True).log_probs.sum()


def _device() -> tuple[Any, Any]:
    import torch

    return ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)


def _measure(step: Any) -> dict[str, float]:
    """Seconds and extra GiB of one forward and backward pass."""
    import torch

    torch.set_num_threads(1)
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before, start = torch.cuda.memory_allocated() if cuda else _resident(), time.perf_counter()
    step().backward()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "gib": (peak - before) / GIB}


def _resident() -> int:
    """The resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measured(what: str, variant: str, options: argparse.Namespace) -> dict[str, float]:
    """Medians over `repeats` fresh processes."""
    sizes = [f"--{name}={getattr(options, name)}" for name in ("vocabulary", "hidden", "tokens")]
    command = [sys.executable, __file__, "--one", what, variant, *sizes]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    runs = []
    for _ in range(options.repeats):
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, timeout=600)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {name: median(run[name] for run in runs) for name in runs[0]}


def table(what: str, variants: tuple[str, ...], options: argparse.Namespace) -> None:
    """Print one table, with ratios to the naive computation."""
    print(f"\n| {what} | seconds | ratio | extra memory, GiB | ratio |\n|---|---|---|---|---|", flush=True)
    naive: dict[str, float] = {}
    for variant in variants:
        result = measured(what, variant, options)
        naive = naive or result
        cells = [f"{result[name]:.2f} | {result[name] / naive[name]:.2f}" for name in ("seconds", "gib")]
        print(f"| {variant} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print all tables, or with `--one` measure one variant in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "VARIANT"))
    options = parser.parse_args()
    if options.one:
        what, variant = options.one
        result = run_head(variant, options) if what == "head" else run_model(variant, what, options)
        print(json.dumps(result))
        return
    table("head", HEADS, options)
    for llm in ("qwen3", "qwen3_moe"):
        table(llm, MODELS, options)


if __name__ == "__main__":
    main()
