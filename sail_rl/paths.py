"""Paths as their owner means them: `~` and `$VAR` expanded once, and each place spelled in one way."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, PlainSerializer

VARIABLE = re.compile(r"\$(?:\{(\w+)\}|([A-Za-z_]\w*))")


class PathError(ValueError):
    """A path with a variable that isn't set, or with a user who doesn't exist."""


def expanded(path: str | os.PathLike[str]) -> Path:
    """The path with `~`, `~user`, `$VAR` and `${VAR}` replaced as a shell does; an existing file of that name wins.

    Values aren't expanded again.

    Raises:
        PathError: a variable isn't set, or a home folder isn't known.
    """
    text = os.fspath(path)
    if (not text.startswith("~") and not VARIABLE.search(text)) or os.path.lexists(text):
        return Path(text)
    start, _, rest = text.partition("/")
    if start.startswith("~"):
        try:
            home = Path(start).expanduser()
        except RuntimeError:
            raise PathError(
                f"{text}: {start} is nobody's home folder; write the path out, or ./{start} for that name"
            ) from None
        return home / _with_values(rest, text).lstrip("/")
    return Path(_with_values(text, text))


def spelled(path: Path) -> str:
    """The path as recipes of runs record it: absolute, and without `..`."""
    return str(path.resolve() if ".." in path.parts else path.absolute())


UserPath = Annotated[Path, AfterValidator(expanded), PlainSerializer(spelled, return_type=str, when_used="json")]
"""A path that a user writes into a recipe."""


def same_place(one: str, other: str, *, roots: tuple[str, str]) -> bool:
    """True if two paths name one place, or places that lie alike relative to their roots, which may have moved."""
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    left, right = (
        os.path.relpath(os.path.realpath(path), os.path.realpath(root))
        for path, root in zip((one, other), roots, strict=True)
    )
    return left == right


def without_places(tree: Any) -> Any:
    """A copy of a tree of plain values with None for each `Path`: for hashes to which the contents are added."""
    if isinstance(tree, dict):
        return {key: without_places(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [without_places(value) for value in tree]
    return None if isinstance(tree, Path) else tree


def _with_values(text: str, whole: str) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            raise PathError(f"{whole}: the environment variable {name} isn't set; set it, or write the path out")
        return os.environ[name]

    return VARIABLE.sub(value, text)
