"""Reading a recipe: YAML, `section.key=value` overrides, and errors that name the key and the nearest valid one."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from sail_rl.files import StrPath
from sail_rl.imports import code_file, with_expanded_path
from sail_rl.paths import PathError, expanded
from sail_rl.yaml_reading import read_yaml, read_yaml_file

from . import Recipe
from .algorithms import laid_over, with_algorithm
from .sections import NAME
from .shipped import find_recipe, shipped_recipes

M = TypeVar("M", bound=BaseModel)
SIMILAR = 0.75  # difflib's ratio below which the surrounding sections are searched, too


def load_recipe(path: StrPath, overrides: Sequence[str] = ()) -> Recipe:
    """Parse a recipe with overrides such as `model.llm=qwen3_moe` or `stages.rlvr.steps=10`.

    A recipe that `extends` another holds only what differs; its `stages` may be a mapping by name (null: without it).
    An `algorithm` sets its defaults where it is named: over the recipe that is extended, under the stage's other keys.
    Without an `output_dir` the run goes to `runs/NAME`, with the overrides in the folder's name, so that variants of a
    recipe don't overwrite each other. Code that the recipe names as `file.py:name` is looked for in the recipe's own
    folder first, then in the working directory.

    Args:
        path: the recipe's file, or the name of a shipped recipe such as `quickstart`.
        overrides: `section.key=value`, each.

    Raises:
        ValueError: for a missing file, an unknown key (with the nearest valid one) or a bad value, all named.
    """
    tree = read_tree(path, overrides)
    if "steps" in tree and "stages" not in tree:
        raise ValueError(f"{path} is a curation recipe; sail-rl data curate runs it")
    tree.setdefault("output_dir", f"runs/{_run_name(str(tree.get('name', Path(path).stem)), overrides)}")
    return validated(Recipe, tree, path)


def read_tree(path: StrPath, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The YAML tree of a recipe of any kind, merged over the one it `extends`, with its overrides."""
    tree = _read(Path(path))
    for override in sorted(overrides, key=lambda text: not _names_algorithm(text)):  # what it sets can be overridden
        _apply(tree, override)
    return _with_code_expanded(tree)


def validated(model: type[M], tree: dict[str, Any], path: StrPath) -> M:
    """The tree as this model; ValueError naming file and keys."""
    if (nan := _not_a_number(tree)) is not None:
        raise ValueError(f"{path}: {nan} is .nan, which is no number; give one")
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = list(_explain(error, model, tree))
        said = f" {lines[0]}" if len(lines) == 1 else "".join(f"\n  {line}" for line in lines)
        raise ValueError(f"{path}:{said}") from None


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML that loads back to the same recipe from every folder: its paths are absolute."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def _read(path: Path, extending: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The tree of a recipe, merged over the one that it `extends` (a path relative to its own, or a shipped name).

    `extending` are the recipes that extend this one, the outermost first.
    """
    path = find_recipe(path)
    chain = (*extending, path.resolve())
    if path.resolve() in extending:
        raise ValueError(f"{extending[0]} extends itself: {' -> '.join(map(str, chain))}; take one `extends` out")
    tree = read_yaml_file(path)
    if not isinstance(tree, dict):
        found = "the file is empty" if tree is None else f"this is a {type(tree).__name__}"
        raise ValueError(f"{path}: {found}, and a recipe is a mapping of sections")
    tree = _anchored(tree, path.parent)
    _expand_algorithms(tree)
    base = tree.pop("extends", None)
    if not base:
        return tree
    if not isinstance(base, str):
        raise ValueError(f"{path}: extends is {base!r:.100}; give the path of one recipe, or the name of a shipped one")
    extended = path.parent / expanded(base)
    if not extended.is_file():
        if base not in shipped_recipes():
            raise ValueError(
                f"{path} extends {base}, but {extended} doesn't exist, and no shipped recipe has this name"
            )
        extended = shipped_recipes()[base]
    return _merged(_read(extended, chain), tree, path)


def _anchored(tree: Any, folder: Path) -> Any:
    """A copy of `tree` with `folder` put before every `file.py:name` whose file lies there.

    The copy shares no sections between stages (YAML anchors do), so that an override changes one stage only.
    """
    if isinstance(tree, dict):
        return {key: _anchored(value, folder) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_anchored(value, folder) for value in tree]
    file = code_file(tree)
    return str(folder / tree) if file and (folder / file).is_file() else tree


def _with_code_expanded(tree: Any) -> Any:
    """A copy of `tree` with `~` and `$VAR` expanded in every `file.py:name`; `UserPath` does it for other paths."""
    if isinstance(tree, dict):
        return {key: _with_code_expanded(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_with_code_expanded(value) for value in tree]
    return with_expanded_path(tree)


def _expand_algorithms(tree: dict[str, Any]) -> None:
    """Add the defaults of each stage's `algorithm`. They replace values of the recipe that this one extends."""
    stages: Any = tree.get("stages")
    items = stages.items() if isinstance(stages, dict) else enumerate(stages) if isinstance(stages, list) else ()
    for key, stage in items:
        if isinstance(stage, dict):
            stages[key] = with_algorithm(stage)


