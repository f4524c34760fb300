"""The direction of imports, and other promises about the code as a whole."""

from __future__ import annotations

import ast
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

FLOORS = (
    # From the ground up: a room may import rooms on lower floors, and nothing else of this project.
    ("lock", "paths"),
    ("contracts", "files", "imports", "pictures", "run_dir", "seeding", "yaml_reading"),
    ("messages",),
    ("completion",),
    ("maths", "models", "endpoint", "records"),
    ("data",),
    ("config", "trainer", "moe"),
    ("curation", "reporting"),
    ("plan",),
    ("evaluation",),
    ("stages",),
    ("run",),
    ("cli",),
    ("__main__",),
)
OPEN_TO_REWARDS = {"sail_rl.contracts", "sail_rl.completion", "sail_rl.messages", "sail_rl.imports", "sail_rl.endpoint"}
OPEN_TO_REWARDS |= {"sail_rl.paths"}
OPEN_TO_ROLLOUTS = {"sail_rl.contracts", "sail_rl.messages", "sail_rl.models", "sail_rl.paths", "sail_rl.seeding"}
SOURCES = sorted(path for folder in ("sail_rl", "rewards", "rollouts") for path in Path(folder).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text())


@cache
def imported(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports, wherever in the file."""
    package = list(path.with_suffix("").parts[:-1])
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            names.add(".".join([*base, *([node.module] if node.module else [])]))
    return names


def room(module: str) -> str:
    """The part of `sail_rl` that a module is in: a folder, or a file beside the folders."""
    return module.split(".")[1]


def test_every_room_stands_on_a_floor() -> None:
    rooms = {path.stem for path in Path("sail_rl").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - {"__init__"} == {name for floor in FLOORS for name in floor}


@pytest.mark.parametrize("number", range(len(FLOORS)))
def test_a_room_imports_only_rooms_on_lower_floors(number: int) -> None:
    lower = {name for floor in FLOORS[:number] for name in floor}
    for name in FLOORS[number]:
        for path in [Path("sail_rl") / f"{name}.py", *(Path("sail_rl") / name).rglob("*.py")]:
            found = imported(path) if path.exists() else set()
            ours = {room(module) for module in found if module.startswith("sail_rl.")}
            assert ours <= lower | {name}, f"{path} imports {sorted(ours - lower - {name})}"


def files_imported(path: Path) -> set[Path]:
    """Files of this project that a file imports, for type checking only included."""
    package, found = path.parts[:-1], set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = Path(*base, *(node.module or "").split("."))
            for alias in node.names:
                submodules = {module / f"{alias.name}.py", module / alias.name / "__init__.py"} & set(SOURCES)
                found |= submodules or {module.with_suffix(".py"), module / "__init__.py"}
    return found & set(SOURCES)


def test_no_file_imports_itself_by_way_of_others() -> None:
    tuple(TopologicalSorter({path: files_imported(path) for path in SOURCES}).static_order())  # raises CycleError


@pytest.mark.parametrize(("package", "allowed"), [("rewards", OPEN_TO_REWARDS), ("rollouts", OPEN_TO_ROLLOUTS)])
def test_rewards_and_rollouts_import_the_shared_vocabulary_only(package: str, allowed: set[str]) -> None:
    for path in Path(package).rglob("*.py"):
        ours = {name for name in imported(path) if name.startswith("sail_rl")}
        wrong = {name for name in ours if not any(name == ok or name.startswith(f"{ok}.") for ok in allowed)}
        assert not wrong, f"{path} imports {sorted(wrong)}"
        assert package == "rewards" or "rewards" not in {name.split(".")[0] for name in imported(path)}, path
        assert package == "rollouts" or "rollouts" not in {name.split(".")[0] for name in imported(path)}, path


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


def test_a_file_says_first_what_lives_there_and_stays_short() -> None:
    assert [str(path) for path in SOURCES if not ast.get_docstring(tree(path))] == []
    assert [str(path) for path in SOURCES if len(path.read_text().splitlines()) > 300] == []


def test_scripts_and_tests_say_first_what_they_are_for() -> None:
    paths = [path for folder in ("tests", "benchmarks", "docs", "recipes") for path in Path(folder).rglob("*.py")]
    assert [str(path) for path in paths if not ast.get_docstring(tree(path))] == []
