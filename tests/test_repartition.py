"""A stage resumes with another number of ranks: no number of its optimiser changes, and neither does its course."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from launching import finish_ranks
from test_run import OFFLINE

from sail_rl.config.loading import load_recipe
from sail_rl.records.jsonl import read_jsonl
from sail_rl.run.ranks import check_ranks
from sail_rl.trainer.checkpoints import mark_complete
from sail_rl.trainer.repartition import ranks_of, repartition

SIZES = st.lists(st.integers(1, 30), min_size=1, max_size=6)


def _vector(sizes: list[int], scale: float) -> torch.Tensor:
    return torch.arange(1, sum(sizes) + 1, dtype=torch.float32) * scale


def _write(folder: Path, files: dict[str, dict[str, Any]]) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "global_step3").mkdir(parents=True)
    (folder / "latest").write_text("global_step3")
    (folder / "trainer_state.json").write_text("{}")
    (folder / "rng_state_0.pth").touch()
    for name, content in files.items():
        torch.save(content, folder / "global_step3" / name)
    mark_complete(folder)
    return folder


def _flat_checkpoint(folder: Path, groups: list[list[int]], ranks: int) -> Path:
    """ZeRO-2's files of parameter groups with these sizes, as `ranks` ranks write them."""
    files: dict[str, dict[str, Any]] = {"mp_rank_00_model_states.pt": {"dp_world_size": ranks, "module": {}}}
    for rank in range(ranks):
        weights, state = [], {}
        for index, sizes in enumerate(groups):
            size = 2 * math.ceil(sum(sizes) / (2 * ranks))
            own = slice(rank * size, (rank + 1) * size)
            padded = [torch.nn.functional.pad(_vector(sizes, s), (0, size * ranks - sum(sizes)))[own] for s in (2, 3)]
            weights.append(_vector(sizes, 1)[own])
            state[index] = {"step": torch.tensor(3.0), "exp_avg": padded[0], "exp_avg_sq": padded[1]}
        inner = {"base_optimizer_state": {"state": state, "param_groups": [{"lr": 0.1, "params": [0]}]}}
        inner |= {"single_partition_of_fp32_groups": weights, "zero_stage": 2}
        files[f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"] = {"optimizer_state_dict": inner}
    return _write(folder, files)


def _stage3_checkpoint(folder: Path, groups: list[list[int]], ranks: int, limit: int) -> Path:
    """ZeRO-3's files: each parameter is divided between the ranks, and sub-groups end at `limit` elements of a rank."""
    sub_groups: list[list[tuple[str, torch.Tensor]]] = []
    indices: list[list[int]] = []
    for number, sizes in enumerate(groups):
        indices.append([])
        size, members = 0, []
        for place, count in enumerate(sizes):
            members.append((f"{number}.{place}", torch.arange(count) + 100.0 * (place + 1) + 1000 * number))
            size += math.ceil(count / ranks)
            if size >= limit or place == len(sizes) - 1:
                indices[-1].append(len(sub_groups))
                sub_groups.append(members)
                size, members = 0, []

    def part(rank: int, members: list[tuple[str, torch.Tensor]], scale: float) -> torch.Tensor:
        pieces = []
        for _, values in members:
            size = math.ceil(len(values) / ranks)
            pieces.append(torch.nn.functional.pad(values * scale, (0, size * ranks - len(values))).split(size)[rank])
        return torch.cat(pieces)

    shapes = [{name: values.shape for name, values in members} for members in sub_groups]
    files: dict[str, dict[str, Any]] = {}
    for rank in range(ranks):
        state = {
            index: {"step": torch.tensor(3.0), "exp_avg": part(rank, own, 2), "exp_avg_sq": part(rank, own, 3)}
            for index, own in enumerate(sub_groups)
        }
        inner = {"state": state, "param_groups": [{"lr": 0.1, "params": own} for own in indices]}
        outer = {"optimizer_state_dict": inner, "zero_stage": 3, "partition_count": ranks}
        outer["fp32_flat_groups"] = [part(rank, members, 1) for members in sub_groups]
        config = {"zero_optimization": {"stage": 3, "sub_group_size": limit}}
        files[f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"] = {"optimizer_state_dict": outer, "ds_config": config}
        files[f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt"] = {"param_shapes": shapes, "dp_world_size": ranks}
    return _write(folder, files)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


def _same_files(made: Path, expected: Path, ignored: set[str]) -> None:
    names = sorted(path.name for path in (expected / "global_step3").iterdir())
    assert sorted(path.name for path in (made / "global_step3").iterdir()) == names
    for name in names:
        own, wanted = (torch.load(f / "global_step3" / name, weights_only=False) for f in (made, expected))
        for content in (own, wanted):
            content.pop("param_shapes", None)  # by sub-group; DeepSpeed takes those of the job
            for key in ignored:
                content.get("optimizer_state_dict", {}).pop(key, None)
        assert _equal(own, wanted), name


@settings(deadline=None, max_examples=40)
@given(st.lists(SIZES, min_size=1, max_size=2), st.integers(1, 4), st.integers(1, 4), st.integers(1, 20))
def test_a_rewritten_checkpoint_is_the_one_that_the_other_ranks_would_have_written(
    tmp_path_factory: pytest.TempPathFactory, groups: list[list[int]], before: int, ranks: int, limit: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    for write in (_flat_checkpoint, lambda *given: _stage3_checkpoint(*given, limit)):
        old, expected, made = write(folder / "old", groups, before), write(folder / "new", groups, ranks), folder / "to"
        shutil.rmtree(made, ignore_errors=True)
        for number in reversed(range(ranks)):
            repartition(old, made, number=number, ranks=ranks)
        assert ranks_of(made) == ranks
        _same_files(made, expected, {"group_paddings", "partition_count"})
        assert {path.name for path in made.iterdir()} == {"latest", "trainer_state.json", "global_step3"}


def test_a_layout_that_depends_on_the_number_of_ranks_is_refused_before_anything_loads(tmp_path: Path) -> None:
    options = ["deepspeed.zero_options={round_robin_gradients: true}", f"output_dir={tmp_path}"]
    recipe = load_recipe("quickstart", options)
    check_ranks(recipe, ranks=4)
    _flat_checkpoint(tmp_path / "stages/rlvr/checkpoint-3", [[4, 5]], 2)
    check_ranks(recipe, ranks=2)
    with pytest.raises(ValueError, match=r"stage rlvr: .*checkpoint-3 was written by 2 rank\(s\), and this job has 4"):
        check_ranks(recipe, ranks=4)
    check_ranks(load_recipe("quickstart", options[1:]), ranks=4)
    _stage3_checkpoint(tmp_path / "stages/rlvr/checkpoint-3", [[8, 8]], 2, limit=9)
    with pytest.raises(ValueError, match="several sub-groups"):
        check_ranks(load_recipe("quickstart", options[1:]), ranks=1)
    _stage3_checkpoint(tmp_path / "stages/rlvr/checkpoint-3", [[8, 8]], 2, limit=16)
    check_ranks(load_recipe("quickstart", options[1:]), ranks=1)


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
@pytest.mark.parametrize(("before", "ranks"), [(1, 2), (2, 1)])
def test_a_stage_that_resumes_with_other_ranks_learns_as_if_it_had_kept_them(
    before: int, ranks: int, zero_stage: int, tmp_path: Path
) -> None:
    """Float32 sums over other micro-batches differ in their last digits; a lost moment would change 1e-3 and more."""
    run = tmp_path / "run"
    command = [
        "-m",
        "sail_rl",
        "run",
        "recipes/quickstart.yaml",
        f"output_dir={run}",
        "engine.path=rollouts.hf:HFEngine",
    ]
    command += ["data.kwargs={sft_rows: 64, rl_rows: 16, heldout_rows: 4}", "evaluation.max_tokens=4"]
    command += ["stages.longcot_sft.steps=6", "stages.longcot_sft.batch_size=8", "stages.longcot_sft.save_every=3"]
    command += ["stages.longcot_sft.optimizer.warmup_steps=2", f"deepspeed.zero_stage={zero_stage}"]
    command += ["stages.rlvr.steps=2", "stages.rlvr.save_every=1", "stages.rlvr.sampling.prompts_per_step=4"]
    command += ["stages.rlvr.sampling.samples_per_prompt=2", "stages.rlvr.sampling.max_tokens=4"]
    finish_ranks(command, ranks=before, **OFFLINE)
    kept = {(line["stage"], line["step"]): line for line in read_jsonl(run / "metrics.jsonl")}
    seen = (run / "prompts_seen.jsonl").read_text()
    (run / "summary.json").unlink()
    for stage, last in (("longcot_sft", 6), ("rlvr", 2)):
        shutil.rmtree(run / f"stages/{stage}/checkpoint-{last}")
        shutil.rmtree(run / f"stages/{stage}/model")
        (run / f"stages/{stage}/result.json").unlink()
    finish_ranks(command, ranks=ranks, **OFFLINE)
    assert not (run / "stages/longcot_sft/repartitioned").exists()
    found = {(line["stage"], line["step"]): line for line in read_jsonl(run / "metrics.jsonl")}
    for step in range(1, 7):
        own, other = found["longcot_sft", step], kept["longcot_sft", step]
        for name in ("loss", "learning_rate", *(["grad_norm"] if zero_stage else [])):  # ZeRO-0 reports no norm
            assert own[name] == pytest.approx(other[name], rel=1e-4, abs=1e-9), (step, name)
    again = (run / "prompts_seen.jsonl").read_text().splitlines()[-1]
    assert json.loads(again)["prompt_ids"] == json.loads(seen.splitlines()[-1])["prompt_ids"], "step 2 has its prompts"
