"""Rewards in a recipe: expressions, isolation, guards, gold answers, and the metrics of calls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from sail_rl.config import RLStage
from sail_rl.config.loading import dump_recipe, load_recipe, read_tree
from sail_rl.contracts import RewardCall
from sail_rl.plan.plan import check_code, make_plan
from sail_rl.plan.rewards import stage_scorer
from sail_rl.records.schema import is_known
from sail_rl.trainer.rollout_metrics import call_metrics

QUICKSTART = Path("recipes/quickstart.yaml")
REWARDS = "{answer: {path: 'rewards.answer:math_answer'}, format: {path: 'rewards.format:think_boxed', call_order: 2}}"


def overrides(expression: str, rewards: str = REWARDS) -> list[str]:
    return [f"stages.rlvr.rewards={rewards}", f"stages.rlvr.total='{expression}'"]


def test_an_expression_in_a_recipe_reaches_the_scorer_with_the_guards(tmp_path: Path) -> None:
    recipe = load_recipe(QUICKSTART, [*overrides("answer * format"), "stages.rlvr.weights_sum_to_one=true"])
    check_code(recipe, world_size=1)
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
    absolute = recipe.model_copy(update={"output_dir": recipe.output_dir.absolute()})
    assert load_recipe(tmp_path / "again.yaml") == absolute
    stage = recipe.stages[1]
    assert isinstance(stage, RLStage)
    names = [term.name for term in stage_scorer(stage).terms]  # type: ignore[attr-defined]
    assert names[0] == "answer"
    assert names[-1] == "format"  # the costly one comes last
    assert "guard_several_boxes" in names


def test_guards_can_be_turned_off() -> None:
    stage = load_recipe(QUICKSTART, ["stages.rlvr.guards=null"]).stages[1]
    assert isinstance(stage, RLStage)
    assert [term.name for term in stage_scorer(stage).terms] == ["answer", "reading", "format"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (overrides("answr * format"), r"(?s)stage rlvr: .*no reward is called 'answr'.*\^\^\^\^\^"),
        ([*overrides("0.5 * answer"), "stages.rlvr.weights_sum_to_one=true"], "stage rlvr: .*make a total of 0.5"),
    ],
)
def test_a_wrong_expression_is_found_before_anything_runs(changes: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_code(load_recipe(QUICKSTART, changes), world_size=1)


def test_weights_beside_an_expression_are_refused() -> None:
    with pytest.raises(ValueError, match="answer, reading, format has a `weight` beside the expression"):
        load_recipe(QUICKSTART, ["stages.rlvr.total=answer * format"])


def test_a_gold_answer_that_can_t_be_used_is_named_with_its_row(tmp_path: Path) -> None:
    rows = [{"prompt": "x", "completion": "y", "answer": answer} for answer in ("1", "\\frac{1}{2")]
    (tmp_path / "d.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    tree = read_tree(QUICKSTART) | {"output_dir": str(tmp_path / "run")}
    tree["data"] = {"files": dict.fromkeys(("sft", "rl", "heldout"), str(tmp_path / "d.jsonl"))}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(ValueError, match=r"d.jsonl, row 1: reward 'accuracy' of evaluation: .*unbalanced braces"):
        make_plan(load_recipe(tmp_path / "r.yaml"), {})


def test_metrics_of_calls_by_hand() -> None:
    calls = [
        RewardCall("ok", 1.0),
        RewardCall("ok", 3.0, cached=True),
        RewardCall("timeout", 2000.0),
        RewardCall("skipped"),
    ]
    metrics = call_metrics("judge", calls)
    assert metrics == {
        "reward/judge/none": 0,
        "reward/judge/timeout": 0.25,
        "reward/judge/error": 0,
        "reward/judge/too_long": 0,
        "reward/judge/skipped": 0.25,
        "reward/judge/ms_p50": 3.0,
        "reward/judge/ms_p99": 2000.0,
        "reward/judge/cache_hit": pytest.approx(1 / 3),
    }
    assert all(map(is_known, metrics))
    assert "reward/judge/ms_p50" not in call_metrics("judge", [RewardCall("skipped")])
