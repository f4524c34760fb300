"""Recipes: what is wrong is found before any model loads, and said so that it can be mended."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sail_rl.config import Recipe, RLStage
from sail_rl.config.algorithms import ALGORITHMS, SHARED, laid_over
from sail_rl.config.loading import dump_recipe, load_recipe, read_tree
from sail_rl.config.result_settings import result_settings
from sail_rl.imports import resolve
from sail_rl.plan.datasets import build_data
from sail_rl.plan.plan import check_code, make_plan
from sail_rl.plan.rewards import make_terms
from sail_rl.run.lineage import stage_keys
from sail_rl.run.threads import describe_threads

RECIPES = sorted(path for path in Path("recipes").glob("**/*.yaml") if not path.name.startswith("curate"))
QUICKSTART = Path("recipes/quickstart.yaml")


@pytest.mark.parametrize("path", RECIPES, ids=str)
def test_every_shipped_recipe_parses_and_names_code_that_exists(path: Path) -> None:
    check_code(load_recipe(path), world_size=1)


def test_overrides_reach_sections_and_stages_by_name() -> None:
    recipe = load_recipe(QUICKSTART, ["model.llm=qwen3_moe", "stages.rlvr.steps=7", "seed=3"])
    assert recipe.model.llm == "qwen3_moe"
    assert recipe.seed == 3
    assert next(stage.steps for stage in recipe.stages if stage.name == "rlvr") == 7


def test_a_resolved_recipe_loads_back_the_same(tmp_path: Path) -> None:
    recipe = load_recipe(QUICKSTART)
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe))
    absolute = recipe.model_copy(update={"output_dir": recipe.output_dir.absolute()})
    assert load_recipe(tmp_path / "r.yaml") == absolute


def test_a_recipe_that_extends_another_holds_only_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    changes = {"extends": str(QUICKSTART.resolve()), "name": "mine", "model": {"max_length": 200}}
    path.write_text(
        yaml.safe_dump(changes | {"stages": {"longcot_sft": None, "rlvr": {"steps": 7, "loss": {"clip_low": 0.1}}}})
    )
    recipe, base = load_recipe(path), load_recipe(QUICKSTART.resolve())
    assert recipe.model == base.model.model_copy(update={"max_length": 200})
    stage = base.stages[1]
    assert isinstance(stage, RLStage)
    loss = stage.loss.model_copy(update={"clip_low": 0.1})
    assert recipe.stages == [stage.model_copy(update={"steps": 7, "loss": loss})]
    path.write_text(yaml.safe_dump(changes | {"stages": {"rl": {"steps": 7}}}))
    with pytest.raises(ValueError, match="no stage rl in what it extends, which has longcot_sft, rlvr"):
        load_recipe(path)


def test_an_override_reaches_one_stage_though_another_was_written_by_the_same_anchor() -> None:
    recipe = load_recipe(Path("recipes/think_fusion_quickstart.yaml"), ["stages.mixed_rl.sampling.max_tokens=24"])
    one, other = recipe.stage("mixed_rl"), recipe.stage("mixed_rl_again")
    assert isinstance(one, RLStage)
    assert isinstance(other, RLStage)
    assert (one.sampling.max_tokens, other.sampling.max_tokens) == (24, 64)


def test_the_report_s_batch_algebra_is_expressible() -> None:
    """2,048 rollouts, mini-batches of 512, 8 gradient updates (report, section 4.2)."""
    overrides = ["sampling.prompts_per_step=256", "sampling.samples_per_prompt=8"]
    overrides += ["mini_batches=4", "epochs=2", "save_every=8"]
    recipe = load_recipe(QUICKSTART, [f"stages.rlvr.{override}" for override in overrides])
    said = check_code(recipe, world_size=8)["rlvr"]
    assert said == (
        "256 prompts x 8 samples = 2048 rollouts -> 8 optimiser step(s) of 512 (4 mini-batch(es) x 2 epoch(s)), "
        "on 8 rank(s)"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("advantages=gae", "`advantages: gae` and `critic` belong together"),
        ("critic={kind: head}", "`advantages: gae` and `critic` belong together"),
        ("loss.importance={mode: mask}", "set old_logprobs: trainer"),
        ("critic={kind: value}", "critic.kind: Input should be 'head' or 'model'"),
        ("sampling.dynamic_sampling={rounds: 3}", "unknown key 'rounds'; the nearest valid key is 'max_rounds'"),
        ("sampling.partial_tokens=4096", "partial_tokens is 4096, and a completion has at most max_tokens"),
    ],
)
def test_settings_of_an_algorithm_that_don_t_fit_together_are_refused(change: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(QUICKSTART, [f"stages.rlvr.{change}"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages.rlvr.sampling.staleness=1"], "staleness 1 takes an engine in processes of its own"),
        (
            ["stages.rlvr.sampling.partial_tokens=8", "engine.path=rollouts.hf:HFEngine"],
            "continues rollouts of an older policy",
        ),
        (["stages.rlvr.sampling.routing_replay=true"], "routing_replay is for an MoE, and this model is dense"),
        (
            ["stages.rlvr.sampling.routing_replay=true", "model.llm=qwen3_moe", "engine.path=rollouts.hf:HFEngine"],
            "routing_replay takes an engine that captures routed experts, which rollouts.hf:HFEngine doesn't",
        ),
    ],
)
def test_what_the_engine_or_the_model_can_t_do_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_code(load_recipe(QUICKSTART, overrides), world_size=1)


def test_threads_that_get_in_each_other_s_way_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    assert describe_threads(2, {"workers": 3, "threads": 1}) == (
        "10 OpenMP threads (2 rank(s) x 2 + 6 worker(s) x 1) on 2 core(s)"
    )
    assert describe_threads(1, {}) == "2 OpenMP threads (1 rank(s) x 2) on 2 core(s)"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    describe_threads(1, {})
    assert not caplog.records
    describe_threads(1, {"workers": 1})
    assert "set OMP_WAIT_POLICY=PASSIVE, or OMP_NUM_THREADS to 1" in caplog.text


def test_a_run_may_go_on_with_another_setting_only_where_results_don_t_depend_on_it() -> None:
    def tree(*overrides: str) -> dict[str, Any]:
        return result_settings(yaml.safe_load(dump_recipe(load_recipe(QUICKSTART, ["output_dir=run", *overrides]))))

    harmless = ["stages.rlvr.save_every=20", "engine.mismatch.mean=1", "logging.traces_per_step=9"]
    assert tree(*harmless) == tree()
    for change in ("seed=1", "stages.rlvr.optimizer.learning_rate=1", "stages.rlvr.rewards.answer.weight=0.1"):
        assert tree(change) != tree()


def test_variants_of_a_recipe_have_folders_of_their_own() -> None:
    assert load_recipe(QUICKSTART).output_dir == Path("runs/quickstart")
    assert load_recipe(QUICKSTART, ["model.llm=qwen3_moe"]).output_dir == Path("runs/quickstart,model.llm=qwen3_moe")
    assert load_recipe(QUICKSTART, ["seed=2", "output_dir=/tmp/x"]).output_dir == Path("/tmp/x")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.lllm=qwen3", r"model.lllm: unknown key 'lllm'; the nearest valid key is 'llm'"),
        (
            "stages.rlvr.prompt_per_step=4",
            r"unknown key 'prompt_per_step'; the nearest valid key is 'sampling.prompts_per_step'",
        ),
        (
            "stages.rlvr.max_tokens=4",
            r" stages.rlvr.max_tokens: unknown key 'max_tokens'; the nearest valid key is 'sampling.max_tokens'",
        ),
        ("stages.rlvr.clip_low=0.1", "unknown key 'clip_low'; the nearest valid key is 'loss.clip_low'"),
        (
            "stages.longcot_sft.learning_rate=1",
            "unknown key 'learning_rate'; the nearest valid key is 'optimizer.learning_rate'",
        ),
        ("stages.rlvr.sampling.advantage=rloo", "unknown key 'advantage'; the nearest valid key is 'advantages'"),
        ("stages.rlvr.rewards.answer.weigth=1", "unknown key 'weigth'; the nearest valid key is 'weight'"),
        ("batch_size=4", "unknown key 'batch_size'; the nearest valid key is 'stages.NAME.batch_size'"),
        ("sede=3", r"unknown key 'sede'; the nearest valid key is 'seed'"),
        ("model.llm=llama", r"model.llm: Input should be 'qwen3' or 'qwen3_moe' \(got 'llama'\)"),
        (
            "stages.rlvr.sampling.samples_per_prompt=1",
            "samples_per_prompt is 1, but advantages 'grpo' compare a prompt's samples",
        ),
        ("stages.rl.steps=4", "no stage 'rl'; the recipe has longcot_sft, rlvr"),
        ("stages.rlvr.steps", "write section.key=value"),
        ("seed.x=1", "'seed' is inside a value|seed is not a section"),
        ("evaluation.rewards={}", "evaluation.rewards has none but no `accuracy`"),
        ("data.files={a: b}", "either `files`"),
        (
            "evaluation.rewards={a/b: {path: 'rewards.answer:math_answer'}}",
            r"evaluation.rewards.a/b: 'a/b' isn't a name; use letters, digits, - and _",
        ),
        ("stages.rlvr.rewards={a b: {path: x}}", r"stages.rlvr.rewards.a b: 'a b' isn't a name"),
        ("evaluation.data=held/out", r"evaluation.data: 'held/out' isn't a name"),
        ("data={files: {sft/cot: a.jsonl}}", r"data.files.sft/cot: 'sft/cot' isn't a name"),
    ],
)
def test_a_wrong_override_is_named_with_its_remedy(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(QUICKSTART, [override])


@pytest.mark.parametrize(
    ("overrides", "world_size", "message"),
    [
        (["stages.longcot_sft.batch_size=9"], 2, r"batch_size 9 / 2 ranks = 4.5 samples a rank; make .* multiple of 2"),
        (["stages.rlvr.sampling.prompts_per_step=6"], 4, "prompts_per_step 6 / 4 ranks = 1.5 prompts"),
        (
            ["stages.rlvr.mini_batches=4", "stages.rlvr.sampling.prompts_per_step=6"],
            1,
            "prompts_per_step 6 / 4 mini_batches = 1.5 prompts; make prompts_per_step a multiple of 4",
        ),
        (
            ["stages.rlvr.mini_batches=4", "stages.rlvr.steps=90"],
            1,
            r"steps 90 / \(4 mini_batches x 1 epochs\) is not whole",
        ),
        (
            ["stages.rlvr.mini_batches=2", "stages.rlvr.steps=80", "stages.rlvr.save_every=5"],
            1,
            r"save_every 5 / \(2 mini_batches x 1 epochs\) is not whole",
        ),
    ],
)
def test_batches_that_don_t_come_out_even_show_the_algebra(overrides: list[str], world_size: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_code(load_recipe(QUICKSTART, overrides), world_size=world_size)


class TestNamedCode:
    def test_a_reward_file_that_does_not_import_shows_the_real_error(self, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text("import no_such_module\n")
        path = f"stages.rlvr.rewards.answer.path={tmp_path}/mine.py:score"
        with pytest.raises(
            ValueError, match=r"mine.py:score' can't be imported: ModuleNotFoundError: No module named 'no_s"
        ):
            check_code(load_recipe(QUICKSTART, [path]), world_size=1)

    def test_a_name_that_is_not_there_lists_those_that_are(self) -> None:
        with pytest.raises(ValueError, match=r"rewards.format has no 'think_box'; it has .*think_boxed"):
            resolve("rewards.format:think_box")

    def test_a_path_without_a_name_is_explained(self) -> None:
        with pytest.raises(ValueError, match=r"give module:name or file\.py:name"):
            resolve("rewards.format")

    def test_a_missing_file_is_named(self) -> None:
        with pytest.raises(ValueError, match=r"can't be imported: FileNotFoundError: no file .*nowhere.py"):
            resolve("nowhere.py:score")

    def test_a_file_is_imported_once(self, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text("class Score: pass\n")
        assert resolve(f"{tmp_path}/mine.py:Score") is resolve(f"{tmp_path}/mine.py:Score")

    def test_kwargs_are_bound_to_functions_and_given_to_classes(self, tmp_path: Path) -> None:
        (tmp_path / "mine.py").write_text(
            "def add(completions, offset, **_): return [offset for _ in completions]\n"
            "class Add:\n"
            "    def __init__(self, offset): self.offset = offset\n"
            "    def __call__(self, completions, **_): return [self.offset for _ in completions]\n"
        )
        rewards: dict[str, Any] = {
            name: {"path": f"{tmp_path}/mine.py:{name}", "kwargs": {"offset": 2.5}} for name in ("add", "Add")
        }
        tree = read_tree(QUICKSTART) | {"output_dir": "x"}
        tree["stages"][1]["rewards"] = rewards
        stage = Recipe.model_validate(tree).stages[1]
        assert isinstance(stage, RLStage)
        assert [term.function(completions=[[], []]) for term in make_terms(stage.rewards)] == [[2.5, 2.5]] * 2


def test_a_missing_image_is_found_before_any_model_loads(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"prompt": "x", "images": ["gone.png"], "completion": "y", "answer": "1"}\n')
    tree = read_tree(QUICKSTART) | {"output_dir": str(tmp_path / "run")}
    tree["data"] = {"files": dict.fromkeys(("sft", "rl", "heldout"), str(tmp_path / "d.jsonl"))}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(ValueError, match=r"1 of 1 rows have broken pictures: row 0: image 'gone.png' is missing"):
        make_plan(load_recipe(tmp_path / "r.yaml"), {})


def test_a_stage_that_names_no_dataset_is_an_error(tmp_path: Path) -> None:
    tree = read_tree(QUICKSTART)
    tree["data"] = {"files": {"sft": "a.jsonl", "heldout": "a.jsonl"}}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(ValueError, match=r"rlvr.data is 'rl', but data has heldout, sft"):
        load_recipe(tmp_path / "r.yaml")


def test_datasets_are_built_again_when_what_they_are_made_from_changes(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def build(folder, seed, word):\n"
        "    folder.mkdir(parents=True, exist_ok=True)\n"
        "    path = folder / 'rows.jsonl'\n"
        "    path.write_text('{\"prompt\": \"' + word + '\"}')\n"
        "    return {'everything': path}\n"
    )

    def build(word: str) -> str:
        overrides = [
            f"data={{builder: '{tmp_path}/mine.py:build', kwargs: {{word: {word}}}}}",
            f"output_dir={tmp_path}/run",
        ]
        return build_data(load_recipe(QUICKSTART, overrides))["everything"].read_text()

    assert [build("one"), build("one"), build("two")] == [f'{{"prompt": "{word}"}}' for word in ("one", "one", "two")]


def test_an_edited_builder_builds_its_datasets_again_and_changes_every_key(tmp_path: Path) -> None:
    def recipe_with(word: str) -> Recipe:
        code = f"""
