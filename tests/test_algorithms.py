"""Every RL algorithm trains the quickstart's model for a few steps, in one run of many stages."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from launching import finish
from safetensors.torch import load_file

from sail_rl.records.jsonl import read_jsonl

pytestmark = pytest.mark.slow

REWARD = """
def length(completions, **_):
    return [len(completion[0]["content"]) % 7 / 7 for completion in completions]
"""
CODE = """
from sail_rl.maths.losses import TokenLoss

def best_of_group(rewards):
    best = rewards.max(dim=1, keepdim=True).values
    return (rewards == best).float() - 0.5

def weighted_likelihood(output, fields, segments):
    return TokenLoss(-fields.advantages.clamp(min=0) * output.logprobs)
"""
STAGES: dict[str, dict[str, Any]] = {
    "grpo": {"algorithm": "grpo"},
    "dapo": {"algorithm": "dapo", "loss": {"overlong_filtering": False}},  # it would leave out all completions here
    "gspo": {"algorithm": "gspo", "loss": {"clip_low": 3e-3, "clip_high": 4e-3}},
    "gspo_token": {"loss": {"surrogate": "gspo_token", "aggregation": "sequence_mean"}},
    "cispo": {"algorithm": "cispo"},
    "dr_grpo": {"algorithm": "dr_grpo"},
    "rloo": {"algorithm": "rloo", "loss": {"kl": {"coef": 0.01}}},
    "reinforce_pp": {"algorithm": "reinforce_pp", "sampling": {"samples_per_prompt": 1, "prompts_per_step": 8}},
    "reinforce_pp_baseline": {"advantages": "reinforce_pp_baseline", "loss": {"kl": {"coef": 0.01, "kind": "k2"}}},
    "partial": {"sampling": {"partial_tokens": 5}, "steps": 4},
    "two_epochs": {"mini_batches": 1, "epochs": 2},
    "tis": {"loss": {"old_logprobs": "trainer", "importance": {"mode": "truncate"}, "entropy_coef": 0.01}},
    "own": {"advantages": "my_code.py:best_of_group", "loss": {"function": "my_code.py:weighted_likelihood"}},
    "ppo_head": {"algorithm": "ppo", "critic": {"warmup_steps": 1}},
    "ppo_model": {"advantages": "gae", "critic": {"kind": "model"}, "loss": {"kl": {"coef": 0.01, "place": "reward"}}},
    "grpo_after_ppo": {},
}


def family(folder: Path, **changes: Any) -> Path:
    """A recipe of one stage an algorithm, each from the model of the one before."""
    quickstart = yaml.safe_load(Path("recipes/quickstart.yaml").read_text())
    (folder / "my_reward.py").write_text(REWARD)
    (folder / "my_code.py").write_text(CODE)
    shared = quickstart["stages"][1] | {
        "rewards": {"length": {"path": f"{folder}/my_reward.py:length"}},
        "steps": 2,
        "save_every": 2,
        "mini_batches": 2,
        "optimizer": quickstart["stages"][1]["optimizer"] | {"warmup_steps": 0},
    }
    sampling = {"prompts_per_step": 4, "samples_per_prompt": 4, "max_tokens": 12}
    tree = quickstart | {
        "output_dir": str(folder / "run"),
        "data": quickstart["data"] | {"kwargs": {"sft_rows": 4, "rl_rows": 16, "heldout_rows": 2}},
        "evaluation": quickstart["evaluation"] | {"max_tokens": 4, "every": 100},
        "stages": [
            shared | {"name": name} | settings | {"sampling": sampling | settings.get("sampling", {})}
            for name, settings in STAGES.items()
        ],
    }
    (folder / "family.yaml").write_text(yaml.safe_dump(tree | changes))
    return folder / "family.yaml"


@pytest.mark.timeout(400)
@pytest.mark.parametrize("llm", ["qwen3", "qwen3_moe"])
def test_every_algorithm_trains_and_keeps_engine_and_trainer_together(llm: str, tmp_path: Path) -> None:
    recipe = family(tmp_path)
    command = ["-m", "sail_rl", "run", str(recipe), f"model.llm={llm}"]
    if llm == "qwen3_moe":  # the engine then captures routes, and two of the stages replay them
        command += [f"stages.{name}.sampling.routing_replay=true" for name in ("gspo", "tis")]
    finish(command, timeout=380)
    records = {(r["stage"], r["step"]): r for r in read_jsonl(tmp_path / "run/metrics.jsonl")}
    parent = tmp_path / "run/base/model.safetensors"
    for name in STAGES:
        weights = tmp_path / "run/stages" / name / "model/model.safetensors"
        before, after = load_file(parent), load_file(weights)
        assert any(not torch.equal(before[key], after[key]) for key in before.keys() & after.keys()), name
        assert all(torch.isfinite(tensor).all() for tensor in after.values()), name
        assert any(key.startswith("critic.") for key in after) == name.startswith("ppo"), name
        parent = weights
        for step in (1, 2):
            record = records[name, step]
            assert math.isfinite(record["loss"])
            assert record["grad_norm"] > 0, name
            assert record["train/skipped_steps"] == 0
        assert records[name, 1]["mismatch/max"] < 1e-3
    assert records["ppo_head", 2]["value/loss"] > 0
    assert "value/loss" not in records["grpo_after_ppo", 2]
    for name in ("rloo", "ppo_model"):
        assert "kl/reference" in records[name, 2], name
    assert records["reinforce_pp_baseline", 1]["kl/reference"] == pytest.approx(0, abs=1e-9)
    assert records["reinforce_pp_baseline", 2]["kl/reference"] > 0
    assert records["tis", 1]["importance/mean"] == pytest.approx(1, abs=1e-3)
    assert records["partial", 1]["rollout/staleness"] == 0
    assert records["dapo", 1]["sampling/used_fraction"] <= 1
