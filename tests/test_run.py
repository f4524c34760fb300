"""Whole runs of the quickstart, shortened: real vLLM, real DeepSpeed, real processes, real kills."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import picture
from launching import Fork, environment, finish, finish_ranks, free_port
from transformers import AutoModelForImageTextToText, AutoProcessor

from sail_rl.records.jsonl import read_jsonl

pytestmark = pytest.mark.slow

OFFLINE = {"WANDB_MODE": "offline"}
SHORT = [
    "data.kwargs={sft_rows: 64, rl_rows: 24, heldout_rows: 8}",
    "evaluation.every=2",
    "evaluation.max_tokens=24",
    "stages.longcot_sft.steps=4",
    "stages.longcot_sft.batch_size=8",
    "stages.longcot_sft.save_every=2",
    "stages.rlvr.steps=6",
    "stages.rlvr.sampling.prompts_per_step=4",
    "stages.rlvr.sampling.samples_per_prompt=4",
    "stages.rlvr.sampling.max_tokens=24",
    "stages.rlvr.save_every=2",
]
# An untrained policy never answers right; these rewards differ between its samples all the same.
REWARD = """
def length(completions, answer, images, **_):
    assert all(len(pictures) == 1 for pictures in images)
    return [len(completion[0]["content"]) % 7 / 7 for completion in completions]

def rare(completions, **_):
    return [float(len(completion[0]["content"]) % 3 == 0) for completion in completions]
