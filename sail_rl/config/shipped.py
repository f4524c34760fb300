"""The recipes that ship with the package: finding one by its name, listing them, copying one to edit."""

from __future__ import annotations

import difflib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from sail_rl.files import StrPath
from sail_rl.imports import code_file

SHIPPED = Path(__file__).resolve().parents[2] / "recipes"
"""The folder `recipes`, which is installed beside `sail_rl`."""


SCHEMA = re.compile(r"^# yaml-language-server: \$schema=(\S+)$", re.MULTILINE)
"""The line by which editors find the JSON schema of a recipe."""


def shipped_recipes() -> dict[str, Path]:
    """The shipped recipes by name, such as `quickstart` or `sail_vl2_2b/thinking`."""
    return {str(path.relative_to(SHIPPED).with_suffix("")): path for path in sorted(SHIPPED.rglob("*.yaml"))}


def summary(path: Path) -> str:
    """What a recipe says about itself: its first line, a comment."""
    return path.read_text().partition("\n")[0].removeprefix("#").strip()


def find_recipe(recipe: StrPath) -> Path:
    """The file of a recipe, which is given by its path or by the name of a shipped one.

    Raises:
        ValueError: there is no such file, and no shipped recipe has this name.
    """
    if Path(recipe).is_file():
        return Path(recipe)
    known = shipped_recipes()
    if str(recipe) in known:
        return known[str(recipe)]
    nearest = difflib.get_close_matches(str(recipe), known, n=1, cutoff=0.0)
    raise ValueError(
        f"no recipe at {recipe}, and none of this name ships with the package; the nearest name is "
        f"{', '.join(nearest)} (`sail-rl recipes` lists them)"
    )


def copy_recipe(name: str, folder: StrPath) -> list[Path]:
    """Copy a shipped recipe into `folder`, with the recipes that it extends and the code that lies beside it.

    Returns:
        The files that were written, the recipe first.

    Raises:
        ValueError: no shipped recipe has this name, or one of the files exists already.
    """
    source = find_recipe(name)
    copies = {file: Path(folder) / file.relative_to(source.parent) for file in dict.fromkeys(_with_companions(source))}
    if existing := [str(target) for target in copies.values() if target.exists()]:
        raise ValueError(f"{', '.join(existing)} exists and is not overwritten; give another folder with --out")
    for file, target in copies.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return list(copies.values())


def _with_companions(recipe: Path) -> Iterator[Path]:
    """A recipe, the files of code and the schema that it names, and the same of the recipes that it extends."""
    text = recipe.read_text()
    tree = yaml.safe_load(text)
    yield recipe
    yield from (recipe.parent / schema for schema in SCHEMA.findall(text))
    yield from (recipe.parent / file for file in _code_files(tree) if (recipe.parent / file).is_file())
    if base := tree.get("extends"):
        yield from _with_companions(recipe.parent / base)


def _code_files(tree: Any) -> Iterator[Path]:
    """The file of every value `file.py:name` in a tree."""
    if isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _code_files(value)
    elif file := code_file(tree):
        yield file