def build(folder, seed):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "x.jsonl").write_text('{{"prompt": "{word}"}}')
    return dict.fromkeys(["sft", "rl", "heldout"], folder / "x.jsonl")
"""
        (tmp_path / "mine.py").write_text(code)
        for name in [name for name in sys.modules if name.startswith("sail_rl_user_mine_")]:
            del sys.modules[name]
        return load_recipe(QUICKSTART, [f"data={{builder: '{tmp_path}/mine.py:build'}}", f"output_dir={tmp_path}/run"])

    before = recipe_with("one")
    paths = build_data(before)
    keys = stage_keys(before, paths)
    after = recipe_with("another")
    assert build_data(after)["sft"].read_text() == '{"prompt": "another"}'
    assert [name for name, key in stage_keys(after, paths).items() if keys[name] == key] == []


def test_another_engine_doesn_t_inherit_the_kwargs_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    text = (
        f"extends: {QUICKSTART.resolve()}\nengine: {{path: 'rollouts.workers:WorkerEngine', kwargs: {{workers: 2}}}}\n"
    )
    path.write_text(text)
    (tmp_path / "s.yaml").write_text("extends: r.yaml\nengine: {path: 'rollouts.hf:HFEngine'}\n")
    (tmp_path / "t.yaml").write_text("extends: r.yaml\nengine: {kwargs: {threads: 1}}\n")
    assert load_recipe(tmp_path / "s.yaml").engine.kwargs == {}
    assert load_recipe(tmp_path / "t.yaml").engine.kwargs == {"workers": 2, "threads": 1}


def test_kwargs_that_an_engine_doesn_t_take_are_found_before_it_is_made() -> None:
    override = "engine.kwargs={servers: ['http://x:1'], kv_cache_gib: 1}"
    recipe = load_recipe(QUICKSTART, ["engine.path=rollouts.remote:RemoteEngine", override])
    with pytest.raises(ValueError, match=r"engine.kwargs: rollouts.remote:RemoteEngine: .*'kv_cache_gib'"):
        check_code(recipe, world_size=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: {", "(?s)isn't YAML: .*line 1"),
        ("data: x\nout: y.parquet\nsteps: [unify]", "is a curation recipe; sail-rl data curate runs it"),
        ("name: x\nstages: []", "evaluation: is missing; give it"),
        (
            "extends: {quickstart}\nstages: [{{name: a, kind: stf}}]",
            r"unknown kind 'stf'; the nearest of sft, .* is 'sft'",
        ),
        (
            "extends: {quickstart}\nstages: {{longcot_sft: {{data: h}}, "
            "h: {{kind: harvest, rollouts: rlvr, minimum: {{answer: 1}}}}}}",
            "longcot_sft.data is 'h', which a later stage makes; put h before longcot_sft",
        ),
        (
            "extends: quickstar.yaml",
            r"r.yaml extends quickstar.yaml, but .*quickstar.yaml doesn't exist, and no shipped",
        ),
        ("extends: {quickstart}\nstages: 3", "stages: Input should be a valid list"),
        ("extends: {quickstart}\nmodel: {{max_length: 64}}", "stage rlvr: max_tokens 64 leaves no room for a prompt"),
    ],
)
def test_mistakes_are_explained_in_a_recipe_s_own_words(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text.format(quickstart=QUICKSTART.resolve()) if "extends" in text else text)
    with pytest.raises(ValueError, match=message):
        load_recipe(path)


OLDER = ["stages.rlvr.loss.old_logprobs=trainer", "stages.rlvr.sampling.dynamic_sampling=null"]


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("stages.rlvr.sampling.staleness=1", "staleness 1"),
        ("stages.rlvr.sampling.partial_tokens=4", "partial_tokens"),
        ("stages.rlvr.sampling.dynamic_sampling={max_rounds: 2}", r"dynamic_sampling \(its surplus\)"),
    ],
)
def test_older_rollouts_need_a_correction(override: str, named: str) -> None:
    with pytest.raises(ValueError, match=rf"stage rlvr: with {named}, older weights sample .* add loss\.importance"):
        load_recipe(QUICKSTART, [*OLDER, override])
    load_recipe(QUICKSTART, [*OLDER, override, "stages.rlvr.loss.importance={}"])
    load_recipe(QUICKSTART, [*OLDER, override, "stages.rlvr.loss.old_logprobs=rollout"])
    load_recipe(QUICKSTART, [*OLDER, "stages.rlvr.sampling.dynamic_sampling={max_rounds: 1}"])


@pytest.mark.parametrize("surrogate", ["gspo", "gspo_token"])
def test_gspo_with_the_engine_s_logprobs_needs_a_mismatch_below_its_clip(surrogate: str) -> None:
    gspo = ["stages.rlvr.algorithm=gspo", f"stages.rlvr.loss.surrogate={surrogate}"]
    bfloat16 = [*gspo, "engine.mismatch.mean=0.03"]
    with pytest.raises(ValueError, match=rf"{surrogate} clips at 0\.0003, but engine\.mismatch\.mean allows .* 0\.03"):
        load_recipe(QUICKSTART, [*bfloat16])
    for fine in (gspo, [*bfloat16, *OLDER], [*bfloat16, "stages.rlvr.loss={clip_low: 0.05, clip_high: 0.05}"]):
        load_recipe(QUICKSTART, fine)


@pytest.mark.parametrize("stage", [0, 1])
def test_bfloat16_needs_zero_because_gradients_add_up_in_float32_there(stage: int) -> None:
    with pytest.raises(ValueError, match=f"zero_stage is {stage}, where DeepSpeed doesn't add up the gradients"):
        load_recipe(QUICKSTART, ["model.dtype=bfloat16", f"deepspeed.zero_stage={stage}"])


class TestAlgorithms:
    def test_an_algorithm_is_its_papers_defaults_under_the_stage_s_own_keys(self) -> None:
        stage = load_recipe(QUICKSTART, ["stages.rlvr.algorithm=gspo", "stages.rlvr.loss.clip_low=0.1"]).stages[1]
        assert isinstance(stage, RLStage)
        assert (stage.loss.surrogate, stage.loss.aggregation) == ("gspo", "sequence_mean")
        assert (stage.loss.clip_low, stage.loss.clip_high) == (0.1, 4e-4)
        assert stage.sampling.dynamic_sampling is None, "of the algorithm, not of the recipe before the override"

    @pytest.mark.parametrize("algorithm", ["grpo", "dapo", "cispo"])
    def test_cispo_has_no_lower_limit_unless_one_is_given(self, algorithm: str) -> None:
        overrides = [f"stages.rlvr.algorithm={algorithm}", "stages.rlvr.loss.surrogate=cispo"]
        stage = load_recipe(QUICKSTART, overrides).stages[1]
        assert isinstance(stage, RLStage)
        assert stage.loss.clip_low == 1
        stage = load_recipe(QUICKSTART, [*overrides, "stages.rlvr.loss.clip_low=0.3"]).stages[1]
        assert isinstance(stage, RLStage)
        assert stage.loss.clip_low == 0.3

    @pytest.mark.parametrize("aggregation", ["token_mean", "fixed_length"])
    def test_gspo_is_a_mean_over_completions(self, aggregation: str) -> None:
        with pytest.raises(ValueError, match=f"{aggregation}, but gspo has one ratio for a completion"):
            load_recipe(QUICKSTART, ["stages.rlvr.algorithm=gspo", f"stages.rlvr.loss.aggregation={aggregation}"])

    @pytest.mark.parametrize("name", ALGORITHMS)
    def test_a_section_that_it_leaves_out_can_still_be_overridden_key_by_key(self, name: str) -> None:
        overrides = [f"stages.rlvr.algorithm={name}", "stages.rlvr.loss.kl.coef=0.04"]
        stage = load_recipe(QUICKSTART, [*overrides, "stages.rlvr.sampling.dynamic_sampling.max_rounds=2"]).stages[1]
        assert isinstance(stage, RLStage)
        assert stage.loss.kl is not None
        assert stage.sampling.dynamic_sampling is not None
        assert (stage.loss.kl.coef, stage.sampling.dynamic_sampling.max_rounds) == (0.04, 2)

    def test_the_order_of_overrides_doesn_t_matter(self) -> None:
        overrides = ["output_dir=x", "stages.rlvr.loss.clip_low=0.1", "stages.rlvr.algorithm=gspo"]
        assert load_recipe(QUICKSTART, overrides) == load_recipe(QUICKSTART, overrides[::-1])

    @pytest.mark.parametrize("name", ALGORITHMS)
    def test_its_resolved_recipe_holds_the_values_and_loads_back_the_same(self, name: str, tmp_path: Path) -> None:
        recipe = load_recipe(QUICKSTART, [f"stages.rlvr.algorithm={name}"])
        check_code(recipe, world_size=1)
        (tmp_path / "r.yaml").write_text(dump_recipe(recipe))
        absolute = recipe.model_copy(update={"output_dir": recipe.output_dir.absolute()})
        assert load_recipe(tmp_path / "r.yaml") == absolute
        written = yaml.safe_load((tmp_path / "r.yaml").read_text())["stages"][1]
        assert laid_over(written, laid_over(SHARED, ALGORITHMS[name])) == written

    def test_its_name_alone_changes_no_result(self) -> None:
        tree = load_recipe(QUICKSTART, ["stages.rlvr.algorithm=dapo"]).model_dump(mode="json")
        spelled_out = load_recipe(QUICKSTART, ["stages.rlvr.algorithm=dapo"]).model_dump(mode="json")
        spelled_out["stages"][1]["algorithm"] = None
        assert result_settings(tree) == result_settings(spelled_out)

    def test_an_algorithm_wins_over_the_one_of_the_recipe_that_is_extended(self, tmp_path: Path) -> None:
        base = f"extends: {QUICKSTART.resolve()}\nstages: {{rlvr: {{algorithm: ppo, loss: {{entropy_coef: 0.5}}}}}}\n"
        (tmp_path / "ppo.yaml").write_text(base)
        (tmp_path / "rloo.yaml").write_text("extends: ppo.yaml\nstages: {rlvr: {algorithm: rloo}}\n")
        stage = load_recipe(tmp_path / "rloo.yaml").stages[1]
        assert isinstance(stage, RLStage)
        assert stage.critic is None
        assert stage.advantages == "rloo"
        assert stage.loss.entropy_coef == 0.5, "no algorithm sets it"

    def test_ppo_s_critic_learns_sampled_returns_at_a_rate_of_its_own(self) -> None:
        stage = load_recipe(QUICKSTART, ["stages.rlvr.algorithm=ppo"]).stages[1]
        assert isinstance(stage, RLStage)
        critic = stage.critic
        assert critic
        assert (critic.lam, critic.value_lam, critic.gamma, critic.value_clip) == (1, 1, 1, None)
        assert stage.critic_learning_rate == stage.optimizer.learning_rate
        own = load_recipe(QUICKSTART.with_name("quickstart_ppo.yaml")).stages[1]
        assert isinstance(own, RLStage)
        assert own.critic_learning_rate == 1e-3
        assert load_recipe(QUICKSTART).stages[1].critic_learning_rate is None

    def test_one_that_is_built_in_python_has_them_too(self) -> None:
        tree = yaml.safe_load(QUICKSTART.read_text()) | {"output_dir": "x"}
        tree["stages"][1]["algorithm"] = "dr_grpo"
        stage = Recipe.model_validate(tree).stages[1]
        assert isinstance(stage, RLStage)
        assert stage.advantages == "dr_grpo"
        assert stage.sampling.dynamic_sampling is not None, "the stage's own"

    def test_an_unknown_one_is_named_with_those_that_there_are(self) -> None:
        with pytest.raises(ValueError, match=r"stages.rlvr.algorithm: Input should be 'grpo', 'dapo', 'dr_grpo'"):
            load_recipe(QUICKSTART, ["stages.rlvr.algorithm=trpo"])
