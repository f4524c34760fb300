"""Keys of stages: what a result depends on changes them, and nothing else; what they say is kept or done again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sail_rl.config import Recipe
from sail_rl.config.loading import load_recipe
from sail_rl.files import atomic_path, content_hash, sampled_hash
from sail_rl.records.jsonl import append_jsonl, read_jsonl
from sail_rl.run.folder import (
    await_ready,
    clear_ready,
    invalidate_stale_stages,
    prepare_run_dir,
    signal_ready,
    write_stage_key,
)
from sail_rl.run.lineage import inputs, stage_keys

RECIPE = Path("recipes/think_fusion_quickstart.yaml")
ALL = ["base", "longcot_sft", "rlvr", "harvest", "hard", "fusion_sft", "mixed_rl", "mixed_rl_again", "soup", "export"]
PATHS = {name: Path(f"{name}.parquet") for name in ("sft", "rl", "heldout", "direct")}


def keys(*overrides: str) -> dict[str, str]:
    return stage_keys(load_recipe(RECIPE, overrides), PATHS)


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("stages.mixed_rl.steps=31", ["mixed_rl", "soup", "export"]),
        ("stages.mixed_rl_again.seed=19", ["mixed_rl_again", "soup", "export"]),
        ("stages.harvest.minimum={answer: 1}", ["harvest", *ALL[5:]]),
        ("stages.hard.hard_below=0.4", ["hard", *ALL[6:]]),
        ("stages.rlvr.optimizer.learning_rate=2.0e-4", ALL[2:]),
        ("stages.rlvr.parent=longcot_sft", []),
        ("stages.rlvr.parent=base", ALL[2:]),
        ("stages.soup.force=true", ["soup", "export"]),
        ("stages.export.published=true", ["export"]),
        ("data.mixtures.fusion={harvest: 0.2, direct: 0.8}", ALL[5:]),
        ("data.kwargs.careless=0.4", ALL),
        ("seed=5", ALL),
        ("model.dtype=bfloat16", ALL),
        ("logging.traces_per_step=3", []),
        ("stages.rlvr.save_every=7", []),
        ("stages.rlvr.sampling.groups_per_score=4", []),
        ("stages.rlvr.pack_length=512", []),
    ],
)
def test_a_stage_s_key_depends_on_what_its_result_depends_on(override: str, changed: list[str]) -> None:
    before, after = keys(), keys(override)
    assert list(before) == ALL
    assert len(set(before.values())) == len(ALL)
    assert [name for name in ALL if before[name] != after[name]] == changed


def test_a_changed_reward_file_changes_the_key_of_who_uses_it(tmp_path: Path) -> None:
    reward = tmp_path / "mine.py"
    reward.write_text("def one(completions):\n    return [1.0]\n")
    override = f"stages.rlvr.rewards.mine={{path: '{reward}:one', weight: 0}}"
    before = keys(override)
    reward.write_text("def one(completions):\n    return [0.0]\n")
    after = keys(override)
    assert [name for name in ALL if before[name] != after[name]] == ALL[2:]


def test_when_evaluations_come_matters_where_the_best_model_is_kept() -> None:
    best = "stages.rlvr.metric_for_best_model=eval/heldout/accuracy"
    assert keys("evaluation.every=5")["rlvr"] == keys()["rlvr"]
    assert keys(best, "evaluation.every=5")["rlvr"] != keys(best)["rlvr"]


def test_a_rank_waits_for_rank_0_s_announcement_of_this_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", "1")
    signal_ready(tmp_path)
    await_ready(tmp_path, limit=1)
    monkeypatch.setenv("MASTER_PORT", "2")
    with pytest.raises(TimeoutError, match="rank 0 hasn't prepared"):
        await_ready(tmp_path, limit=0.1)
    monkeypatch.setenv("MASTER_PORT", "1")
    clear_ready(tmp_path)
    with pytest.raises(TimeoutError, match="rank 0 hasn't prepared"):
        await_ready(tmp_path, limit=0.1)


def test_a_copy_of_a_model_has_its_hash_and_another_model_has_not(tmp_path: Path) -> None:
    for name in ("one", "copy"):
        (tmp_path / name / ".cache").mkdir(parents=True)
        (tmp_path / name / "weights").write_bytes(bytes(3 * 2**20))
        (tmp_path / name / ".cache/metadata").write_text(name)
    assert sampled_hash(tmp_path / "one") == sampled_hash(tmp_path / "copy")
    with (tmp_path / "copy/weights").open("r+b") as file:
        file.seek(-10, os.SEEK_END)
        file.write(b"1")
    assert sampled_hash(tmp_path / "one") != sampled_hash(tmp_path / "copy")


def test_a_harvest_s_key_is_of_its_stage_though_a_dataset_has_its_name() -> None:
    assert inputs(load_recipe(RECIPE), load_recipe(RECIPE).stage("harvest")) == (["rl"], ["rlvr"])
    same = {**PATHS, "rlvr": Path("rlvr.parquet")}
    recipe, changed = load_recipe(RECIPE), load_recipe(RECIPE, ["stages.rlvr.optimizer.learning_rate=2.0e-4"])
    assert stage_keys(recipe, same)["harvest"] != stage_keys(changed, same)["harvest"]


def test_a_stage_that_keeps_its_best_model_changes_no_other_stage_s_key() -> None:
    best = "stages.mixed_rl.metric_for_best_model=eval/heldout/accuracy"
    before, after = keys(), keys(best)
    assert [name for name in ALL if before[name] != after[name]] == ["mixed_rl", "soup", "export"]


def test_a_folder_that_a_kill_left_half_written_is_no_part_of_the_next_one(tmp_path: Path) -> None:
    (tmp_path / "model.partial").mkdir()
    (tmp_path / "model.partial/old").touch()
    with atomic_path(tmp_path / "model") as partial:
        partial.mkdir()
        (partial / "new").touch()
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["new"]


def test_a_file_s_hash_depends_on_its_content_only(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/rows.jsonl").write_text("{}")
    (tmp_path / "b.jsonl").write_text("{}")
    assert content_hash(tmp_path / "a/rows.jsonl") == content_hash(tmp_path / "b.jsonl")
    folder = content_hash(tmp_path / "a")
    (tmp_path / "a/rows.jsonl").write_text("[]")
    assert content_hash(tmp_path / "a") != folder
    assert content_hash(tmp_path / "a/rows.jsonl") != content_hash(tmp_path / "b.jsonl")


class TestSettling:
    @pytest.fixture
    def recipe(self, tmp_path: Path) -> Recipe:
        """A run of which base, longcot_sft and rlvr are done."""
        recipe = load_recipe(RECIPE, [f"output_dir={tmp_path / 'run'}"])
        prepare_run_dir(recipe, fresh=False, redo=False)
        for name, key in list(stage_keys(recipe, PATHS).items())[:3]:
            write_stage_key(recipe.output_dir / ("base" if name == "base" else f"stages/{name}"), key)
            append_jsonl(recipe.output_dir / "metrics.jsonl", {"stage": name, "step": 1})
        (recipe.output_dir / "summary.json").write_text("{}")
        return recipe

    def test_nothing_is_touched_when_nothing_changed(self, recipe: Recipe) -> None:
        for redo in (False, True):
            invalidate_stale_stages(recipe, stage_keys(recipe, PATHS), redo=redo)
        assert {path.name for path in (recipe.output_dir / "stages").iterdir()} == {"longcot_sft", "rlvr"}

    def test_changed_data_are_refused_with_the_stages_that_they_change(self, recipe: Recipe) -> None:
        changed = stage_keys(recipe, PATHS) | {"rlvr": "other"}
        with pytest.raises(ValueError, match="the data, rewards or model of rlvr changed since the last launch"):
            invalidate_stale_stages(recipe, changed, redo=False)
        assert (recipe.output_dir / "stages/rlvr").is_dir()

    def test_redo_deletes_what_changed_with_all_that_was_logged_of_it(self, recipe: Recipe) -> None:
        invalidate_stale_stages(recipe, stage_keys(recipe, PATHS) | {"rlvr": "other"}, redo=True)
        assert [path.name for path in (recipe.output_dir / "stages").iterdir()] == ["longcot_sft"]
        assert (recipe.output_dir / "base").is_dir()
        assert not (recipe.output_dir / "summary.json").exists()
        assert [record["stage"] for record in read_jsonl(recipe.output_dir / "metrics.jsonl")] == ["longcot_sft"]

    def test_redo_keeps_what_was_logged_of_later_stages_that_are_kept(
        self, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from sail_rl.records.log import RunLogger

        monkeypatch.setenv("WANDB_MODE", "disabled")
        log = RunLogger(recipe.output_dir, project="p", run_name="r", config={})
        log.rollback("longcot_sft", -1, stages=["base", "longcot_sft", "rlvr"], finished={"rlvr"})
        log.finish()
        assert [record["stage"] for record in read_jsonl(recipe.output_dir / "metrics.jsonl")][-1] == "rlvr"

    def test_a_kill_while_a_stage_is_marked_leaves_nothing_to_settle(self, recipe: Recipe) -> None:
        (recipe.output_dir / "stages/harvest").mkdir()
        (recipe.output_dir / "stages/harvest/key.partial").write_text("half")
        invalidate_stale_stages(recipe, stage_keys(recipe, PATHS), redo=False)

    def test_redo_does_again_what_has_no_key(self, recipe: Recipe) -> None:
        (recipe.output_dir / "stages/rlvr/key").rename(recipe.output_dir / "stages/rlvr/result.json")
        with pytest.raises(ValueError, match="the data, rewards or model of rlvr changed"):
            invalidate_stale_stages(recipe, stage_keys(recipe, PATHS), redo=False)
        invalidate_stale_stages(recipe, stage_keys(recipe, PATHS), redo=True)
        assert not (recipe.output_dir / "stages/rlvr").exists()

    def test_datasets_that_are_there_before_a_run_survive_fresh(self, tmp_path: Path) -> None:
        (tmp_path / "new/data").mkdir(parents=True)
        (tmp_path / "new/data/mine.jsonl").write_text("{}")
        recipe = load_recipe(RECIPE, [f"output_dir={tmp_path / 'new'}"])
        prepare_run_dir(recipe, fresh=True, redo=False)
        assert (tmp_path / "new/data/mine.jsonl").read_text() == "{}"

    def test_a_stage_that_the_recipe_no_longer_has_is_deleted_too(self, recipe: Recipe) -> None:
        keys = {name: key for name, key in stage_keys(recipe, PATHS).items() if name != "rlvr"}
        invalidate_stale_stages(recipe, keys, redo=True)
        assert [path.name for path in (recipe.output_dir / "stages").iterdir()] == ["longcot_sft"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "stages.mixed_rl.parent=mixed_rl_again",
            "no stage before it makes the model 'mixed_rl_again'; there are base",
        ),
        ("stages.soup.models=[rlvr, harvest]", "stage soup: no stage before it makes the model 'harvest'"),
        ("stages.export.model=nothing", "stage export: no stage before it makes the model 'nothing'"),
    ],
)
def test_a_parent_that_isn_t_there_is_refused(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(RECIPE, [override])