def _names_algorithm(override: str) -> bool:
    return override.startswith("stages.") and override.partition("=")[0].split(".")[2:] == ["algorithm"]


def _merged(base: Any, change: Any, path: Path) -> Any:
    """`change` over `base`: mappings key by key; if `path` changes, `kwargs` aren't inherited.

    A mapping over a list of stages merges by name: null drops a stage, a new one (which says its `kind`) is appended.
    """
    if isinstance(base, dict) and isinstance(change, dict):
        if "kwargs" in base and change.get("path", base.get("path")) != base.get("path"):
            base = {key: value for key, value in base.items() if key != "kwargs"}  # they belong to the replaced code
        return base | {key: _merged(base[key], value, path) if key in base else value for key, value in change.items()}
    if isinstance(base, list) and isinstance(change, dict):
        names = [item.get("name") for item in base]
        added = {name: stage for name, stage in change.items() if name not in names}
        if unknown := [name for name, stage in added.items() if not isinstance(stage, dict) or "kind" not in stage]:
            said = f"{path}: no stage {', '.join(map(str, unknown))} in what it extends"
            raise ValueError(f"{said}, which has {', '.join(map(str, names))}")
        changes = {item["name"]: change.get(item["name"], {}) for item in base}
        kept = [_merged(item, changes[item["name"]], path) for item in base if changes[item["name"]] is not None]
        return kept + [{"name": name, **stage} for name, stage in added.items()]
    return change


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ValueError(f"override {override!r}: write section.key=value")
    *parents, last = key.split(".")
    node: Any = tree
    for name in parents:
        node = _child(node, name, override)
    if not isinstance(node, dict):
        raise ValueError(f"override {override!r}: {'.'.join(parents)} is not a section")
    try:
        value = read_yaml(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"override {override!r}: the value isn't YAML ({' '.join(str(error).split())})") from None
    node.update(laid_over(node, with_algorithm({last: value})) if _names_algorithm(override) else {last: value})


def _child(node: Any, name: str, override: str) -> Any:
    """Section `name` of a mapping (made if missing), or the list item whose `name` it is (a stage)."""
    if isinstance(node, list):
        names = [item.get("name") for item in node]
        if name not in names:
            raise ValueError(f"override {override!r}: no stage {name!r}; the recipe has {', '.join(map(str, names))}")
        return node[names.index(name)]
    if not isinstance(node, dict):
        raise ValueError(f"override {override!r}: {name!r} is inside a value, not a section")
    if node.get(name) is None:  # an algorithm's defaults set sections such as `loss.kl` to null
        node[name] = {}
    return node[name]


def _run_name(name: str, overrides: Sequence[str]) -> str:
    """`NAME` or `NAME,key=value,…` with characters that are safe in a folder's name."""
    parts = [name, *overrides]
    return ",".join("".join(c if c.isalnum() or c in "._=-" else "_" for c in part) for part in parts)


