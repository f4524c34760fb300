"""Freeze plans: what isn't named stays bit for bit, without gradient, optimiser state or weight decay."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from launching import finish
from test_run import SHORT
from training import recipe_of, train, weights_of
from transformers import AutoModelForImageTextToText

from sail_rl.config.loading import load_recipe
from sail_rl.models.adapters import PARTS, describe_trainable, freeze, part_of
from sail_rl.models.loading import load_model
from sail_rl.trainer import weights
from sail_rl.trainer.distributed import zero3_disabled
from sail_rl.trainer.weights import gathered_weights

slow = pytest.mark.slow


def changed_parts(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {part_of(name) for name in before if not torch.equal(before[name], after[name])}


def size(tensors: dict[str, torch.Tensor], parts: set[str]) -> int:
    return sum(tensor.numel() for name, tensor in tensors.items() if part_of(name) in parts)


@pytest.mark.parametrize(
    ("zero_stage", "plan", "checkpointing"),
    [
        (2, ["adapter"], False),
        pytest.param(0, ["adapter"], True, marks=slow),
        pytest.param(1, ["adapter", "vision"], False, marks=slow),
        pytest.param(2, ["llm"], True, marks=slow),
        pytest.param(2, "all", False, marks=slow),
        pytest.param(3, ["adapter"], False, marks=slow),
        pytest.param(3, ["adapter", "vision"], True, marks=slow),
        pytest.param(3, ["llm"], False, marks=slow),
    ],
)
def test_only_the_named_parts_change_and_only_they_have_an_optimiser_state(
    zero_stage: int, plan: list[str] | str, checkpointing: bool, tiny_dir: Callable[..., Path], tmp_path: Path
) -> None:
    before = weights_in(tiny_dir())
    recipe = recipe_of(tmp_path, zero_stage=zero_stage, trainable=plan, gradient_checkpointing=checkpointing)
    trainer = train(recipe, tiny_dir())
    learning = set(PARTS) - {"critic"} if plan == "all" else set(plan)
    assert changed_parts(before, weights_of(trainer)) == learning
    frozen = [p for name, p in trainer.model.named_parameters() if part_of(name) not in learning]
    assert all(parameter.grad is None for parameter in frozen)
    optimizer = trainer.model_wrapped.optimizer
    state = getattr(optimizer, "optimizer", optimizer).state
    moments = sum(entry["exp_avg"].numel() for entry in state.values())
    assert moments == pytest.approx(size(before, learning), abs=64)  # ZeRO pads its partitions


@slow
@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_frozen_parts_don_t_change_what_the_others_learn(
    zero_stage: int, tiny_dir: Callable[..., Path], tmp_path: Path
) -> None:
    """Without clipping, the adapter's first step is the same whether the rest learns with it or not."""
    settings = {"steps": 1, "optimizer": {"max_grad_norm": 1e9, "weight_decay": 0.0}}
    runs = [
        weights_of(train(recipe_of(tmp_path, zero_stage=zero_stage, trainable=plan, **settings), tiny_dir()))
        for plan in (["adapter"], "all")
    ]
    for name, tensor in runs[0].items():
        if part_of(name) == "adapter":
            # Adam's first step is about the sign of the gradient, and amplifies rounding where that is tiny.
            assert (tensor - runs[1][name]).abs().mean() < 1e-5


def test_losses_of_frozen_routers_train_nothing_else(tiny_dir: Callable[..., Path], tmp_path: Path) -> None:
    """The adapter's weights after two steps are those without router losses; their gradient was 3.4e-3 once."""
    trained = [
        weights_of(train(recipe_of(tmp_path, trainable=["adapter"], **coefficients), tiny_dir("qwen3_moe")))
        for coefficients in ({"router_z_loss_coef": 1.0}, {"router_z_loss_coef": 0, "router_aux_loss_coef": 0})
    ]
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def test_a_load_balancing_loss_for_frozen_routers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"router_aux_loss_coef is 0\.01, but the stage freezes the routers"):
        recipe_of(tmp_path, trainable=["adapter"], router_aux_loss_coef=0.01)


