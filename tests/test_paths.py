"""Paths of users: `~` and variables, and runs whose folders or recipes are named in another way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sail_rl.cli.main import main
from sail_rl.config import Recipe
from sail_rl.config.loading import load_recipe
from sail_rl.data.images import inside
from sail_rl.imports import resolve
from sail_rl.paths import PathError, expanded, same_place
from sail_rl.plan.datasets import _curated_path
from sail_rl.run.folder import prepare_run_dir
from sail_rl.run.lineage import stage_keys

OPTIMIZER = {"learning_rate": 0.001}
ROWS = '{"prompt": "What is 2 + 2?", "completion": "\\\\boxed{4}", "answer": "4"}\n'


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a folder `data`, named by HOME and (`data`) DATA; the working directory is beside it."""
    (tmp_path / "home/data").mkdir(parents=True)
    (tmp_path / "home/data/rows.jsonl").write_text(ROWS)
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DATA", str(tmp_path / "home/data"))
    monkeypatch.setenv("TRICKY", "$DATA")
    monkeypatch.delenv("UNSET", raising=False)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "home"


def test_home_and_variables_are_replaced_as_a_shell_does(home: Path) -> None:
    assert expanded("~") == home
    assert expanded("~/data/rows.jsonl") == home / "data/rows.jsonl"
    assert expanded("$DATA/rows.jsonl") == home / "data/rows.jsonl"
    assert expanded("${DATA}2/rows.jsonl") == Path(f"{home}/data2/rows.jsonl")
    assert expanded("~/$TRICKY/x") == home / "$DATA/x", "values aren't expanded again"
    assert expanded("/tmp/a~b") == Path("/tmp/a~b")
    assert expanded("price$5/x$") == Path("price$5/x$"), "no names of variables"


def test_an_existing_file_of_that_name_wins() -> None:
    Path("$UNSET").mkdir()
    Path("~x").touch()
    assert expanded("$UNSET") == Path("$UNSET")
    assert expanded("~x") == Path("~x")


@given(st.text(st.characters(codec="utf-8", exclude_characters="~$\0"), min_size=1))
def test_a_path_without_the_two_signs_stays(text: str) -> None:
    assert str(expanded(text)) == str(Path(text))


@pytest.mark.parametrize(
    ("path", "message"),
    [("$UNSET/x", "variable UNSET isn't set"), ("a/${UNSET}", "UNSET isn't set"), ("~nobody-9/x", "~nobody-9 is nob")],
)
def test_what_is_not_known_is_named(path: str, message: str) -> None:
    with pytest.raises(PathError, match=message):
        expanded(path)


def recipe(output_dir: object = "run", **data: object) -> Recipe:
    """A recipe with these data; `train` and `heldout` have to be there."""
    tree = {
        "name": "small",
        "output_dir": str(output_dir),
        "data": data,
        "evaluation": {"data": "heldout", "rewards": {"accuracy": {"path": "rewards.answer:math_answer"}}},
        "stages": [
            {"name": "sft", "kind": "sft", "data": "train", "steps": 1, "batch_size": 1, "optimizer": OPTIMIZER},
        ],
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(tree))
    return load_recipe("recipe.yaml")


def files(path: object = "$DATA/rows.jsonl") -> dict[str, object]:
    return {"train": str(path), "heldout": str(path)}


def test_recipes_expand_every_path_once(home: Path) -> None:
    made = recipe(
        "~/runs/x",
        files={"train": "$DATA/rows.jsonl", "heldout": {"path": "~/data/rows.jsonl", "root": "${DATA}"}},
        curated={"clean": {"data": "~/data/rows.jsonl", "steps": [{"decontaminate": {"against": ["$DATA/x.jsonl"]}}]}},
        mixtures={"both": "~/mix.yaml"},
    )
    assert made.output_dir == home / "runs/x"
    assert made.data.source("train") == made.data.source("heldout").model_copy(update={"root": None})  # type: ignore[union-attr]
    assert made.data.source("heldout").root == home / "data"  # type: ignore[union-attr]
    assert made.data.curated["clean"].inputs == [home / "data/rows.jsonl", home / "data/x.jsonl"]
    assert made.data.mixtures["both"] == home / "mix.yaml"
    assert not any("~" in str(path) for path in Path().rglob("*"))


