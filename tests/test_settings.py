"""What `sail-rl check` can know: one line names key, value and remedy, and `sail-rl run` says the same first."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sail_rl.cli.main import main
from sail_rl.config.loading import load_recipe
from sail_rl.data.dataset import Rows
from sail_rl.evaluation.evaluate import ScoredCompletion, summarise
from sail_rl.maths.heldout import metric_names
from sail_rl.plan.settings import check_best_metrics, check_positions, check_zero_options, warn_of_warm_ups
from sail_rl.records.wandb_run import check_wandb
from sail_rl.yaml_reading import read_yaml

Say = Callable[..., str]
GUARDS = {"a/b": len}
HF = ["engine.path=rollouts.hf:HFEngine"]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Say:
    """What `sail-rl check` and `sail-rl run` both say about the quickstart with these overrides, in one line."""

    def said(*overrides: str, recipe: str = "quickstart", commands: tuple[str, ...] = ("check", "run")) -> str:
        lines = []
        own = [] if any("output_dir=" in override for override in overrides) else [f"output_dir={tmp_path / 'run'}"]
        for command in commands:
            assert main([command, recipe, *own, *HF, *overrides]) == 2
            lines.append([line for line in capsys.readouterr().err.splitlines() if line.startswith("sail-rl: ")])
        assert all(line == lines[0] and len(line) == 1 for line in lines), lines
        return lines[0][0].removeprefix("sail-rl: ")

    return said


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["stages.rlvr.optimizer.learning_rate=.nan"],
            "stages.rlvr.optimizer.learning_rate is .nan, which is no",
        ),
        (["stages.rlvr.optimizer.learning_rate=-.inf"], "learning_rate: Input should be a finite number (got -inf)"),
        (["evaluation.temperature=.inf"], "evaluation.temperature: Input should be a finite number (got inf)"),
        (["data.kwargs={careless: .nan}"], "data.kwargs.careless is .nan"),
        (["data.kwargs={carelessness: 1}"], "data.kwargs: sail_rl.data.digits:build_digits: got an unexpected keyword"),
        (["model.max_length=2000"], "model.max_length is 2000, but the model has 1024 positions"),
        (["engine.kwargs={workers: 2}"], "engine.kwargs: rollouts.hf:HFEngine: got an unexpected keyword argument"),
        (
            ["deepspeed.zero_options={stage: 3}"],
            "zero_options.stage is 3, which the recipe decides elsewhere; use",
        ),
        (
            ["deepspeed.zero_options={overlap_com: true}"],
            "zero_options.overlap_com is True, which DeepSpeed's",
        ),
        (["stages.rlvr.metric_for_best_model=eval/heldout/acc"], "is 'eval/heldout/acc', which no evaluation reports;"),
        (["logging.wandb_project=team/x"], "wandb_project is 'team/x', but W&B allows no '/'; leave it out"),
        (["evaluation.scorer=os:getcwd"], "scorer os:getcwd: can't be called with the rewards"),
        (["stages.rlvr.guards=os:getcwd"], "guards: os:getcwd is a builtin_function_or_method; name a mapping"),
        (["stages.rlvr.guards=tests/test_settings.py:GUARDS"], "test_settings.py:GUARDS has the name 'a/b'"),
        (
            ["stages.rlvr.rewards.a/b={path: 'rewards.answer:math_answer'}"],
            "rewards.a/b: 'a/b' isn't a name",
        ),
        (["stages.rlvr.rewards.answer.path=rewards.answer:maths"], "rewards.answer has no 'maths'; it has"),
        (["stages.rlvr.steps=-3"], "stages.rlvr.steps: Input should be greater than 0 (got -3)"),
        (["stages=[]"], "stages is empty; name at least one"),
        (["stages.rlvr.sampling.temperature=0"], "sampling.temperature: Input should be greater than 0 (got 0)"),
        (["model.max_length=[1"], "override 'model.max_length=[1': the value isn't YAML"),
    ],
)
def test_a_setting_that_can_t_work_is_named_before_a_model_loads(
    overrides: list[str], message: str, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sail_rl.plan import plan

    monkeypatch.setattr(plan, "build_tiny", lambda *_, **__: pytest.fail("made a model"))
    small = ["data.kwargs={sft_rows: 48, rl_rows: 32, heldout_rows: 4}"]
    assert message in say(*([] if "data.kwargs" in overrides[0] else small), *overrides)


def test_a_stage_that_ends_within_its_warm_up_is_named_but_may_run(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_warm_ups(load_recipe("quickstart", ["stages.rlvr.optimizer.warmup_steps=40"]))
    assert not caplog.records
    ppo = "stages.rlvr.algorithm=ppo"
    warn_of_warm_ups(
        load_recipe("quickstart", [ppo, "stages.rlvr.critic.warmup_steps=41", "stages.longcot_sft.steps=9"])
    )
    assert [record.getMessage().partition("; ")[0] for record in caplog.records] == [
        "stage longcot_sft: optimizer.warmup_steps is 10, but the stage has only 9 steps and ends within its warm-up",
        "stage rlvr: critic.warmup_steps is 41, but the stage has only 40 steps and ends within its warm-up",
    ]


def test_an_output_folder_that_is_a_file_or_can_t_be_written_is_refused(say: Say, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert say(f"output_dir={tmp_path}/file") == f"output_dir {tmp_path}/file is a file; give a folder"
    said = f"can't be made: {tmp_path}/file is a file; give another folder"
    assert say(f"output_dir={tmp_path}/file/inside/it") == f"output_dir {tmp_path}/file/inside/it {said}"
    assert "output_dir /proc/run can't be made: nothing can be written in /proc (" in say("output_dir=/proc/run")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    assert f"{tmp_path / 'broken'} is a file" in say(f"output_dir={tmp_path / 'broken'}/run")


def test_numbers_on_the_command_line_are_above_zero(
    tiny_dir: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "d.jsonl").write_text('{"prompt": "1+1?", "answer": "2"}\n')
    sample = ["sample", str(tiny_dir()), str(tmp_path / "d.jsonl"), "--out", str(tmp_path / "out")]
    for words, message in (
        (["check", "quickstart", "--ranks", "0"], "--ranks is 0; give a number above 0"),
        (["check", "quickstart", "--ranks", "-1"], "--ranks is -1; give a number above 0"),
        (["check", "quickstart", "--gpu-gib", "nan"], "--gpu-gib is nan; give a number above 0"),
        ([*sample, "--n", "0"], "--n is 0; give at least 1"),
        ([*sample, "--batch-size", "-2"], "--batch-size is -2; give at least 1"),
        ([*sample, "--max-tokens", "0"], "--max-tokens is 0; give at least 1"),
        ([*sample, "--max-length", "200"], "--max-tokens 256 leaves no room for a prompt in --max-length 200"),
        ([*sample, "--temperature", "-1"], "--temperature is -1; give a number of at least 0"),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WANDB_MODE": "on"}, "WANDB_MODE is 'on'; give online, offline, disabled"),
        ({"WANDB_MODE": "online"}, "WANDB_MODE is 'online', but no key is configured; set WANDB_API_KEY"),
        ({"WANDB_MODE": "online", "WANDB_API_KEY": "abc"}, "WANDB_API_KEY can't be a key (API key must have 40+"),
        ({"WANDB_API_KEY": "x y" * 20}, "WANDB_API_KEY can't be a key (API key may only contain"),
        ({"WANDB_MODE": "online", "WANDB_API_KEY": "a" * 40}, None),
        ({"WANDB_MODE": "offline"}, None),
        ({"WANDB_MODE": "disabled", "WANDB_API_KEY": "abc"}, None),
        ({}, None),
    ],
)
def test_a_mode_or_key_of_wandb_that_can_t_start_is_refused(
    environment: dict[str, str], message: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (environment | {"NETRC": str(tmp_path / "none")}).items():
        monkeypatch.setenv(name, value)
    if message is None:
        check_wandb()
    else:
        with pytest.raises(ValueError, match="WANDB") as caught:
            check_wandb()
        assert message in str(caught.value)


def test_wandb_s_problem_is_said_by_check(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "onlin")
    assert say() == "WANDB_MODE is 'onlin'; give online, offline, disabled"


@pytest.mark.parametrize(
    ("options", "zero_stage", "message"),
    [
        (
            {"reduce_bucket_size": "large"},
            2,
            "zero_options.reduce_bucket_size is 'large': Input should be a valid integer",
        ),
        ({"stage3_max_live_parameters": 3}, 2, "stage3_max_live_parameters is 3, but deepspeed.zero_stage is 2; leave"),
        ({"offload_optimizer": {"device": "cpu"}}, 2, "use deepspeed.offload_optimizer"),
        ({"reduce_bucket": 3}, 2, "the nearest key is 'reduce_bucket_size'"),
        ({"reduce_bucket_size": 1000, "overlap_comm": True}, 2, None),
        ({"stage3_param_persistence_threshold": 0, "sub_group_size": 10**6}, 3, None),
    ],
)
def test_deepspeed_s_options_are_those_that_deepspeed_reads(
    options: dict[str, Any], zero_stage: int, message: str | None
) -> None:
    recipe = load_recipe("quickstart", [f"deepspeed.zero_stage={zero_stage}", f"deepspeed.zero_options={options}"])
    if message is None:
        check_zero_options(recipe)
    else:
        with pytest.raises(ValueError, match=r"deepspeed\.zero_options") as caught:
            check_zero_options(recipe)
        assert message in str(caught.value)


def test_an_engine_s_options_are_those_that_vllm_reads() -> None:
    from rollouts.vllm_engine import VLLMEngine
    from rollouts.workers import WorkerEngine

    for engine, own in ((VLLMEngine, {}), (WorkerEngine, {"workers": 2})):
        engine.check_options(**own, kv_cache_gib=1.0, options={"gpu_memory_utilization": 0.5, "enforce_eager": True})
        with pytest.raises(ValueError, match=r"options\.gpu_memory is 0\.5, which vLLM's engine can't be given here"):
            engine.check_options(**own, options={"gpu_memory": 0.5})
        with pytest.raises(ValueError, match=r"options\.model is 'x'"):
            engine.check_options(**own, options={"model": "x"})
        with pytest.raises(TypeError, match="unexpected keyword argument 'kv_cache'"):
            engine.check_options(**own, kv_cache=1.0)


def test_a_model_s_positions_are_those_of_its_rope_scaling(tiny_dir: Callable[..., Path], tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(tiny_dir(), tmp_path / "model")
    recipe = load_recipe("quickstart", [f"model.path={folder}", "model.max_length=2048"])
    with pytest.raises(ValueError, match=r"model\.max_length is 2048, but the model has 1024 positions"):
        check_positions(recipe)
    config = json.loads((folder / "config.json").read_text())
    rope = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 1024, "rope_theta": 1e6}
    config["text_config"]["rope_parameters"] = rope
    (folder / "config.json").write_text(json.dumps(config))
    check_positions(recipe)


class Held:
    """A held-out dataset: its rows' sources."""

    def __init__(self, *sources: str | None) -> None:
        self.sources = sources

    def __len__(self) -> int:
        return len(self.sources)

    def metadata(self, index: int) -> dict[str, Any]:
        return {"source": self.sources[index]}