"""


def command(folder: Path, *overrides: str) -> list[str]:
    """Arguments of Python for a shortened run in this folder."""
    reward = folder.parent / "my_reward.py"
    reward.write_text(REWARD)
    return [
        *("-m", "sail_rl", "run", "recipes/quickstart.yaml", f"output_dir={folder}"),
        *SHORT,
        f"stages.rlvr.rewards.length={{path: '{reward}:length', weight: 0.5}}",
        *overrides,
    ]


def run(folder: Path, *overrides: str, ranks: int = 1) -> Path:
    """A run in forks, to its end."""
    if ranks > 1:
        finish_ranks(command(folder, *overrides), ranks=ranks, **OFFLINE)
    else:
        finish(command(folder, *overrides), **OFFLINE)
    return folder


def really(folder: Path, *overrides: str, ranks: int = 1, **options: Any) -> subprocess.Popen[str]:
    """The same as its users start it: by `python -m sail_rl`, or by torchrun."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(ranks), "--master_port", str(free_port())]
    started = [sys.executable, *(launcher if ranks > 1 else []), *command(folder, *overrides)]
    return subprocess.Popen(started, env=environment(**OFFLINE), text=True, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`finished(llm)`: folder of an uninterrupted run on one rank."""

    @cache
    def build(llm: str = "qwen3") -> Path:
        return run(tmp_path_factory.mktemp(llm) / "run", f"model.llm={llm}")

    return build


COURSE = {"loss", "grad_norm", "entropy", "reward/total/mean", "rollout/length_mean", "eval/heldout/length_mean"}
COURSE |= {"moe/aux_loss", "moe/z_loss", "moe/entropy", "moe/dead_experts/1", "moe/load/3/7"}


def steps(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    records = read_jsonl(folder / "metrics.jsonl")
    assert len({(r["stage"], r["step"]) for r in records}) == len(records), "a step was logged twice"
    return {(r["stage"], r["step"]): r for r in records}


def seen(folder: Path) -> list[list[str]]:
    return [record["prompt_ids"] for record in read_jsonl(folder / "prompts_seen.jsonl")]


def assert_same_course(left: Path, right: Path, *, tolerance: float) -> None:
    """Equal losses, rewards, lengths and held-out accuracies, step by step."""
    one, other = steps(left), steps(right)
    assert one.keys() == other.keys()
    for place, record in one.items():
        for name in COURSE & record.keys():
            assert record[name] == pytest.approx(other[place][name], abs=tolerance, rel=tolerance), (place, name)
    assert seen(left) == seen(right)


@pytest.mark.parametrize("llm", ["qwen3", "qwen3_moe"])
def test_the_quickstart_writes_all_it_promises(llm: str, finished: Callable[[str], Path]) -> None:
    folder = finished(llm)
    summary = json.loads((folder / "summary.json").read_text())
    assert [stage["name"] for stage in summary["stages"]] == ["longcot_sft", "rlvr"]
    for stage in summary["stages"]:
        assert stage["minutes"] > 0
        assert 0 <= stage["heldout_accuracy_before"] <= 1
        assert 0 <= stage["heldout_accuracy_after"] <= 1
    assert summary["stages"][0]["heldout_accuracy_after"] == summary["stages"][1]["heldout_accuracy_before"]
    for name in ("report.html", "curves.png", "recipe.yaml", "versions.json", "traces.jsonl"):
        assert (folder / name).stat().st_size > 0
    records = steps(folder)
    assert [step for stage, step in records if stage == "rlvr"] == list(range(7))
    for (stage, step), record in records.items():
        if stage == "rlvr" and step:
            assert record["mismatch/max"] < 1e-4
            assert record["rollout/weights_version"] == step
            assert {"reward/answer/mean", "reward/format/mean", "reward/length/mean"} <= record.keys()
            assert ("moe/aux_loss" in record) == (llm == "qwen3_moe")
    assert any(record["grad_norm"] > 0 for (stage, _), record in records.items() if stage == "rlvr" and _)


def test_every_prompt_is_seen_exactly_once(finished: Callable[[str], Path]) -> None:
    prompts = [prompt for step in seen(finished("qwen3")) for prompt in step]
    assert len(prompts) == 24
    assert len(set(prompts)) == 24  # six steps of four prompts: one pass over the 24 rows


@pytest.mark.parametrize("place", ["stages/rlvr/model", "stages/rlvr/checkpoint-6"])
def test_a_checkpoint_loads_in_plain_transformers(place: str, finished: Callable[[str], Path]) -> None:
    folder = finished("qwen3") / place
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is the sum?"}]}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = processor(images=[picture(0)], text=text, return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=4).shape[1] > inputs["input_ids"].shape[1]


def test_training_changes_vision_tower_adapter_and_language_model(finished: Callable[[str], Path]) -> None:
    folder = finished("qwen3")
    before, after = (
        AutoModelForImageTextToText.from_pretrained(folder / place).state_dict()
        for place in ("stages/longcot_sft/model", "stages/rlvr/model")
    )
    changed = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"vision_tower", "multi_modal_projector", "language_model", "weight"}


@pytest.mark.timeout(600)
def test_killed_in_the_rl_stage_and_run_again_equals_uninterrupted(
    finished: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = killed_at_step_three(tmp_path / "run")
    (folder / "stages/rlvr/checkpoint-4").mkdir(exist_ok=True)  # at worst, the kill leaves half a checkpoint
    run(folder)
    assert_same_course(finished("qwen3"), folder, tolerance=1e-6)


@pytest.mark.timeout(600)
def test_so_does_a_run_that_samples_ahead_in_a_process_of_its_own(tmp_path: Path) -> None:
    ahead = ["engine.path=rollouts.workers:WorkerEngine", "stages.rlvr.sampling.staleness=1"]
    ahead.append("engine.kwargs={workers: 1, threads: 1, kv_cache_gib: 0.1}")
    straight = run(tmp_path / "straight", *ahead)
    behind = [record["rollout/staleness"] for record in steps(straight).values() if "rollout/staleness" in record]
    assert behind == [0, 1] * 3, "a checkpoint is taken after every second step"
    folder = killed_at_step_three(tmp_path / "run", *ahead)
    assert_same_course(straight, run(folder, *ahead), tolerance=1e-6)


def killed_at_step_three(folder: Path, *overrides: str) -> Path:
    with Fork(command(folder, *overrides), env=environment(**OFFLINE)) as process:
        deadline = time.monotonic() + 240
        # Step 3 is logged, the newest checkpoint is that of step 2: step 3 has to be forgotten and done again.
        while ("rlvr", 3) not in {(r["stage"], r["step"]) for r in read_jsonl(folder / "metrics.jsonl")}:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert not (folder / "summary.json").exists()
    return folder


@pytest.mark.timeout(700)
def test_killed_before_many_a_write_and_at_random_moments_loses_and_repeats_nothing(tmp_path: Path) -> None:
    """With all that has to survive: surplus groups, the prompts' cursor, the line search of a learning rate."""
    overrides = ["stages.rlvr.sampling.dynamic_sampling={max_rounds: 2}"]
    overrides += ["stages.rlvr.mini_batches=2", "stages.rlvr.steps=8"]
    overrides += ["stages.longcot_sft.adalrs={window: 3}", "stages.longcot_sft.save_every=3"]
    overrides += ["stages.longcot_sft.steps=9"]
    overrides.append(f"stages.rlvr.rewards.length={{path: '{tmp_path}/my_reward.py:rare'}}")
    straight, folder = run(tmp_path / "straight", *overrides), tmp_path / "killed"
    ends = [killed_before_write(number, folder, *overrides) for number in (2, 8, 26, 14)]
    for further in (3, 4):
        kill_after(further, folder, *overrides)
    ends += [killed_before_write(number, folder, *overrides) for number in (13, 16, 21, 26)]
    assert ends.count(True) >= 6, "this run has fewer writes than it had"
    run(folder, *overrides)
    assert_same_course(straight, folder, tolerance=1e-6)
    assert {r["sampling/surplus"] for r in steps(straight).values() if "sampling/surplus" in r} != {0}


def killed_before_write(number: int, folder: Path, *overrides: str) -> bool:
    """Go on with a run in a process that kills itself before this durable write; whether it got there."""
    with Fork(command(folder, *overrides), kill_at=number, env=environment(**OFFLINE)) as fork:
        assert fork.wait(280) in (0, -signal.SIGKILL)
    return fork.returncode != 0


def kill_after(further: int, folder: Path, *overrides: str) -> None:
    """Go on with a run, and kill it a random time after it has logged so many steps more."""
    before = len(read_jsonl(folder / "metrics.jsonl"))
    with really(folder, *overrides) as process:
        deadline = time.monotonic() + 240
        while len(read_jsonl(folder / "metrics.jsonl")) < before + further:
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(random.Random(further).uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)


def test_a_full_disk_stops_the_run_and_with_room_again_it_goes_on(
    finished: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    # The model fits (10 MB), a checkpoint's optimiser states don't.
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (15 << 20,) * 2); import runpy; "
    arguments = command(folder)[2:]
    program = f"{limit} sys.argv = ['sail-rl', *{arguments!r}]; runpy.run_module('sail_rl', run_name='__main__')"
    stopped = finish(["-c", program], check=False, **OFFLINE)
    assert stopped.returncode != 0
    assert "GiB are free there. The previous checkpoint is intact" in stopped.stderr
    assert not list(folder.glob("stages/*/checkpoint-*/COMPLETE"))
    assert_same_course(finished("qwen3"), run(folder), tolerance=1e-6)


def test_a_rank_that_dies_takes_the_job_down_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with really(folder, ranks=2, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while not (folder / "metrics.jsonl").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        ranks = [child for child in psutil.Process(process.pid).children() if "sail_rl" in child.cmdline()]
        assert len(ranks) == 2
        ranks[1].send_signal(signal.SIGKILL)
        stderr = process.communicate(timeout=60)[1]
    assert process.returncode != 0
    assert "Signal 9 (SIGKILL)" in stderr
    assert not any(rank.is_running() and rank.status() != psutil.STATUS_ZOMBIE for rank in ranks)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("llm", "zero_stage"), [("qwen3", 2), ("qwen3", 3), ("qwen3_moe", 2)])
def test_two_ranks_equal_one(llm: str, zero_stage: int, finished: Callable[[str], Path], tmp_path: Path) -> None:
    # Without this ZeRO-3 would keep every tensor of so small a model whole.
    overrides = ["deepspeed.zero_options={stage3_param_persistence_threshold: 0}"] if zero_stage == 3 else []
    overrides += [f"model.llm={llm}", f"deepspeed.zero_stage={zero_stage}"]
    folder = tmp_path / "run"
    if zero_stage == 3:
        with really(folder, *overrides, ranks=2) as process:
            assert process.wait(280) == 0
    else:
        run(folder, *overrides, ranks=2)
    assert_same_course(finished(llm), folder, tolerance=1e-4)


def test_a_finished_run_is_reported_again_and_another_recipe_is_refused(finished: Callable[[str], Path]) -> None:
    folder = finished("qwen3")
    before = (folder / "metrics.jsonl").read_text()
    run(folder, "model.llm=qwen3")
    assert (folder / "metrics.jsonl").read_text() == before
    with really(folder, "seed=99", stderr=subprocess.PIPE) as refused:
        stderr = refused.communicate(timeout=120)[1]
    assert refused.returncode == 2
    assert "holds a run of another recipe" in stderr
    assert "Traceback" not in stderr


def test_a_gap_between_engine_and_trainer_stops_the_run(tmp_path: Path) -> None:
    stopped = finish(command(tmp_path / "run", "engine.mismatch.mean=1e-12"), check=False)
    assert stopped.returncode != 0
    assert "log-probs of the rollout engine and of the trainer differ too much: mean " in stopped.stderr