def test_code_is_found_in_the_home_folder(home: Path) -> None:
    (home / "my.py").write_text("def score(completions, **_):\n    return [1.0 for _ in completions]\n")
    assert resolve("~/my.py:score")(["a"]) == [1.0]
    recipe(files=files())
    loaded = load_recipe("recipe.yaml", ["evaluation.rewards.mine={path: '~/my.py:score'}"])
    assert loaded.evaluation.rewards["mine"].path == f"{home}/my.py:score"


def test_an_unset_variable_in_a_recipe_is_one_line_with_the_key() -> None:
    with pytest.raises(ValueError, match="UNSET isn't set") as refused:
        recipe(files=files("$UNSET/rows.jsonl") | {"other": {"path": "$DATA/rows.jsonl"}})
    lines = sorted(str(refused.value).splitlines()[1:])
    assert lines[1].startswith("  data.files.train: $UNSET/rows.jsonl: the environment variable UNSET isn't set; ")
    assert len(lines) == 2, "one for each of the two files"


def test_an_unset_variable_on_the_command_line_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "$UNSET/run"])
    assert ended.value.code == 2
    assert "argument run: $UNSET/run: the environment variable UNSET isn't set" in capsys.readouterr().err
    assert main(["check", "recipe.yaml", "output_dir=$UNSET"]) == 2


