"""Makes the JSON schema of recipe files, which editors use to complete and check them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic.json_schema import models_json_schema

from .curation import CurationRecipe
from .recipe import Recipe

Schema = dict[str, Any]
REFERENCE = "#/$defs/{model}"


def recipe_schema() -> Schema:
    """The schema of a recipe file: of a run, or of curation (with `steps` and `out`).

    It allows `extends`, `stages` as a mapping by name with null to drop one, and short curation steps. It doesn't
    require values that an `algorithm` or an extended recipe may provide; `sail-rl check` finds missing ones.
    """
    _, schema = models_json_schema(
        [(Recipe, "validation"), (CurationRecipe, "validation")], ref_template=REFERENCE, title="A recipe of sail-rl"
    )
    models = schema["$defs"]
    required = {name: models[name].pop("required", []) for name in models}
    for node in _nodes(schema):
        node.pop("discriminator", None)
        if "patternProperties" in node:
            node["additionalProperties"] = False
    for name in ("Recipe", "CurationRecipe"):
        models[name]["properties"]["extends"] = {
            "type": "string",
            "description": "Another recipe, which this one changes: a path relative to this file, or a shipped name.",
        }
        needed = [key for key in required[name] if key != "output_dir"]  # runs/NAME by default
        models[name]["anyOf"] = [{"required": ["extends"]}, {"required": needed}]
    _allow_mapping(models["Recipe"]["properties"])
    for name in ("Curation", "CurationRecipe"):
        _allow_short_steps(models[name]["properties"]["steps"], models)
    curates = {"anyOf": [{"required": ["steps"]}, {"required": ["out"]}]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "if": curates,
        "then": _reference("CurationRecipe"),
        "else": _reference("Recipe"),
        **schema,
    }


def _allow_mapping(properties: Schema) -> None:
    """Allow `stages` as a list, or as changes by name to the stages of the extended recipe."""
    stages = properties["stages"]
    kinds = stages.pop("items")["oneOf"]
    listed = {"required": ["name", "kind"], "oneOf": kinds}
    by_name = {"anyOf": [{"type": "null"}, *kinds]}
    stages.pop("type")
    stages["anyOf"] = [{"type": "array", "items": listed}, {"type": "object", "additionalProperties": by_name}]


def _allow_short_steps(steps: Schema, models: Schema) -> None:
    """Allow a curation step as `kind`, as `kind: {settings}`, or as settings with a `kind`."""
    whole = steps["items"]["oneOf"]
    references = [step["$ref"].rpartition("/")[2] for step in whole]
    kinds = {models[name]["properties"]["kind"]["const"]: _reference(name) for name in references}
    settings = {kind: {"anyOf": [{"type": "null"}, step]} for kind, step in kinds.items()}
    short = {"type": "object", "properties": settings, "additionalProperties": False, "maxProperties": 1}
    written_out = {"required": ["kind"], "oneOf": whole}
    steps["items"] = {"anyOf": [{"enum": list(kinds)}, short, written_out]}


def _reference(model: str) -> Schema:
    return {"$ref": REFERENCE.format(model=model)}


def _nodes(tree: Any) -> Iterator[Schema]:
    """Every mapping in a schema."""
    if isinstance(tree, dict):
        yield tree
    for inner in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _nodes(inner)
