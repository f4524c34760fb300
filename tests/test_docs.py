"""README and docs: generated pages are up to date, links resolve, lines are short."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType


def script(name: str) -> ModuleType:
    """A script of the docs folder as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", Path("docs") / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_of_commands_is_what_the_parsers_say() -> None:
    cli = script("cli")
    assert cli.PAGE.read_text() == cli.reference(), "run `python docs/cli.py`"


def test_every_argument_says_what_it_is() -> None:
    assert not [line for line in script("cli").reference().splitlines() if line.endswith("`:")]


def test_the_pictures_are_what_their_script_draws() -> None:
    pictures = script("pictures")
    for name, draw in pictures.PICTURES.items():
        assert (Path("docs") / name).read_text() == draw(), "run `python docs/pictures.py`"


def test_architecture_says_what_every_room_is_for() -> None:
    text = Path("docs/architecture.md").read_text()
    rooms = [path.parent for path in sorted(Path("sail_rl").glob("*/__init__.py"))]
    assert [str(room) for room in rooms if f"- `{room}` " not in text] == []