def test_the_command_line_expands_paths(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--out=~/schema.json"]) == 0
    assert (home / "schema.json").is_file()
    assert main(["recipes", "copy", "quickstart", "--out=$DATA/copied"]) == 0
    assert (home / "data/copied/quickstart.yaml").is_file()
    recipe(files=files())
    (home / "base.yaml").write_text(Path("recipe.yaml").read_text())
    Path("recipe.yaml").write_text("extends: ~/base.yaml\nname: other\n")
    assert load_recipe("recipe.yaml").name == "other"


def test_pictures_of_rows_may_lie_in_the_home_folder(home: Path) -> None:
    (home / "data/~a.png").touch()
    assert inside(home, "~/data/a.png") == home / "data/a.png"
    assert inside(home, "$DATA/a.png") == home / "data/a.png"
    assert inside(home / "data", "~a.png") == home / "data/~a.png", "a file of that name"
    with pytest.raises(ValueError, match="lies outside"):
        inside(home / "data", "~/a.png")


# The identity of a run


def test_one_folder_may_be_named_in_many_ways(home: Path, tmp_path: Path) -> None:
    spellings = ["run", tmp_path / "work/run", "../work/run", "a/../run", "$HOME/../work/run", "./run/"]
    data = ["$DATA/rows.jsonl", home / "data/rows.jsonl", "../home/data/rows.jsonl", "~/data/../data/rows.jsonl"]
    Path("a").mkdir()
    Path("link").symlink_to(home / "data")
    keys = set()
    for output_dir in spellings:
        for path in [*data, "link/rows.jsonl"]:
            made = recipe(output_dir, files=files(path))
            prepare_run_dir(made, fresh=False, redo=False)
            keys.add(tuple(stage_keys(made, dict.fromkeys(files(), home / "data/rows.jsonl")).items()))
    assert len(keys) == 1
    assert [path.name for path in Path().glob("run*")] == ["run"]


def test_a_moved_folder_goes_on(home: Path, tmp_path: Path) -> None:
    prepare_run_dir(recipe("run", files=files()), fresh=False, redo=False)
    Path("run").rename(home / "moved")
    prepare_run_dir(recipe("~/moved", files=files()), fresh=False, redo=False)


def test_a_project_that_is_moved_with_its_data_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("rows.jsonl").write_text(ROWS)
    keys = []
    for place in ("work", "elsewhere"):
        (tmp_path / "work").rename(tmp_path / place)
        monkeypatch.chdir(tmp_path / place)
        made = recipe("runs/x", files=files("rows.jsonl") | {"other": {"path": "rows.jsonl", "root": "pictures"}})
        prepare_run_dir(made, fresh=False, redo=False)
        keys.append(stage_keys(made, {name: Path("rows.jsonl") for name in made.data.files}))
    assert keys[0] == keys[1]


def test_a_refusal_names_the_keys_with_both_values(home: Path) -> None:
    prepare_run_dir(recipe(files=files()), fresh=False, redo=False)
    (home / "data/other.jsonl").write_text(ROWS)
    recipe(files=files() | {"heldout": "$DATA/other.jsonl"})
    changed = load_recipe("recipe.yaml", ["stages.sft.steps=2", "seed=7", "logging.traces_per_step=9"])
    with pytest.raises(ValueError, match="another recipe") as refused:
        prepare_run_dir(changed, fresh=False, redo=False)
    told = str(refused.value)
    assert "seed is 0 there and 7 here; " in told
    assert f"data.files.heldout is {home}/data/rows.jsonl there and {home}/data/other.jsonl here" in told
    assert "stages.sft.steps is 1 there and 2 here" in told
    assert "traces" not in told
    assert "\n" not in told


def test_a_refusal_names_added_and_dropped_stages(home: Path) -> None:
    prepare_run_dir(recipe(files=files()), fresh=False, redo=False)
    changed = Path("recipe.yaml").read_text().replace("name: sft", "name: other")
    Path("recipe.yaml").write_text(changed)
    with pytest.raises(ValueError, match=r"stages.sft is .* there and missing here; stages.other is missing there and"):
        prepare_run_dir(load_recipe("recipe.yaml"), fresh=False, redo=False)


def test_another_root_of_pictures_counts_and_its_spelling_does_not(home: Path) -> None:
    def key(root: str) -> str:
        made = recipe(files={name: {"path": "$DATA/rows.jsonl", "root": root} for name in files()})
        return stage_keys(made, dict.fromkeys(files(), home / "data/rows.jsonl"))["sft"]

    assert key("~/data") == key(f"{home}/data") == key("../home/data")
    assert key("~") != key("~/data")


def test_a_curated_dataset_is_made_once_however_its_paths_are_spelled(home: Path, tmp_path: Path) -> None:
    def made(data: str, root: str) -> str:
        source = {"path": data, "root": root}
        return _curated_path(recipe(files=files(), curated={"c": {"data": source, "steps": ["unify"]}}), "c").name

    assert made("$DATA/rows.jsonl", "~/data") == made("../home/data/rows.jsonl", str(home / "data"))
    assert made("$DATA/rows.jsonl", "~/data") != made("$DATA/rows.jsonl", "~")


def test_places_are_the_same_absolutely_or_relative_to_their_roots() -> None:
    assert same_place("/a/b/../c", "/a/c", roots=("/x", "/y"))
    assert same_place("/a/data", "/b/data", roots=("/a/runs/x", "/b/runs/x"))
    assert not same_place("/a/data", "/b/data", roots=("/a/runs/x", "/b/runs/sub/x"))
    assert not same_place("/a/data", "/a/other", roots=("/a/run", "/a/run"))


def test_a_recorded_recipe_means_the_same_from_every_working_directory(home: Path) -> None:
    Path("rows.jsonl").write_text(ROWS)
    made = recipe("run", files=files("rows.jsonl"))
    prepare_run_dir(made, fresh=False, redo=False)
    recorded = Path("run/recipe.yaml").resolve()
    os.chdir(home)
    again = load_recipe(recorded)
    assert again.output_dir == recorded.parent
    assert again.data.source("train").path.read_text() == ROWS  # type: ignore[union-attr]
