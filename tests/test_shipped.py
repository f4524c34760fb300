"""The installed package: recipes that are found by name from any folder, and the wheel in a clean environment."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from sail_rl.cli.main import main
from sail_rl.config import RLStage
from sail_rl.config.loading import load_recipe
from sail_rl.config.shipped import SCHEMA, SHIPPED, shipped_recipes, summary
from sail_rl.imports import resolve

REWARD = "def short(completions, **columns):\n    return [{score} for _ in completions]\n"


def reward_path(recipe: str, name: str = "reading") -> str:
    """The code that a reward of the first RL stage names."""
    stage = next(stage for stage in load_recipe(Path(recipe)).stages if isinstance(stage, RLStage))
    return stage.rewards[name].path


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return Path()


def test_a_shipped_recipe_is_found_by_its_name_with_its_reward_and_what_it_extends(elsewhere: Path) -> None:
    assert load_recipe(Path("quickstart_dapo")).name == "quickstart_dapo"
    assert reward_path("quickstart_dapo") == f"{SHIPPED}/digits_rewards.py:reading"


@pytest.mark.slow
def test_a_shipped_recipe_is_checked_by_its_name(elsewhere: Path) -> None:
    assert main(["check", "quickstart", "--ranks", "1"]) == 0


def test_an_unknown_name_is_answered_with_the_nearest(elsewhere: Path) -> None:
    with pytest.raises(ValueError, match=r"no recipe at quickstat, .* the nearest name is quickstart "):
        load_recipe(Path("quickstat"))


def test_a_recipe_of_one_s_own_extends_a_shipped_one(elsewhere: Path) -> None:
    Path("mine.yaml").write_text("extends: quickstart\nstages: {rlvr: {steps: 3}}\n")
    assert [stage.steps for stage in load_recipe(Path("mine.yaml")).training] == [270, 3]


def test_code_beside_the_recipe_comes_before_code_in_the_working_directory(elsewhere: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    rewards = {name: {"path": f"{name}.py:short", "weight": 0.0} for name in ("beside", "here", "both")}
    recipe.write_text(yaml.safe_dump({"extends": "quickstart", "stages": {"rlvr": {"rewards": rewards}}}))
    for name in ("beside", "both"):
        (tmp_path / f"{name}.py").write_text(REWARD.format(score=1.0))
    for name in ("here", "both"):
        Path(f"{name}.py").write_text(REWARD.format(score=0.0))
    scores = {name: resolve(reward_path(str(recipe), name))(["text"]) for name in rewards}
    assert scores == {"beside": [1.0], "here": [0.0], "both": [1.0]}


def test_every_recipe_is_listed_with_what_it_says_about_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(shipped_recipes())
    assert all(path.read_text().startswith("# ") for path in shipped_recipes().values())
    assert "quickstart_ppo" in shipped_recipes()
    assert lines[list(shipped_recipes()).index("quickstart")].endswith(summary(SHIPPED / "quickstart.yaml"))


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_copied_recipe_is_whole_and_its_rewards_are_the_copies(
    name: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recipes", "copy", name, "--out", "copies"]) == 0
    written = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted(path for path in Path().rglob("*") if path.is_file()) == sorted(written), "nothing lies elsewhere"
    assert sorted(elsewhere.absolute().parent.iterdir()) == [elsewhere.absolute()]
    assert all((written[0].parent / schema).is_file() for schema in SCHEMA.findall(written[0].read_text()))
    assert main(["recipes", "copy", name, "--out", "copies"]) == 0, "what is the same already is no conflict"
    copied = written[0]
    assert copied == Path("copies") / f"{name}.yaml"
    if name != "curate_example":
        assert load_recipe(copied).stages[0] == load_recipe(Path(name)).stages[0]
    if "quickstart" in name:
        assert reward_path(str(copied)) == "copies/digits_rewards.py:reading"


def test_a_copy_overwrites_nothing(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("digits_rewards.py").write_text("mine = 1\n")
    assert main(["recipes", "copy", "quickstart"]) == 2
    assert "digits_rewards.py exists and is not overwritten" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["digits_rewards.py"]


SHORT = [
    "data.kwargs={sft_rows: 32, rl_rows: 16, heldout_rows: 4}",
    "evaluation.max_tokens=16",
    "stages.longcot_sft.steps=2",
    "stages.longcot_sft.batch_size=8",
    "stages.rlvr.steps=1",
    "stages.rlvr.sampling.prompts_per_step=4",
    "stages.rlvr.sampling.samples_per_prompt=4",
    "stages.rlvr.sampling.max_tokens=16",
]
WHERE = "import json, sail_rl, rewards, rollouts; print(json.dumps([m.__file__ for m in (sail_rl, rewards, rollouts)]))"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the built wheel, which sees the installed dependencies but not this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("sail_rl", "rewards", "rollouts", "recipes"):
        shutil.copytree(name, folder / "source" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(name, folder / "source")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *offline, "--wheel-dir", folder, folder / "source"], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv/bin/python"
    found = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    )
    dependencies = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    # The .pth files of these folders, and so an editable install of this checkout, are not followed.
    (Path(found.stdout.strip()) / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True)
    return folder / "venv"


@pytest.mark.slow
def test_the_wheel_runs_the_quickstart_from_an_empty_folder(environment: Path, tmp_path: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}

    def run(*words: str | Path) -> str:
        done = subprocess.run(
            [environment / "bin" / words[0], *words[1:]], cwd=tmp_path, env=variables, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    modules = [Path(path) for path in json.loads(run("python", "-c", WHERE))]
    assert all(module.is_relative_to(environment) for module in modules), modules
    assert all(module.with_name("py.typed").is_file() for module in modules)
    assert [line.split()[0] for line in run("sail-rl", "recipes").splitlines()] == list(shipped_recipes())
    site_packages = modules[0].parents[1]
    before = {path: path.stat().st_mtime_ns for path in site_packages.rglob("*") if "__pycache__" not in path.parts}
    run("sail-rl", "run", "quickstart", *SHORT, "output_dir=run")
    assert [stage["name"] for stage in json.loads((tmp_path / "run/summary.json").read_text())["stages"]] == [
        *("longcot_sft", "rlvr")
    ]
    recipe = yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())
    assert recipe["stages"][1]["rewards"]["reading"]["path"] == f"{site_packages}/recipes/digits_rewards.py:reading"
    after = {path: path.stat().st_mtime_ns for path in site_packages.rglob("*") if "__pycache__" not in path.parts}
    assert after == before, "nothing is written into the installed package"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
