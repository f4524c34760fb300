"""Twenty seeded steps of every RL algorithm, which test_golden.py compares with golden.json.

    python tests/golden.py [NAME …]

writes the losses and gradient norms of these algorithms, or of all, to golden.json. Do this when mathematics changes
on purpose, and say in the commit's message what changed.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from conftest import picture
from rl_stage import recipe_of, run_stage
from smallest import LETTERS, WORDS, build_smallest

from rollouts.hf import HFEngine
from sail_rl.contracts import Prompt, Rollout, Sampling
from sail_rl.seeding import derive_seed

FILE = Path(__file__).with_suffix(".json")
STEPS = 20
SEED = 2
LONGEST = 10  # tokens
METRICS = ("loss", "grad_norm")
# The papers' values would hide in the rounding (KL) or clip everything (GSPO) in steps as few and as large as these.
KL = {"kl": {"coef": 0.05}}
GSPO = {"algorithm": "gspo", "loss": {"clip_low": 0.02, "clip_high": 0.03}}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "grpo": {"algorithm": "grpo"},
    "dr_grpo": {"algorithm": "dr_grpo"},
    "dapo": {"algorithm": "dapo"},
    "gspo": GSPO,
    "gspo_moe": GSPO,
    "cispo": {"algorithm": "cispo"},
    "rloo": {"algorithm": "rloo", "loss": KL},
    "reinforce_pp": {"algorithm": "reinforce_pp", "loss": KL},
    "ppo": {"algorithm": "ppo"},
}
ROWS = [
    {
        "id": str(number),
        "prompt": [
            {"role": "user", "content": [{"type": "image"}] * (number % 2) + [{"type": "text", "text": "Sum?"}]}
        ],
        "images": [picture(number)] * (number % 2),
    }
    for number in range(12)
]


class SeededEngine(HFEngine):
    """Draws every token evenly, whatever the weights, and reports the log-probs that the weights give it.

    So the rollouts are the same on every machine: rounding can't change a token. The untrained model's own
    distribution is nearly even, too.
    """

    @torch.no_grad()
    def _group(self, prompt: Prompt, sampling: Sampling) -> list[Rollout]:
        eos = self._processor.tokenizer.eos_token_id
        completions = []
        for sample in range(sampling.samples_per_prompt):
            draw = random.Random(derive_seed(sampling.seed, prompt.id, sample))
            length = draw.randint(2, LONGEST + 2)
            tokens = [WORDS.index(draw.choice(LETTERS)) for _ in range(min(length - 1, LONGEST))]
            completions.append(tokens + [eos] * (length <= LONGEST))
        inputs = self._processor.encoded(prompt.token_ids, prompt.images, name=prompt.id)
        start = inputs["input_ids"].shape[1]
        padded = [tokens + [eos] * (LONGEST - len(tokens)) for tokens in completions]
        images = {name: inputs[name] for name in ("pixel_values", "image_grid_thw") if name in inputs}
        repeated = {name: values.repeat(len(padded), *[1] * (values.dim() - 1)) for name, values in images.items()}
        ids = torch.cat([inputs["input_ids"].expand(len(padded), -1), torch.tensor(padded)], dim=1)
        logits = self._model(input_ids=ids, use_cache=False, **repeated).logits[:, start - 1 : -1]
        logits[..., self._processor.image_token_ids] = -torch.inf
        logprobs = logits.log_softmax(-1).gather(2, ids[:, start:, None])[..., 0]
        return [
            Rollout(
                prompt.id,
                sample,
                tokens,
                logprobs[sample, : len(tokens)].tolist(),
                "text",
                "stop" if tokens[-1] == eos else "length",
                self._version,
            )
            for sample, tokens in enumerate(completions)
        ]


class NoEvaluation:
    accuracy_name = "eval/rows/accuracy"
    selection_name = str

    def __call__(self) -> dict[str, float]:
        return {self.accuracy_name: 0.0}


def reward(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """0, 0.5 or 1 by the first token: some groups are all alike."""
    return [tokens[0] % 3 / 2 for tokens in completion_ids]


def run(name: str) -> dict[str, list[float]]:
    """The metrics of each step of the algorithm."""
    stage = {
        "steps": STEPS,
        "mini_batches": 4,
        "rewards": {"reward": {"path": "golden:reward"}},
        "sampling": {"prompts_per_step": 8, "samples_per_prompt": 4, "max_tokens": LONGEST},
        "optimizer": {"learning_rate": 5e-4, "schedule": "constant", "max_grad_norm": 1.0},
    }
    with tempfile.TemporaryDirectory() as folder:
        llm = "qwen3_moe" if name.endswith("moe") else "qwen3"
        parent = build_smallest(Path(folder, "parent"), llm=llm)
        recipe = recipe_of(Path(folder, "run"), parent, stage | ALGORITHMS[name], seed=SEED)
        logged = run_stage(recipe, parent=parent, engine=SeededEngine(parent), rows=ROWS, evaluator=NoEvaluation())
    steps = [metrics for metrics in logged if "loss" in metrics]
    return {metric: [float(f"{step[metric]:.7g}") for step in steps] for metric in METRICS}


if __name__ == "__main__":
    stored = json.loads(FILE.read_text()) if FILE.exists() else {}
    stored |= {name: run(name) for name in sys.argv[1:] or ALGORITHMS}
    FILE.write_text(json.dumps({name: stored[name] for name in ALGORITHMS if name in stored}, indent=1) + "\n")
