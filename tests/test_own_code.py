"""Estimators, surrogates and losses of a user's own: a step with each, checks before a run, stage keys."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import question
from training import SameBatch, recipe_of, train
from transformers import AutoProcessor

from sail_rl.config import RLStage
from sail_rl.config.loading import dump_recipe, load_recipe
from sail_rl.config.result_settings import result_settings
from sail_rl.contracts import Rollout
from sail_rl.data.encoding import Encoder, Sample
from sail_rl.maths.token_fields import present
from sail_rl.plan.plan import check_code
from sail_rl.run.lineage import stage_keys
from sail_rl.stages.algorithms import make_estimator, make_loss
from sail_rl.trainer.estimators import RolloutSample
from sail_rl.trainer.groups import Group, NumberedPrompt

QUICKSTART = Path("recipes/quickstart.yaml")
CODE = """
import torch
from sail_rl.maths.losses import TokenLoss

def best_of_group(rewards):
    best = rewards.max(dim=1, keepdim=True).values
    return (rewards == best).float() - 0.5

def one_for_all(rewards):
    return torch.ones(3)

def reinforce(log_ratio, advantages, logprobs, segments):
    metrics = {"ratio/mean": log_ratio.detach().exp()}
    return TokenLoss(-advantages * logprobs, metrics)

def weighted_likelihood(output, fields, segments):
    weights = fields.advantages.clamp(min=0)
    return TokenLoss(-weights * output.logprobs)

NUMBER = 3
"""


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(CODE)
    return tmp_path / "mine.py"


def stage_with(*overrides: str) -> RLStage:
    stage = load_recipe(QUICKSTART, [f"stages.rlvr.{override}" for override in overrides]).stages[1]
    assert isinstance(stage, RLStage)
    return stage


def rollout(tokens: list[int]) -> Rollout:
    return Rollout("p", 0, tokens, [-5.0] * len(tokens), "", "stop", 1)


def test_an_estimator_of_one_s_own_gives_each_completion_its_advantage(code: Path) -> None:
    estimator = make_estimator(stage_with(f"advantages={code}:best_of_group"))
    rollouts = [rollout([5, 6]), rollout([7])]
    groups = [Group.of(NumberedPrompt(0, 0), rollouts, [0.25, 1.0], rank=0, size=(3, 0))]
    samples = [
        RolloutSample(0, 0, Sample(torch.arange(5), 3)),
        RolloutSample(0, 1, Sample(torch.arange(4), 3)),
    ]
    estimator(groups, samples)
    assert [present(s.sample.token_fields.advantages).tolist() for s in samples] == [[-0.5, -0.5], [0.5]]
    with pytest.raises(ValueError, match=r"one_for_all made \[3\] of rewards \[1, 2\]; return one advantage for each"):
        make_estimator(stage_with(f"advantages={code}:one_for_all"))(groups, samples)


@pytest.mark.parametrize("key", ["loss.surrogate", "loss.function"])
def test_a_step_with_a_loss_of_one_s_own_makes_the_better_completion_likelier(
    key: str, code: Path, tiny_dir: Callable[..., Path], tmp_path: Path
) -> None:
    name = {"loss.surrogate": "reinforce", "loss.function": "weighted_likelihood"}[key]
    stage = stage_with(f"{key}={code}:{name}")
    encoder = Encoder(AutoProcessor.from_pretrained(tiny_dir()), max_length=256)
    samples = encoder.rollout_samples(question(encoder, "p", []), [rollout([30, 31, 32]), rollout([40, 41])])
    for sample, advantage in zip(samples, (1.0, -1.0), strict=True):
        sample.token_fields.advantages = torch.full((sample.completion_length,), advantage)
    likelihoods = []
    for rate in (1e-12, 1e-3):
        recipe = recipe_of(tmp_path, steps=1, optimizer={"learning_rate": rate, "weight_decay": 0.0})
        trainer = train(recipe, tiny_dir(), loss=make_loss(stage), source=SameBatch(samples))
        likelihoods.append([found.logprobs.sum() for found in trainer.compute_logprobs(samples)])
    before, after = likelihoods
    assert after[0] > before[0]
    assert after[0] - before[0] > after[1] - before[1]


def test_a_resolved_recipe_with_code_of_one_s_own_loads_back_the_same(code: Path, tmp_path: Path) -> None:
    overrides = [f"stages.rlvr.advantages={code}:best_of_group", f"stages.rlvr.loss.surrogate={code}:reinforce"]
    recipe = load_recipe(QUICKSTART, overrides)
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe))
    absolute = recipe.model_copy(update={"output_dir": recipe.output_dir.absolute()})
    assert load_recipe(tmp_path / "r.yaml") == absolute


@pytest.mark.parametrize(("key", "name"), [("advantages", "best_of_group"), ("loss.surrogate", "reinforce"),
                                           ("loss.function", "weighted_likelihood")])  # fmt: skip
def test_a_change_of_the_file_changes_the_stage_s_key(key: str, name: str, code: Path) -> None:
    recipe = load_recipe(QUICKSTART, [f"stages.rlvr.{key}={code}:{name}"])
    paths = {data: Path(f"{data}.parquet") for data in ("sft", "rl", "heldout")}
    before = stage_keys(recipe, paths)
    code.write_text(CODE + "# changed\n")
    after = stage_keys(recipe, paths)
    assert [stage for stage in before if before[stage] != after[stage]] == ["rlvr"]


def test_where_the_file_lies_changes_neither_key_nor_result_settings(code: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved" / code.name
    moved.parent.mkdir()
    moved.write_text(code.read_text())
    recipes = [load_recipe(QUICKSTART, [f"stages.rlvr.advantages={file}:best_of_group", "output_dir=x"])
               for file in (code, moved)]  # fmt: skip
    settings = [result_settings(recipe.model_dump(mode="json")) for recipe in recipes]
    assert settings[0] == settings[1]
    paths = {data: Path(f"{data}.parquet") for data in ("sft", "rl", "heldout")}
    assert stage_keys(recipes[0], paths) == stage_keys(recipes[1], paths)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("advantages={code}:best", "has no 'best'; it has .*best_of_group"),
        ("loss.surrogate={code}:NUMBER", r"stage rlvr: loss.surrogate: .*mine.py:NUMBER is a int, not a function"),
        ("loss.surrogate=clipp", r"stages.rlvr.loss.surrogate: Input should be 'clip', 'gspo', 'gspo_token'"),
        ("advantages=grop", r"stages.rlvr.advantages: Input should be 'grpo', 'dr_grpo'"),
        ("loss={{function: '{code}:weighted_likelihood', entropy_coef: 0.1}}", "is the whole loss, so entropy_coef"),
    ],
)
def test_code_that_can_t_be_used_is_found_before_anything_runs(override: str, message: str, code: Path) -> None:
    with pytest.raises(ValueError, match=message):
        check_code(load_recipe(QUICKSTART, [f"stages.rlvr.{override.format(code=code)}"]), world_size=1)
