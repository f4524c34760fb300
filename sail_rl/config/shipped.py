"""The recipes that ship with the package: finding one by its name, listing them, copying one to edit."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sail_rl.files import StrPath
from sail_rl.imports import code_file
from sail_rl.paths import expanded
from sail_rl.yaml_reading import read_yaml_file

SHIPPED = Path(__file__).resolve().parents[2] / "recipes"
"""The folder `recipes`, which is installed beside `sail_rl`."""
SCHEMA = re.compile(r"^# yaml-language-server: \$schema=(\S+)$", re.MULTILINE)
"""The line by which editors find the JSON schema of a recipe."""


def shipped_recipes() -> dict[str, Path]:
    """The shipped recipes by name, such as `quickstart` or `sail_vl2_2b/thinking`."""
    return {str(path.relative_to(SHIPPED).with_suffix("")): path for path in sorted(SHIPPED.rglob("*.yaml"))}


def summary(path: Path) -> str:
    """The description of a recipe: the comment on its first line."""
    return path.read_text().partition("\n")[0].removeprefix("#").strip()


def find_recipe(recipe: StrPath) -> Path:
    """The file of a recipe, which is given by its path or by the name of a shipped one.

    Raises:
        ValueError: there is no such file, and no shipped recipe has this name.
    """
    if (path := expanded(recipe)).is_file():
        return path
    known = shipped_recipes()
    if str(recipe) in known:
        return known[str(recipe)]
    nearest = difflib.get_close_matches(str(recipe), known, n=1, cutoff=0.0)
    raise ValueError(
        f"no recipe at {recipe}, and none of this name ships with the package; the nearest name is "
        f"{', '.join(nearest)} (`sail-rl recipes` lists them)"
    )


def copy_recipe(name: str, folder: StrPath) -> list[Path]:
    """Copy a shipped recipe into `folder`, with the recipes that it extends and the files that they name.

    Returns:
        The files that were written, the recipe first.

    Raises:
        ValueError: no shipped recipe has this name, or one of the files exists with another content.
    """
    files = dict.fromkeys(file.resolve() for file in _with_companions(find_recipe(name)))
    root = os.path.commonpath([file.parent for file in files])
    copies = {Path(folder) / file.relative_to(root): file.read_text() for file in files}
    if other := [str(path) for path, text in copies.items() if path.exists() and path.read_text() != text]:
        raise ValueError(f"{', '.join(other)} exists and is not overwritten; give another folder with --out")
    for path, text in copies.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return list(copies)


def _with_companions(recipe: Path, extending: tuple[Path, ...] = ()) -> Iterator[Path]:
    """A recipe, its code files and its schema, and those of the recipes that it extends."""
    if recipe.resolve() in extending:
        raise ValueError(f"{extending[0]} extends itself, by way of {extending[-1]}; take one `extends` out")
    tree = read_yaml_file(recipe)
    text = recipe.read_text()
    yield recipe
    yield from (recipe.parent / schema for schema in SCHEMA.findall(text))
    yield from (recipe.parent / file for file in _code_files(tree) if (recipe.parent / file).is_file())
    if (base := recipe.parent / tree.get("extends", "")).is_file():
        yield from _with_companions(base, (*extending, recipe.resolve()))


def _code_files(tree: Any) -> Iterator[Path]:
    """The file of every value `file.py:name` in a tree."""
    if isinstance(tree, dict | list):
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _code_files(value)
    elif file := code_file(tree):
        yield file