def test_a_critic_is_never_frozen(tiny_dir: Callable[..., Path]) -> None:
    model = load_model(tiny_dir(), critic="model")
    freeze(model, ["adapter"])
    learning = {part_of(name) for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {"adapter", "critic"}
    assert all(parameter.requires_grad for parameter in model.critic.parameters())


def test_the_start_up_line_counts_by_part(tiny_dir: Callable[..., Path]) -> None:
    """The adapter: LayerNorm(4 x 128), 512 -> 192, 192 -> 192, with biases: 1024 + 98,496 + 37,056 = 136,576."""
    model = load_model(tiny_dir())
    freeze(model, ["adapter"])
    line = describe_trainable(model)
    assert line.startswith("trains 136,576 of ")
    assert "vision 0 of " in line
    assert "adapter 136,576 of 136,576" in line


def test_a_part_that_doesn_t_exist_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trainable") as error:
        load_recipe(Path("recipes/quickstart.yaml"), ["stages.rlvr.trainable=[adaptor]"])
    assert "'adaptor'" in str(error.value)


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_weights_are_gathered_a_bucket_at_a_time(
    zero_stage: int, tiny_dir: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under ZeRO-3 no more than a bucket (or one larger tensor) is whole at a time; the values are right."""
    before = weights_in(tiny_dir())
    trainer = train(recipe_of(tmp_path, zero_stage=zero_stage, steps=1, optimizer={"learning_rate": 1e-9}), tiny_dir())
    bucket = 4 * 150_000
    monkeypatch.setattr(weights, "BUCKET_BYTES", bucket)
    partitioned = [p for p in trainer.model.parameters() if hasattr(p, "ds_id") and not p.ds_persist]
    assert (zero_stage == 3) == bool(partitioned)
    largest = 0
    for name, tensor in gathered_weights(trainer.model):
        torch.testing.assert_close(tensor, before.pop(name), atol=1e-7, rtol=1e-6)
        largest = max(largest, sum(p.numel() * p.element_size() for p in partitioned))
    assert not before
    assert largest <= bucket
    assert sum(p.numel() for p in partitioned) == 0, "partitioned again"


@slow
def test_three_stages_with_the_report_s_three_plans(tmp_path: Path) -> None:
    """Adapter only, adapter and vision, all (SAIL-VL2 report, section 3.2): each stage's model, part by part."""
    plans = {"warm_up": ["adapter"], "fine_grained": ["adapter", "vision"], "world_knowledge": "all"}
    stage: dict[str, Any] = {"kind": "sft", "data": "sft", "steps": 2, "batch_size": 8}
    stage["optimizer"] = {"learning_rate": 1e-3, "weight_decay": 0.1}
    recipe = {
        "extends": str(Path("recipes/quickstart.yaml").resolve()),
        "name": "plans",
        "output_dir": str(tmp_path / "run"),
        "stages": [stage | {"name": name, "trainable": plan} for name, plan in plans.items()],
    }
    (tmp_path / "plans.yaml").write_text(yaml.safe_dump(recipe))
    done = finish(["-m", "sail_rl", "run", str(tmp_path / "plans.yaml"), *SHORT[:3]])
    before = weights_in(tmp_path / "run/base")
    for name, plan in plans.items():
        after = weights_in(tmp_path / f"run/stages/{name}/model")
        assert changed_parts(before, after) == ({"vision", "adapter", "llm"} if plan == "all" else set(plan))
        before = after
    lines = [line for line in (done.stdout + done.stderr).splitlines() if " trains " in line]
    assert len(lines) == 3
    assert "vision 0 of" in lines[0]
    assert "llm 0 of" in lines[1]


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    with zero3_disabled():  # an earlier test's ZeRO-3 may not have been collected yet
        return dict(AutoModelForImageTextToText.from_pretrained(folder).named_parameters())


@pytest.mark.parametrize("zero_stage", [2, pytest.param(3, marks=slow)])
def test_blocks_behind_the_selected_layer_stay_while_the_others_learn(
    zero_stage: int, tiny_dir: Callable[..., Path], tmp_path: Path
) -> None:
    """They have no gradient, as in the published models (select_layer -4)."""
    folder = Path(shutil.copytree(tiny_dir(), tmp_path / "base"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"select_layer": -2}))
    before = {name: tensor.clone() for name, tensor in load_model(folder).named_parameters()}
    trainer = train(recipe_of(tmp_path / "run", zero_stage=zero_stage, optimizer={"weight_decay": 0.0}), folder)
    last = config["vision_config"]["num_hidden_layers"] - 1
    unused = (f"vision_tower.encoder.layers.{last}.", "vision_tower.rms_norm.")
    for name, tensor in weights_of(trainer).items():
        assert torch.equal(tensor, before[name]) == any(part in name for part in unused), name
