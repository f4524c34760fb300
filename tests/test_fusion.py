"""Think-Fusion: harvests in recipes, mixtures by samples, a whole short run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_run import SHORT, steps

from sail_rl.config import HarvestStage
from sail_rl.data.dataset import Rows
from sail_rl.data.digits import EASY, build_digits
from sail_rl.data.mixed import MixedRows
from sail_rl.data.mixture import sources_of
from sail_rl.recipe import load_recipe

RECIPE = Path("recipes/think_fusion_quickstart.yaml")


def test_the_recipe_has_the_report_s_stages_in_order() -> None:
    recipe = load_recipe(RECIPE)
    assert [stage.name for stage in recipe.stages] == ["longcot_sft", "rlvr", "harvest", "fusion_sft", "mixed_rl"]
    assert [stage.name for stage in recipe.training] == ["longcot_sft", "rlvr", "fusion_sft", "mixed_rl"]
    assert isinstance(recipe.stages[2], HarvestStage)
    assert sources_of(recipe.data.mixtures, "fusion") == {"harvest": 0.1, "direct": 0.9}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.harvest.rollouts=mixed_rl", "there is no RL stage 'mixed_rl' before it"),
        ("stages.harvest.minimum={truth: 1}", "minimum names 'truth', but stage rlvr has the rewards answer"),
        ("logging.rollouts_gib=0", "there are no rollouts to harvest"),
        ("stages.mixed_rl.data=harvest", "mixed_rl.data is 'harvest', a harvest; harvests are for SFT stages"),
    ],
)
def test_a_harvest_that_can_t_be_is_refused_before_anything_runs(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(RECIPE, [override])


def test_weights_in_the_recipe_must_sum_to_one() -> None:
    with pytest.raises(ValueError, match=r"data.mixtures.fusion: the weights sum to 0.5"):
        sources_of({"fusion": {"a": 0.2, "b": 0.3}}, "fusion")


def test_a_mixture_by_samples_has_its_shares_of_rows() -> None:
    sources = {"cot": [{"id": str(n)} for n in range(5)], "direct": [{"id": str(n)} for n in range(95)]}
    mixed = MixedRows(sources, {"cot": 0.1, "direct": 0.9}, dict.fromkeys(sources, 1.0))
    names = [row["source"] for row in mixed]
    assert names.count("cot") == 10
    assert all(names[start : start + 10].count("cot") == 1 for start in range(0, 100, 10)), "evenly"


def test_direct_rows_are_easy_questions_answered_without_a_thought(tmp_path: Path) -> None:
    paths = build_digits(tmp_path, seed=0, sft_rows=4, rl_rows=4, heldout_rows=4, direct_rows=20)
    rows = Rows(paths["direct"])
    assert {row["source"] for row in rows} == set(EASY)
    assert all(row["completion"] == f"\\boxed{{{row['answer']}}}" for row in rows)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_short_run_goes_through_all_stages_and_a_harvest_is_not_made_twice(tmp_path: Path) -> None:
    (tmp_path / "my_reward.py").write_text("def any_length(completions):\n    return [1.0 for _ in completions]\n")
    shortened = [option for option in SHORT if not option.startswith("data.kwargs")]
    command = [
        *(sys.executable, "-m", "sail_rl.cli", "run", str(RECIPE), f"output_dir={tmp_path / 'run'}", *shortened),
        "data.kwargs={sft_rows: 64, rl_rows: 24, heldout_rows: 8, direct_rows: 16}",
        f"stages.rlvr.rewards.any={{path: '{tmp_path}/my_reward.py:any_length', weight: 0.01}}",
        *("stages.harvest.minimum={any: 1}", "stages.harvest.where={source: [sum, count, maximum]}"),
        *("stages.fusion_sft.steps=2", "stages.fusion_sft.batch_size=8", "stages.fusion_sft.save_every=2"),
        *("stages.mixed_rl.steps=2", "stages.mixed_rl.prompts_per_step=4", "stages.mixed_rl.samples_per_prompt=4"),
        *("stages.mixed_rl.save_every=2", "stages.mixed_rl.max_tokens=24"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled"}

    def run() -> dict[str, Any]:
        subprocess.run(command, check=True, timeout=280, env=environment)
        return json.loads((tmp_path / "run/summary.json").read_text())

    summary = run()
    assert [stage["name"] for stage in summary["stages"]] == [
        *("longcot_sft", "rlvr", "harvest", "fusion_sft", "mixed_rl")
    ]
    data = tmp_path / "run/stages/harvest/data.parquet"
    rows, counts = Rows(data, needs=("completion",)), json.loads(data.with_name("counts.json").read_text())
    assert len(rows) == counts["kept"] <= counts["prompts"]
    assert {row["source"] for row in rows} <= {"sum", "count", "maximum"}
    logged = steps(tmp_path / "run")
    sources = {row["source"] for row in Rows(tmp_path / "run/data/heldout.parquet")}
    thinking = {name for record in logged.values() for name in record if "thinking/" in name}
    assert thinking == {f"eval/heldout/thinking/{source}" for source in sources}
    made = data.stat().st_mtime_ns
    for name in ("summary.json", "stages/mixed_rl/result.json"):
        (tmp_path / "run" / name).unlink()
    assert [stage["name"] for stage in run()["stages"]] == [stage["name"] for stage in summary["stages"]]
    assert data.stat().st_mtime_ns == made