@given(st.integers(1, 9), st.lists(st.sampled_from(["a", "b", None]), min_size=1, max_size=4))
def test_the_known_metrics_are_those_that_an_evaluation_reports(samples: int, sources: list[str | None]) -> None:
    completions = [
        ScoredCompletion("d", str(row), source, "7", True, 3, {"accuracy": 1.0, "format": 0.0})
        for row, source in enumerate(sources)
        for _ in range(samples)
    ]
    known = metric_names(("accuracy", "format"), samples=samples, sources={s for s in sources if s})
    assert set(known) == set(summarise(completions))


def test_the_best_metric_may_be_of_a_source_or_of_several_samples() -> None:
    held: Any = {"heldout": Held("sum", "max/min", None)}
    several = ["evaluation.samples=4", "evaluation.temperature=1"]
    for metric, overrides, right in (
        ("accuracy/sum", [], True),
        ("accuracy/max/min", [], False),
        ("thinking/sum", [], True),
        ("pass@2", [], False),
        ("pass@2", several, True),
        ("maj@4", several, True),
        ("pass@3", several, False),
    ):
        recipe = load_recipe("quickstart", [f"stages.rlvr.metric_for_best_model=eval/heldout/{metric}", *overrides])
        if right:
            check_best_metrics(recipe, held)
        else:
            with pytest.raises(ValueError, match=r"stage rlvr: metric_for_best_model is .*which no evaluation reports"):
                check_best_metrics(recipe, held)
        check_best_metrics(recipe, {})  # not here yet: what it reports isn't known


