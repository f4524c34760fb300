"""Soups: the average of similar runs' models; dissimilar runs are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import perturb

from rollouts.shared_weights import SharedWeights
from sail_rl.cli.main import main
from sail_rl.config.loading import dump_recipe, load_recipe
from sail_rl.models.files import saved_weights
from sail_rl.models.loading import load_model


@pytest.fixture
def trained(tiny_dir: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """`trained(name, *overrides)`: the model of a run's stage rlvr, with weights of its own."""

    def make(name: str, *overrides: str, llm: str = "qwen3", seed: int = 0) -> Path:
        run = tmp_path / name
        folder = run / "stages/rlvr/model"
        model = load_model(tiny_dir(llm))
        perturb(model, seed=seed)
        shutil.copytree(tiny_dir(llm), folder)
        model.save_pretrained(folder)
        recipe = load_recipe(Path("recipes/quickstart.yaml"), [f"output_dir={run}", f"seed={seed}", *overrides])
        (run / "recipe.yaml").write_text(dump_recipe(recipe))
        return folder

    return make


def soup(out: Path, *models: Path, force: bool = False) -> int:
    return main(["model", "soup", str(out), *map(str, models), *(["--force"] if force else [])])


def test_a_soup_is_the_mean_of_all_weights(trained: Callable[..., Path], tmp_path: Path) -> None:
    rates = [(), ("stages.rlvr.optimizer.learning_rate=1.5e-4",), ()]
    models = [trained(str(seed), *rate, seed=seed) for seed, rate in enumerate(rates)]
    assert soup(tmp_path / "soup", *models) == 0
    weights = [dict(load_model(folder).named_parameters()) for folder in (*models, tmp_path / "soup")]
    for name, tensor in weights[3].items():
        torch.testing.assert_close(tensor, (weights[0][name] + weights[1][name] + weights[2][name]) / 3)
    lineage = json.loads((tmp_path / "soup/lineage.json").read_text())
    assert lineage == {"soup_of": [str(model) for model in models], "forced": False}


@pytest.mark.parametrize(("llm", "tied"), [("qwen3", True), ("qwen3", False), ("qwen3_moe", True)])
def test_an_engine_in_bfloat16_takes_the_weights_of_a_float32_soup(
    llm: str, tied: bool, tiny_dir: Callable[..., Path], tmp_path: Path
) -> None:
    """The engine has had the weights of a bfloat16 trainer, whose parameters come in another order than the files'."""
    trainer = load_model(tiny_dir(llm, tied), dtype=torch.bfloat16)
    shared = SharedWeights.of(trainer.named_parameters())
    other = load_model(tiny_dir(llm, tied), critic="head")
    perturb(other, seed=1)
    other.save_pretrained(tmp_path)
    shared.write(saved_weights(tmp_path, torch.bfloat16))
    expected = dict(other.named_parameters())
    assert shared.tensors()
    for name, tensor in shared.tensors():
        assert torch.equal(tensor, expected[name].bfloat16()), name
    with pytest.raises(ValueError, match=r"the weights changed: .*float32, and was .*bfloat16"):
        shared.write(saved_weights(tmp_path, torch.float32))
    with pytest.raises(ValueError, match="did not come"):
        shared.write([])


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("stages.rlvr.optimizer.learning_rate=1e-3", "stages.rlvr.optimizer.learning_rate is 0.0001 and 0.001"),
        ("data.kwargs={sft_rows: 64, rl_rows: 24, heldout_rows: 8}", "data.kwargs.careless is 0.45 and None"),
        ("stages.longcot_sft.steps=100", "stages.longcot_sft.steps is 270 and 100"),
    ],
)
def test_unlike_runs_are_refused_unless_forced(
    override: str, difference: str, trained: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [trained("a", seed=1), trained("b", override, seed=2)]
    assert soup(tmp_path / "soup", *models) == 2
    assert difference in capsys.readouterr().err
    assert not (tmp_path / "soup").exists()
    assert soup(tmp_path / "soup", *models, force=True) == 0
    assert json.loads((tmp_path / "soup/lineage.json").read_text())["forced"] is True


def test_models_of_another_form_or_of_unknown_origin_are_refused(
    trained: Callable[..., Path],
    tiny_dir: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    dense, moe = trained("dense"), trained("moe", llm="qwen3_moe")
    assert soup(tmp_path / "soup", dense, tiny_dir()) == 2
    assert "its training settings are unknown" in capsys.readouterr().err
    assert soup(tmp_path / "soup", dense, moe, force=True) == 2
    assert "average models of one architecture" in capsys.readouterr().err
    assert soup(tmp_path / "soup", dense) == 2
    assert "takes two models or more" in capsys.readouterr().err
