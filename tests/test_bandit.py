"""Every algorithm finds the known optimum of a bandit over short token sequences, within a number of rollouts.

Whole stages run: sampling with the current weights, advantages, losses and the optimiser are those of `sail-rl run`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rl_stage import recipe_of, run_stage
from smallest import WORDS, build_smallest

from rollouts.hf import HFEngine
from sail_rl.contracts import Prompt, Rollout, Sampling
from sail_rl.data.encoding import Encoder
from sail_rl.models.chat import EOS

OPTIMUM = [WORDS.index(word) for word in ("c", "a", EOS)]
LONGEST = 4  # tokens
ROWS = [{"id": str(n), "prompt": [{"role": "user", "content": "Which?"}], "images": []} for n in range(2)]
SOLVED = 0.9  # probability of the optimum, which an untrained policy gives 13 to the power of -3
MOST = 6912
"""Rollouts within which every algorithm solves it: twice the most that any of five to eight seeds took."""
ALGORITHMS: dict[str, dict[str, Any]] = {
    "grpo": {"algorithm": "grpo"},
    # Without overlong filtering, which hides completions that don't end: at first these are nearly all.
    "dapo": {"algorithm": "dapo", "loss": {"overlong_filtering": False}},
    # The paper's limits suit the small updates of long completions.
    "gspo": {"algorithm": "gspo", "loss": {"clip_low": 0.1, "clip_high": 0.15}},
    "rloo": {"algorithm": "rloo"},
    "ppo": {"algorithm": "ppo"},
}


def share_right(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    """The share of the optimum's tokens that stand in their places: 1 for the optimum alone (or the start of more)."""
    return [sum(map(int.__eq__, OPTIMUM, tokens)) / len(OPTIMUM) for tokens in completion_ids]


def constant(completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float]:
    return [0.5] * len(completion_ids)


class CountingEngine(HFEngine):
    """The reference engine, which also counts its rollouts."""

    rollouts = 0

    def stream(self, prompts: Sequence[Prompt], sampling: Sampling) -> Generator[tuple[int, list[Rollout]]]:
        for position, group in super().stream(prompts, sampling):
            self.rollouts += len(group)
            yield position, group


class Solved(Exception):  # noqa: N818
    """The optimum's probability is high enough, so the rest of the stage needn't run."""


class Probability:
    """An evaluation: the exact probability of the optimum."""

    accuracy_name = "eval/rows/accuracy"
    selection_name = str

    def __init__(self, engine: CountingEngine) -> None:
        self.engine = engine
        prompt = Encoder(engine._processor, max_length=128).prompt(ROWS[0])
        self.input_ids = torch.tensor([[*prompt.token_ids, *OPTIMUM]])

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        logits = self.engine._model(input_ids=self.input_ids, use_cache=False).logits[0, -len(OPTIMUM) - 1 : -1]
        logits[:, self.engine._processor.image_token_ids] = -torch.inf
        probability = logits.log_softmax(-1)[range(len(OPTIMUM)), OPTIMUM].sum().exp().item()
        if probability >= SOLVED:
            raise Solved
        return {self.accuracy_name: probability}


def rollouts_to_solve(folder: Path, stage: dict[str, Any], *, most: int, seed: int = 0) -> int | None:
    """The number of rollouts after which the optimum's probability is SOLVED; None if `most` don't suffice."""
    shared = {
        "steps": 2 * (most // 64),
        "epochs": 2,
        "rewards": {"right": {"path": "test_bandit:share_right"}},
        "sampling": {"prompts_per_step": 1, "samples_per_prompt": 64, "max_tokens": LONGEST},
        "optimizer": {"learning_rate": 1e-3, "schedule": "constant", "adam_beta2": 0.99},
    }
    parent = build_smallest(folder / "parent", seed=seed)
    recipe = recipe_of(folder / "run", parent, shared | stage, seed=seed, every=2)
    engine = CountingEngine(parent)
    try:
        run_stage(recipe, parent=parent, engine=engine, rows=ROWS, evaluator=Probability(engine))
    except Solved:
        return engine.rollouts if engine.rollouts <= most else None
    return None


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_optimum_is_found_within_a_number_of_rollouts(name: str, tmp_path: Path) -> None:
    assert rollouts_to_solve(tmp_path, ALGORITHMS[name], most=MOST)


def test_the_optimum_is_not_found_without_a_reward_that_tells_it(tmp_path: Path) -> None:
    """The bandit is hard enough: the untrained policy, or one with a constant reward, doesn't solve it."""
    constant = {"rewards": {"right": {"path": "test_bandit:constant"}}}
    assert rollouts_to_solve(tmp_path, ALGORITHMS["grpo"] | constant, most=640) is None