def test_one_row_can_t_both_choose_the_best_model_and_report(tmp_path: Path) -> None:
    (tmp_path / "one.jsonl").write_text('{"prompt": "1 + 1?", "answer": "2"}\n')
    recipe = load_recipe("quickstart", ["stages.rlvr.metric_for_best_model=eval/heldout/accuracy"])
    with pytest.raises(ValueError, match=r"one\.jsonl has one row, so one half of it can't choose"):
        check_best_metrics(recipe, {"heldout": Rows(tmp_path / "one.jsonl")})


def test_a_key_that_is_given_twice_is_refused(say: Say, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("extends: quickstart\nseed: 1\nmodel:\n  llm: qwen3\nseed: 2\n")
    assert say(recipe=str(tmp_path / "r.yaml")).startswith(
        f"{tmp_path / 'r.yaml'}: the key 'seed' is given twice, in lines 2 and 5; keep one"
    )


def test_yaml_merges_may_be_overridden_but_keys_not_repeated() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b\n  <<: *a\n  x: 3\nc: {<<: *b, y: 4}\nd: {<<: [*a, *b]}\n"
    assert read_yaml(text) == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 3, "y": 2},
        "c": {"x": 3, "y": 4},
        "d": {"x": 1, "y": 2},
    }
    assert read_yaml("1: a\n'1': b") == {1: "a", "1": "b"}
    for twice in ("{a: 1, a: 2}", "a: {b: [{c: 1, c: 2}]}", "- {x: 1, 'x': 2}"):
        with pytest.raises(ValueError, match="is given twice, in lines 1 and 1; keep one"):
            read_yaml(twice)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=10,
)


@given(values)
def test_yaml_without_repeated_keys_reads_as_ever(value: Any) -> None:
    assert read_yaml(yaml.safe_dump(value)) == value
