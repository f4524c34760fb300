"""Think-Fusion: harvests in recipes, mixtures by samples, a whole short run."""

from __future__ import annotations

import json
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml
from launching import finish
from test_run import SHORT, steps

from sail_rl.config import HarvestStage
from sail_rl.config.loading import load_recipe
from sail_rl.data.dataset import Rows
from sail_rl.data.digits import EASY, build_digits
from sail_rl.data.mixed import MixedRows
from sail_rl.data.mixture import sources_of
from sail_rl.models.loading import load_model
from sail_rl.records.jsonl import read_jsonl

RECIPE = Path("recipes/think_fusion_quickstart.yaml")
STAGES = ["longcot_sft", "rlvr", "harvest", "hard", "fusion_sft", "mixed_rl", "mixed_rl_again", "soup", "export"]


def test_the_recipe_has_the_report_s_stages_in_order() -> None:
    recipe = load_recipe(RECIPE)
    assert [stage.name for stage in recipe.stages] == STAGES
    assert [stage.name for stage in recipe.training] == [*STAGES[:2], *STAGES[4:7]]
    assert [recipe.parents(stage) for stage in recipe.stages] == [
        *(["base"], ["longcot_sft"], [], [], ["rlvr"], ["fusion_sft"], ["fusion_sft"]),
        *(["mixed_rl", "mixed_rl_again"], ["soup"]),
    ]
    assert isinstance(recipe.stages[2], HarvestStage)
    assert sources_of(recipe.data.mixtures, "fusion") == {"harvest": 0.1, "direct": 0.9}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.harvest.rollouts=mixed_rl", "there is no RL stage 'mixed_rl' before it"),
        ("stages.harvest.minimum={truth: 1}", "minimum names 'truth', but stage rlvr has the rewards answer"),
        ("logging.rollouts_gib=0", "there are no rollouts to harvest"),
        ("stages.mixed_rl.data=harvest", "mixed_rl.data is 'harvest', a harvest; harvests are for SFT stages"),
        ("data.mixtures.mixed={harvest: 0.5, rl: 0.5}", "mixed_rl.data is 'harvest', a harvest"),
        ("stages.fusion_sft.data=hard", "fusion_sft.data is 'hard', rows filtered for RL; they have no completions"),
        ("data.mix_by=tokens", "mixed_rl.data is 'mixed', a mixture; they are for SFT, and by samples for RL"),
        ("evaluation.data=hard", "evaluation.data is 'hard', rows filtered for RL"),
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


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A short run of all stages, and the command that ran it."""
    folder = tmp_path_factory.mktemp("fusion")
    (folder / "my_reward.py").write_text(
        "def any_length(completions):\n    return [1.0 for _ in completions]\n"
        "def odd(completions):\n    return [float(len(c[0]['content']) % 2) for c in completions]\n"
    )
    shortened = [option for option in SHORT if not option.startswith("data.kwargs")]
    command = [
        *("-m", "sail_rl", "run", str(RECIPE), f"output_dir={folder / 'run'}", *shortened),
        "data.kwargs={sft_rows: 64, rl_rows: 24, heldout_rows: 8, direct_rows: 16}",
        f"stages.rlvr.rewards.any={{path: '{folder}/my_reward.py:any_length', weight: 0.01}}",
        f"stages.rlvr.rewards.odd={{path: '{folder}/my_reward.py:odd', weight: 0.01}}",
        *("stages.hard.minimum={odd: 1}", "stages.hard.keep=perception"),
        *("stages.harvest.minimum={any: 1}", "stages.harvest.where={source: [sum, count, maximum]}"),
        *("stages.fusion_sft.steps=2", "stages.fusion_sft.batch_size=8", "stages.fusion_sft.save_every=2"),
    ]
    for name in ("mixed_rl", "mixed_rl_again"):
        changes = ("steps=2", "save_every=2", "sampling={prompts_per_step: 4, samples_per_prompt: 4, max_tokens: 24}")
        command += [f"stages.{name}.{change}" for change in changes]
    finish(command)
    return folder / "run", command


def made(run: Path) -> dict[str, int]:
    """When each stage's result was written."""
    return {name: (run / f"stages/{name}/result.json").stat().st_mtime_ns for name in STAGES}


def weights(model: Path) -> dict[str, torch.Tensor]:
    return dict(load_model(model).named_parameters())


