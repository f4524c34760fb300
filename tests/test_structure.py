"""The direction of imports, and other promises about the code as a whole."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

LAYERS = {
    # package: what it may import of this project
    "rewards": {"rewards", "sail_rl.contracts", "sail_rl.imports"},
    "rollouts": {"rollouts", "sail_rl.contracts", "sail_rl.models", "sail_rl.seeding"},
    "sail_rl/maths": {"sail_rl.maths"},
    "sail_rl/models": {"sail_rl.models"},
    "sail_rl/reporting": {"sail_rl.reporting", "sail_rl.contracts"},
    "sail_rl/data": {"sail_rl.data", "sail_rl.contracts", "sail_rl.files", "sail_rl.models", "sail_rl.seeding"},
    "sail_rl/curation": {"sail_rl.curation", "sail_rl.seeding"},
    "sail_rl/moe": {"sail_rl.moe", "sail_rl.data", "sail_rl.files", "sail_rl.maths", "sail_rl.models"},
    "sail_rl/trainer": {
        "sail_rl.trainer",
        "sail_rl.files",
        "sail_rl.contracts",
        "sail_rl.data",
        "sail_rl.maths",
        "sail_rl.models",
        "sail_rl.seeding",
    },
}
SOURCES = sorted(path for folder in ("sail_rl", "rewards", "rollouts") for path in Path(folder).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports, wherever in the file."""
    package = list(path.with_suffix("").parts[:-1])
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            names.add(".".join([*base, *([node.module] if node.module else [])]))
    return names


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_in_one_direction(layer: str) -> None:
    for path in Path(layer).rglob("*.py"):
        ours = {name for name in imported(path) if name.split(".")[0] in ("sail_rl", "rewards", "rollouts")}
        wrong = {name for name in ours if not any(name == ok or name.startswith(f"{ok}.") for ok in LAYERS[layer])}
        assert not wrong, f"{path} imports {sorted(wrong)}"


def test_sail_rl_imports_neither_rewards_nor_rollouts() -> None:
    for path in Path("sail_rl").rglob("*.py"):
        assert not {name.split(".")[0] for name in imported(path)} & {"rewards", "rollouts"}, path


def test_only_rollouts_imports_vllm() -> None:
    for path in SOURCES:
        if path.parts[0] != "rollouts":
            assert "vllm" not in {name.split(".")[0] for name in imported(path)}, path


def test_rewards_import_neither_torch_nor_transformers() -> None:
    for path in Path("rewards").rglob("*.py"):
        assert not {name.split(".")[0] for name in imported(path)} & {"torch", "transformers", "vllm"}, path


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_a_file_says_first_what_lives_there_and_stays_short(path: Path) -> None:
    source = path.read_text()
    assert ast.get_docstring(ast.parse(source)), f"{path} has no docstring"
    assert len(source.splitlines()) <= 300, f"{path} is too long"


def test_the_readme_tree_names_every_file() -> None:
    readme = Path("README.md").read_text()
    for path in [*SOURCES, *Path("recipes").glob("*.*"), *Path("tests").glob("*.py")]:
        if path.name != "__init__.py":
            assert path.name in readme, f"README's tree lacks {path}"