def _not_a_number(tree: Any) -> str | None:
    """The location of the first NaN in a tree, also where any value is allowed: it would differ from itself."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        if isinstance(value, float) and math.isnan(value):
            return str(key)
        if (inner := _not_a_number(value)) is not None:
            name = value.get("name", key) if isinstance(tree, list) and isinstance(value, dict) else key
            return f"{name}.{inner}"
    return None


def _explain(error: ValidationError, model: type[BaseModel], tree: dict[str, Any]) -> Iterator[str]:
    problems = error.errors()
    # A wrong path is an error of all other readings, too, such as a mapping's.
    for problem in [each for each in problems if isinstance(each.get("ctx", {}).get("error"), PathError)] or problems:
        location = ".".join(_named(problem["loc"], tree))
        if problem["type"] == "extra_forbidden":
            unknown = str(problem["loc"][-1])
            nearest = _nearest_key(unknown, _models_at(problem["loc"][:-1], model))
            yield f"{location}: unknown key {unknown!r}; the nearest valid key is {nearest!r}"
        elif problem["type"] == "missing":
            yield f"{location}: is missing; give it"
        elif problem["type"] == "union_tag_invalid":
            tag, known = problem["ctx"]["tag"], problem["ctx"]["expected_tags"].replace("'", "").split(", ")
            yield f"{location}: unknown kind {tag!r}; the nearest of {', '.join(known)} is {_nearest(tag, known)!r}"
        elif problem["type"] == "string_pattern_mismatch" and problem["ctx"]["pattern"] == NAME:
            yield f"{location}: {problem['input']!r} isn't a name; use letters, digits, - and _"
        elif problem["type"] == "value_error":  # from a check of our own, which says what it got
            yield f"{location}: {problem['ctx']['error']}".removeprefix(": ")
        else:
            yield f"{location}: {problem['msg']} (got {problem['input']!r})"


def _named(location: Sequence[str | int], tree: Any) -> Iterator[str]:
    """The keys of an error's location: stages by name, and without the kinds that pydantic adds."""
    for part in location:
        if part == "[key]":  # pydantic's way to say that the key itself is wrong
            return
        if isinstance(tree, list) and isinstance(part, int):
            tree = tree[part]
            yield str(tree.get("name", part)) if isinstance(tree, dict) else str(part)
        elif tree is None or (isinstance(tree, dict) and tree.get("kind") != part):
            tree = tree.get(part) if isinstance(tree, dict) else None
            yield str(part)


def _nearest(name: str, known: Sequence[str]) -> str:
    return difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]


def _nearest_key(unknown: str, sections: Sequence[Sequence[type[BaseModel]]]) -> str:
    """The most similar key of the innermost section that has a similar one, with its path from there."""
    found = [_keys_in(models) for models in sections]
    for keys in found:
        if near := difflib.get_close_matches(unknown, keys, n=1, cutoff=SIMILAR):
            return keys[near[0]]
    return found[0][_nearest(unknown, list(found[0]))]


def _models_at(location: Sequence[str | int], root: type[BaseModel]) -> list[list[type[BaseModel]]]:
    """The possible models at an error's location and at those around it, innermost first."""
    found = [[root]]
    for part in location:
        fields = [model.model_fields[part] for model in found[0] if part in model.model_fields]
        inner = [model for field in fields for model in _models_in(field.annotation)]
        tagged = [model for model in found[0] if _kind(model) == part]  # pydantic names the kind of a stage, too
        if inner or tagged:
            found.insert(0, inner or tagged)
    return found


def _kind(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("kind")
    return get_args(field.annotation)[0] if field else None


def _keys_in(models: Sequence[type[BaseModel]], path: str = "") -> dict[str, str]:
    """Every key of these models and of the models inside them, with its path. Outer keys win over inner ones."""
    keys = {name: path + name for model in models for name in model.model_fields}
    for model in models:
        for name, field in model.model_fields.items():
            several = "NAME." if get_origin(field.annotation) in (list, dict) else ""
            inner = _keys_in(list(_models_in(field.annotation)), f"{path}{name}.{several}")
            keys = inner | keys
    return keys


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