@pytest.mark.slow
@pytest.mark.timeout(600)
class TestAShortRun:
    def test_goes_through_all_stages(self, finished: tuple[Path, list[str]]) -> None:
        run, _ = finished
        assert [stage["name"] for stage in json.loads((run / "summary.json").read_text())["stages"]] == STAGES
        data = run / "stages/harvest/data.parquet"
        rows, counts = Rows(data, needs=("completion",)), json.loads(data.with_name("counts.json").read_text())
        assert len(rows) == counts["kept"] <= counts["prompts"]
        assert {row["source"] for row in rows} <= {"sum", "count", "maximum"}
        hard = Rows(run / "stages/hard/data.parquet")
        assert 0 < len(hard) <= 24
        assert all(0 <= row["pass_rate"] < 1 for row in hard)
        trained_on = {prompt.split("/")[0] for step in read_jsonl(run / "prompts_seen.jsonl")
                      if step["stage"] == "mixed_rl" for prompt in step["prompt_ids"]}  # fmt: skip
        assert trained_on == {"hard", "rl"}
        sources = {row["source"] for row in Rows(run / "data/heldout.parquet")}
        thinking = {name for record in steps(run).values() for name in record if "thinking/" in name}
        assert thinking == {f"eval/heldout/thinking/{source}" for source in sources}

    def test_the_soup_is_the_mean_and_is_what_is_exported(self, finished: tuple[Path, list[str]]) -> None:
        run, _ = finished
        one, other, soup = (weights(run / f"stages/{name}/model") for name in ("mixed_rl", "mixed_rl_again", "soup"))
        exported = weights(run / "stages/export/export")
        differing = 0
        for name, tensor in soup.items():
            torch.testing.assert_close(tensor, (one[name] + other[name]) / 2)
            assert torch.equal(tensor, exported[name])
            differing += not torch.equal(one[name], other[name])
        assert differing > len(soup) / 2, "another seed, another model"

    def test_the_export_tells_the_lineage(self, finished: tuple[Path, list[str]]) -> None:
        folder = finished[0] / "stages/export/export"
        lineage = json.loads((folder / "lineage.json").read_text())
        by_name = {entry["stage"]: entry for entry in lineage}
        assert sorted(by_name) == sorted(STAGES[:-1])
        told = list(by_name)
        for entry in lineage:  # oldest first
            needed = [parent["stage"] for parent in entry["parents"] if parent["stage"] != "base"]
            needed += [source["stage"] for source in entry["data"].values() if "stage" in source]
            assert all(told.index(name) < told.index(entry["stage"]) for name in needed)
        assert [parent["stage"] for parent in by_name["soup"]["parents"]] == ["mixed_rl", "mixed_rl_again"]
        assert by_name["soup"]["parents"][0]["key"] == by_name["mixed_rl"]["key"]
        assert set(by_name["mixed_rl"]["data"]) == {"hard", "rl"}
        assert set(by_name["fusion_sft"]["data"]) == {"direct", "harvest"}
        assert by_name["rlvr"]["metrics"]["heldout_accuracy_after"] is not None
        assert by_name["rlvr"]["versions"]["torch"] == version("torch")
        assert {"curves.png", "README.md", "chat_template.jinja", "generation_config.json"} <= {
            path.name for path in folder.iterdir()
        }
        card = (folder / "README.md").read_text()
        assert yaml.safe_load(card.split("---")[1])["library_name"] == "transformers"
        assert "| soup | soup | mixed_rl, mixed_rl_again |" in card

    def test_what_is_done_is_not_done_again(self, finished: tuple[Path, list[str]]) -> None:
        run, command = finished
        before, soup = made(run), weights(run / "stages/soup/model")
        for name in ("summary.json", "stages/soup/result.json", "stages/export/result.json"):  # killed in the soup
            (run / name).unlink()
        finish(command)
        after = made(run)
        assert [name for name in STAGES if after[name] != before[name]] == ["soup", "export"]
        assert all(torch.equal(tensor, soup[name]) for name, tensor in weights(run / "stages/soup/model").items())

    def test_redo_does_again_what_changed(self, finished: tuple[Path, list[str]]) -> None:
        run, command = finished
        before, changed = made(run), [*command, "stages.mixed_rl_again.steps=1"]
        with pytest.raises(subprocess.CalledProcessError) as error:
            finish(changed)
        assert "--redo to rerun only the stages that change" in error.value.stderr
        with pytest.raises(
            subprocess.CalledProcessError
        ) as error:  # longer than the other one: not a soup of similar runs
            finish([*changed, "--redo"])
        assert "stages.mixed_rl.steps is 2 and 1" in error.value.stderr
        assert (run / "stages/mixed_rl_again/result.json").stat().st_mtime_ns > before["mixed_rl_again"]
        finish([*changed, "stages.soup.force=true", "--redo"])
        after = made(run)
        assert [name for name in STAGES if after[name] != before[name]] == STAGES[6:]
        assert max(step for stage, step in steps(run) if stage == "mixed_rl_again") == 1
