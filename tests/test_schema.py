"""The JSON schema of recipes: what editors accept is what the library reads, and a typo is neither."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from sail_rl.cli.main import main
from sail_rl.config.json_schema import recipe_schema
from sail_rl.config.loading import load_recipe
from sail_rl.config.shipped import SCHEMA, copy_recipe

RECIPES = sorted(Path("recipes").glob("**/*.yaml"))
WRITTEN = Path("recipes/schema.json")


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = recipe_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def test_the_shipped_schema_is_up_to_date(tmp_path: Path) -> None:
    assert main(["schema", "--out", str(tmp_path / "schema.json")]) == 0
    assert (tmp_path / "schema.json").read_text() == WRITTEN.read_text(), "sail-rl schema --out recipes/schema.json"


@pytest.mark.parametrize("path", RECIPES, ids=str)
def test_every_shipped_recipe_validates_and_names_the_schema(path: Path, validator: Draft202012Validator) -> None:
    validator.validate(yaml.safe_load(path.read_text()))
    (named,) = SCHEMA.findall(path.read_text())
    assert (path.parent / named).resolve() == WRITTEN.resolve()


def test_a_resolved_recipe_validates(validator: Draft202012Validator) -> None:
    validator.validate(load_recipe("quickstart").model_dump(mode="json"))


def change(*keys: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def apply(tree: dict[str, Any]) -> None:
        for key in keys[:-1]:
            tree = tree[key]
        tree[keys[-1]] = to

    return apply


@pytest.mark.parametrize(
    "mistake",
    [
        change("sede", to=1),
        change("model", "lllm", to="qwen3"),
        change("model", "llm", to="llama"),
        change("stages", 1, "max_tokens", to=4),
        change("stages", 1, "sampling", "max_tokns", to=4),
        change("stages", 1, "algorithm", to="trpo"),
        change("stages", 1, "advantages", to="grop"),
        change("stages", 1, "kind", to="rll"),
        change("stages", 1, "rewards", "a/b", to={"path": "rewards.answer:math_answer"}),
        change("stages", to={"rlvr": {"stepps": 3}}),
    ],
)
def test_a_mistake_doesn_t(mistake: Callable[[dict[str, Any]], None], validator: Draft202012Validator) -> None:
    tree = yaml.safe_load(Path("recipes/quickstart.yaml").read_text())
    assert validator.is_valid(tree)
    mistake(tree)
    assert not validator.is_valid(tree)


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("extends: quickstart\nname: mine\nstages: {rlvr: {algorithm: gspo, steps: 3}, longcot_sft: null}", True),
        ("extends: quickstart\nstages: {rlvr: {advantages: 'mine.py:best', loss: {surrogate: 'a.b:c'}}}", True),
        ("name: mine\nstages: []", False),
        ("data: a.jsonl\nout: b.parquet\nsteps: [unify, {dedupe: {distance: 2}}, {kind: redundancy}]", True),
        ("data: a.jsonl\nout: b.parquet\nsteps: [unifi]", False),
        ("data: a.jsonl\nout: b.parquet\nsteps: [{dedupe: {distence: 2}}]", False),
    ],
)
def test_what_a_file_may_say_is_known(text: str, valid: bool, validator: Draft202012Validator) -> None:
    assert validator.is_valid(yaml.safe_load(text)) == valid


def test_editors_show_what_the_docstrings_say(validator: Draft202012Validator) -> None:
    sampling = validator.schema["$defs"]["SamplingConfig"]["properties"]  # type: ignore[index]
    assert sampling["max_tokens"]["description"] == "Longest completion in tokens."


def test_a_copied_recipe_finds_the_schema_beside_it(tmp_path: Path) -> None:
    copied = copy_recipe("quickstart_dapo", str(tmp_path))
    assert tmp_path / "schema.json" in copied
    assert json.loads((tmp_path / "schema.json").read_text()) == json.loads(WRITTEN.read_text())
    assert re.search(r"schema=schema\.json", copied[0].read_text())
