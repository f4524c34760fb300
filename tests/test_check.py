"""sail-rl check: the shipped recipes without weights or downloads, memory against DeepSpeed's figures, versions."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs
from PIL import Image

from sail_rl.cli.main import main
from sail_rl.config.loading import load_recipe
from sail_rl.data.dataset import Rows
from sail_rl.models import SailVLConfig
from sail_rl.models.adapters import LoRA, add_lora
from sail_rl.models.loading import load_model
from sail_rl.models.sizes import published_size
from sail_rl.plan import check as checking
from sail_rl.plan.datasets import build_data, missing_datasets
from sail_rl.plan.memory import Parameters, activations, count_parameters, estimate, model_states
from sail_rl.plan.plan import make_plan, share_plan

SHIPPED = {
    "sail_vl2_2b/thinking": (8, 80),
    "sail_vl2_2b/lora_one_gpu": (1, 48),
    "sail_vl2_8b/thinking": (32, 80),
    "sail_vl2_30b_a3b/thinking": (32, 80),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if "2b/" not in name else []) for name in SHIPPED]
)
def test_the_real_recipes_pass_where_they_say_they_fit(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    ranks, gib = SHIPPED[name]
    path = Path(f"recipes/{name}.yaml")
    assert f"--ranks {ranks} --gpu-gib {gib}" in path.read_text(), "the recipe says so itself"
    assert main(["check", str(path), "--ranks", str(ranks), "--gpu-gib", str(gib)]) == 0
    printed = capsys.readouterr().out
    assert "versions: as required" in printed
    assert "data stem: not here; fetched from the hub's FanqingM/MMK12 (train) when a run starts" in printed
    assert "data longcot: not here; made of the hub's" in printed
    if "lora" not in name:
        assert "256 prompts x 8 samples = 2048 rollouts -> 8 optimiser step(s) of 512" in printed, "the report's"
    assert main(["check", str(path), "--ranks", str(ranks), "--gpu-gib", "16"]) == 2
    assert "more than the 16 GiB of a GPU" in capsys.readouterr().err


def test_an_untrue_batch_or_a_model_of_unknown_size_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = "recipes/sail_vl2_2b/thinking.yaml"
    assert main(["check", recipe, "--ranks", "7"]) == 2
    assert (
        "packing.micro_batches 64 / 7 ranks = 9.14286 micro-batches of 20480 tokens a rank" in capsys.readouterr().err
    )
    assert main(["check", recipe, "model.size=null"]) == 2
    assert "model.path: models/SAIL-VL2-2B doesn't exist" in capsys.readouterr().err


@pytest.mark.parametrize("ranks", [1, 8, 64])
def test_model_states_are_deepspeed_s(ranks: int) -> None:
    everything = Parameters(total=2_000_000, trained=2_000_000, largest=300_000)

    def ours(zero: int, *, offload: bool = False) -> float:
        return model_states(everything, ranks=ranks, zero_stage=zero, offload=offload, width=2).total

    _, zero2 = estimate_zero2_model_states_mem_needs(2_000_000, ranks, 1, cpu_offload=False)
    _, offloaded = estimate_zero2_model_states_mem_needs(2_000_000, ranks, 1, cpu_offload=True)
    _, zero3, _ = estimate_zero3_model_states_mem_needs(2_000_000, 300_000, ranks, 1, False, False)
    assert ours(2) == zero2
    assert ours(2, offload=True) == offloaded
    assert ours(3) == zero3 + 2 * 2_000_000 / ranks, "of 20 bytes that it counts under ZeRO-2, it leaves out 2 here"
    assert ours(0) == 20 * 2_000_000


def test_frozen_weights_have_neither_gradients_nor_moments(tiny_dir: Callable[..., Path]) -> None:
    overrides = ["stages.rlvr.lora={r: 4}", f"model.path={tiny_dir()}"]
    recipe = load_recipe(Path("recipes/quickstart.yaml"), overrides)
    config = SailVLConfig.from_pretrained(tiny_dir())
    whole, lora = (count_parameters(config, stage) for stage in recipe.training)
    real = add_lora(load_model(tiny_dir()), LoRA(4, 32.0, 0.0, ("llm", "adapter")), trainable=("llm", "adapter"))
    assert whole.trained == whole.total == sum(p.numel() for p in load_model(tiny_dir()).parameters())
    assert lora.trained == sum(p.numel() for p in real.parameters() if p.requires_grad)
    states = [estimate(recipe, stage, config, ranks=1).gpu for stage in recipe.training]
    assert states[1]["optimiser"] == 8 * lora.trained, "float32: no further copy"
    assert states[0]["optimiser"] == 8 * whole.trained


@pytest.mark.parametrize(
    ("path", "kwargs", "shares"),
    [
        ("rollouts.vllm_engine:VLLMEngine", "{}", True),
        ("rollouts.workers:WorkerEngine", "{}", True),
        ("rollouts.workers:WorkerEngine", "{devices: ['1']}", False),
        ("rollouts.remote:RemoteEngine", "{servers: ['http://10.0.0.1:8000']}", False),
    ],
)
def test_only_an_engine_that_shares_the_gpu_counts_in_its_memory(
    path: str, kwargs: str, shares: bool, tiny_dir: Callable[..., Path]
) -> None:
    overrides = [f"engine.path={path}", f"engine.kwargs={kwargs}", f"model.path={tiny_dir()}"]
    recipe = load_recipe(Path("recipes/quickstart.yaml"), overrides)
    found = estimate(recipe, recipe.training[0], SailVLConfig.from_pretrained(tiny_dir()), ranks=1).gpu
    assert ("engine" in found) == shares


def test_the_head_s_gradient_is_counted_where_the_head_trains() -> None:
    config = published_size("2B")
    for overrides, expected in (
        ([], (4 + 2) * 151_936 * 2048),
        (["stages.longcot_sft.trainable=[adapter]"], None),
        (["stages.longcot_sft.lora.r=8"], None),
    ):
        recipe = load_recipe(Path("recipes/sail_vl2_2b/thinking.yaml"), overrides)
        found = estimate(recipe, recipe.training[0], config, ranks=8).gpu.get("head's gradient")
        assert found == (expected and pytest.approx(expected, rel=0.01))


def test_checkpointing_rows_and_sizes_move_activations_as_they_should() -> None:
    small, large = published_size("2B"), published_size("8B")
    plain = activations(small, 2048, checkpointing=False, width=2)
    saved = activations(small, 2048, checkpointing=True, width=2)
    assert saved < plain / 10
    assert activations(small, 4096, checkpointing=True, width=2) == pytest.approx(2 * saved)
    assert activations(large, 2048, checkpointing=True, width=2) > saved
    # By hand: 28 layers keep their 2,048-wide inputs of a token, 24 the 1,536-wide ones of four patches; then one
    # layer of the tower is recomputed, which is larger than one of the language model.
    by_hand = 28 * 2048 + 4 * 24 * 1536 + 4 * (10 * 1536 + 4 * 4096)
    assert saved == 2 * 2048 * by_hand


def test_versions_that_don_t_fit_are_all_named(monkeypatch: pytest.MonkeyPatch) -> None:
    checking.check_versions()
    wanted = ["torch==1.0", "nonexistent-thing>=2", "numpy", "other; python_version < '3'"]
    monkeypatch.setattr(checking, "requires", lambda name: wanted)
    with pytest.raises(ValueError, match=r"torch==1.0 \(found: 2.13.0.*nonexistent-thing>=2 \(found: not installed\)$"):
        checking.check_versions()


def test_a_recipe_can_curate_its_own_data(tmp_path: Path) -> None:
    rows = [
        {"question": "How many?", "completion": f"<think>{n}</think><answer>7</answer>", "answer": "7"} for n in "ab"
    ]
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = {
        "extends": str(Path("recipes/quickstart.yaml").resolve()),
        "output_dir": str(tmp_path / "run"),
        "data": {
            "builder": None,
            "kwargs": {},
            "curated": {"cot": {"data": str(tmp_path / "raw.jsonl"), "steps": ["unify", "dedupe"]}},
        },
        "evaluation": {"data": "cot"},
        "stages": {"longcot_sft": {"data": "cot"}, "rlvr": None},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert missing_datasets(recipe) == {"cot": f"made of {tmp_path}/raw.jsonl when a run starts: unify, dedupe"}
    path = build_data(recipe)["cot"]
    assert [row["completion"] for row in Rows(path)] == ["<think>\na\n</think>\n\n\\boxed{7}"]
    made = path.stat().st_mtime_ns
    assert build_data(recipe)["cot"].stat().st_mtime_ns == made
    assert missing_datasets(recipe) == {}
    (tmp_path / "raw.jsonl").write_text(json.dumps(rows[1]) + "\n")
    assert build_data(recipe)["cot"] != path, "another input, another dataset"
    (tmp_path / "raw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    unused = load_recipe(tmp_path / "recipe.yaml", [f"data.files={{missing: {tmp_path}/missing.jsonl}}"])
    assert list(build_data(unused)) == ["cot"], "what no stage reads needn't be there"
    other = load_recipe(tmp_path / "recipe.yaml", ["data.curated.cot.steps=[unify]"])
    assert len(Rows(build_data(other)["cot"])) == 2


def test_other_ranks_have_the_plan_without_checking_rows_or_gold_answers_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sail_rl.plan import plan as planning

    Image.new("RGB", (8, 6)).save(tmp_path / "picture.png")
    rows = [{"prompt": "x" * n, "images": ["picture.png"], "completion": "y", "answer": "1"} for n in (3, 200, 4)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = dict.fromkeys(("sft", "rl", "heldout"), str(tmp_path / "d.jsonl"))
    tree = {
        "extends": "quickstart",
        "output_dir": str(tmp_path / "run"),
        "data": {"builder": None, "kwargs": {}, "files": files},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree))
    recipe = load_recipe(tmp_path / "r.yaml")
    first = make_plan(recipe, {"rlvr": "said"})
    first = replace(first, datasets=first.datasets | {"rl": first.datasets["rl"].without([1])})  # as if overlong
    sent: list[Any] = []

    def gather(items: list[Any]) -> list[Any]:
        sent.extend(pickle.loads(pickle.dumps(items)))
        return sent

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("checked again")

    monkeypatch.setattr(planning, "gather_objects", gather)
    assert share_plan(recipe, first) is first
    for place in ("check_gold_answers", "check_code", "build_data"):
        monkeypatch.setattr(planning, place, refuse)
    monkeypatch.setattr(Rows, "_check", refuse)
    other = share_plan(recipe, None)
    assert (other.algebra, other.paths) == (first.algebra, first.paths)
    for name, dataset in first.datasets.items():
        opened = other.datasets[name]
        assert [opened.number(n) for n in range(len(opened))] == [dataset.number(n) for n in range(len(dataset))]
        assert [opened.metadata(n) for n in range(len(opened))] == [dataset.metadata(n) for n in range(len(dataset))]
    assert len(other.datasets["rl"]) == 2
