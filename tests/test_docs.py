"""README and docs: generated pages are up to date, links resolve, lines are short."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from sail_rl.cli.main import make_parser
from sail_rl.config import Recipe, RLStage
from sail_rl.config.loading import load_recipe

PAGES = [Path("README.md"), Path("CONTRIBUTING.md"), Path("CHANGELOG.md"), *sorted(Path("docs").glob("*.md"))]


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


def test_the_readme_is_short() -> None:
    assert len(Path("README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_lines_are_short(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert [f"{page}:{number}" for number, line in enumerate(lines, 1) if len(line) > 120] == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_resolve(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        assert target.exists(), f"{page} links to {link}"
        assert not anchor or anchor in _anchors(target), f"{page} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_yaml_blocks_are_valid_recipes_or_sections(page: Path, tmp_path: Path) -> None:
    for block in _blocks(page, "yaml"):
        tree = yaml.safe_load(block)
        if isinstance(tree, list):  # stages, here of the quickstart's data
            tree = {"extends": "quickstart", "stages": tree}
        if "extends" in tree:
            (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
            load_recipe(tmp_path / "recipe.yaml")
            continue
        for key, value in tree.items():
            fields = Recipe.model_fields if key in Recipe.model_fields else RLStage.model_fields
            assert key in fields, f"{page}: {key}"
            annotation: Any = dict[str, Any] if key == "sampling" else fields[key].annotation
            TypeAdapter(annotation).validate_python(value)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_parse(page: Path) -> None:
    for command in _commands(page):
        options, rest = make_parser().parse_known_args(command)
        assert not [word for word in rest if word.startswith("-") or not hasattr(options, "overrides")], command


def _commands(page: Path) -> Iterator[list[str]]:
    """The arguments of every `sail-rl` command in a page's console blocks."""
    for block in _blocks(page, "console"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if "sail-rl" in words[:1]:
                yield words[1:]
            elif "sail_rl" in words:
                yield words[words.index("sail_rl") + 1 :]


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def _prose(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    """The names by which a page's headings can be linked to."""
    headings = re.findall(r"^#+ (.*)$", _prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_site_has_every_page() -> None:
    text = Path("mkdocs.yml").read_text()
    pages = [path.name for path in sorted(Path("docs").glob("*.md"))]
    assert sorted(re.findall(r"[\w-]+\.md", text)) == sorted([*pages, "index.md"])  # index.md: the README
