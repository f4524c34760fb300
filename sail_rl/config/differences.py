"""The settings in which two recipes of one run differ."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sail_rl.paths import same_place

from .recipe import Recipe
from .result_settings import result_settings

SHOWN = 5
"""Number of differences that are listed."""
LENGTH = 60
"""Characters of a value that are shown."""
MISSING = object()


def differences(recorded: dict[str, Any], recipe: Recipe) -> str:
    """What a run's recorded recipe says differently than this one, as "KEY is OLD there and NEW here; …"; or "".

    Settings that don't change results don't count, nor does the spelling of a path: paths are the same if they lead to
    one place, or to places that lie alike relative to the run's folders, as after moving a project.

    Args:
        recorded: the recipe in the run's folder, as plain values.
        recipe: the recipe that is to go on with that run.
    """
    roots = str(recorded.get("output_dir", "")), str(recipe.output_dir.absolute())
    now = result_settings(recipe.model_dump(mode="json"))
    found = list(_different(result_settings(recorded), now, recipe.model_dump(), roots))
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(found[:SHOWN]) + more


def _different(old: Any, new: Any, typed: Any, roots: tuple[str, str], key: str = "") -> Iterator[str]:
    """The differences at `key`. `typed` is `new` as Python values, in which paths are `Path`s."""
    if all(_is_named(value) for value in (old, new)):
        if list(old := _by_name(old)) != list(new := _by_name(new)) and sorted(old) == sorted(new):
            yield f"{key} has the order {', '.join(old)} there and {', '.join(new)} here"
        typed = _by_name(typed) if _is_named(typed) else None
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            inner = typed.get(name) if isinstance(typed, dict) else None
            where = f"{key}.{name}" if key else name
            yield from _different(old.get(name, MISSING), new.get(name, MISSING), inner, roots, where)
    elif old != new and not (isinstance(typed, Path) and isinstance(old, str) and same_place(old, new, roots=roots)):
        yield f"{key} is {_shown(old)} there and {_shown(new)} here"


def _is_named(value: Any) -> bool:
    """True for a list of sections with names, such as the stages."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) and "name" in item for item in value)


def _by_name(items: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in items}


def _shown(value: Any) -> str:
    if value is MISSING:
        return "missing"
    text = str(value)
    return text if len(text) <= LENGTH or "/" in text[:2] else f"{text[:LENGTH]}…"
