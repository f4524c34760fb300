"""Mixtures: each source has its share of the tokens, and a recipe can name the file that holds them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

from sail_rl.config.loading import load_recipe
from sail_rl.data.encoding import Encoder
from sail_rl.data.mixed import MixedRows
from sail_rl.data.mixture import write_mixture
from sail_rl.plan.datasets import load_data
from sail_rl.plan.plan import make_plan
from sail_rl.stages.rows import rows_of


def source(name: str, size: int) -> list[dict[str, str]]:
    return [{"id": str(number), "prompt": f"{name} {number}"} for number in range(size)]


def test_shares_are_of_tokens_and_even_all_along() -> None:
    # Rows of a have 10 tokens, rows of b 30: at equal shares of tokens, three rows of a come for one of b.
    mixed = MixedRows({"a": source("a", 30), "b": source("b", 50)}, {"a": 0.5, "b": 0.5}, {"a": 10.0, "b": 30.0})
    assert len(mixed) == 80
    for start in range(0, 80, 4):
        assert Counter(mixed[n]["source"] for n in range(start, start + 4)) == {"a": 3, "b": 1}


def test_a_source_that_is_used_up_starts_over_and_ids_stay_apart() -> None:
    mixed = MixedRows({"a": source("a", 2), "b": source("b", 4)}, {"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 1.0})
    assert [mixed[n]["id"] for n in range(6)] == ["a/0", "a/1"] * 3


def test_a_row_s_own_source_is_left_for_its_rewards() -> None:
    sources = {"hard": [{"id": "1", "source": "sum"}], "rl": [{"id": "1", "source": None}, {"id": "2"}]}
    mixed = MixedRows(sources, {"hard": 0.4, "rl": 0.6}, dict.fromkeys(sources, 1.0))  # type: ignore[arg-type]
    assert {row["id"]: row["source"] for row in mixed} == {"hard/1": "sum", "rl/1": "rl", "rl/2": "rl"}


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """The quickstart's SFT stage on a mixture of two small sources."""
    for name, words in (("chat", 3), ("code", 12)):
        rows = [{"prompt": "What is the sum?", "completion": "7 " * words, "answer": "7"} for _ in range(8)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_mixture(tmp_path / "mixture.yaml", {"chat": 0.25, "code": 0.75})
    tree = {
        "extends": str(Path("recipes/quickstart.yaml").resolve()),
        "output_dir": str(tmp_path / "run"),
        "data": {
            "builder": None,
            "kwargs": {},
            "files": {name: str(tmp_path / f"{name}.jsonl") for name in ("chat", "code")},
            "mixtures": {"basic": str(tmp_path / "mixture.yaml")},
        },
        "evaluation": {"data": "chat"},
        "stages": {"longcot_sft": {"data": "basic"}, "rlvr": None},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    return tmp_path / "recipe.yaml"


def test_a_stage_can_train_on_a_mixture(recipe_file: Path, encoder: Encoder) -> None:
    plan = make_plan(load_recipe(recipe_file), {})
    assert sorted(plan.datasets) == ["chat", "code"]
    rows = rows_of(plan.recipe, plan.datasets, "basic", encoder)
    tokens = Counter[str]()
    for number in range(len(rows)):
        tokens[rows[number]["source"]] += len(encoder.sft_sample(rows[number]).input_ids)
    assert tokens["code"] / tokens.total() == pytest.approx(0.75, abs=0.06)  # 16 rows are coarse


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"chat": 0.5, "prose": 0.5}, "no dataset named prose; data gives chat, code"),
        ({"chat": 0.5, "code": 0.6}, "the weights sum to 1.1"),
    ],
)
def test_a_mixture_that_can_t_be_is_an_error(weights: dict[str, float], message: str, recipe_file: Path) -> None:
    (recipe_file.parent / "mixture.yaml").write_text(yaml.safe_dump(weights))
    recipe = load_recipe(recipe_file)
    with pytest.raises(ValueError, match=message):
        load_data(recipe, recipe.data.files)


def test_reinforcement_learning_and_evaluation_take_no_mixture(recipe_file: Path) -> None:
    with pytest.raises(ValueError, match="is 'basic', a mixture; they are for SFT, and by samples for RL"):
        load_recipe(recipe_file, ["evaluation.data=basic"])
