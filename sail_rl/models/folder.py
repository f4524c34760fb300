"""Tells what lies in a folder (a model, a LoRA adapter, something else) without loading anything."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from sail_rl.files import atomic_write
from sail_rl.run_dir import RunDir

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
OURS = "sailvl"
"""The `model_type` of SAIL-VL2's config.json, in either layout."""
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """The folder of a saved SAIL-VL2, and a LoRA adapter to merge onto it (None: none)."""

    model: Path
    adapter: Path | None = None

    @property
    def given(self) -> Path:
        """The folder that the user gave: the adapter's if there is one."""
        return self.adapter or self.model


def model_folder(path: Path, *, base: Path | None = None) -> ModelFolder:
    """The saved model, or the LoRA adapter with its base model, that lies in a folder.

    Args:
        path: the folder of a SAIL-VL2 in either layout, or of a LoRA adapter.
        base: the model that the adapter belongs on; None: the one that its adapter_config.json names, as a path
            relative to the adapter's folder or to the working directory.

    Raises:
        ValueError: says what was found instead; or `base` is given for a folder that is no adapter.
    """
    if not (path / ADAPTER_CONFIG).is_file():
        if base is not None:
            raise ValueError(f"--base is {base}, but {path} is not a LoRA adapter; leave out --base")
        check_model_folder(path, takes="the folder of a saved SAIL-VL2 or of a LoRA adapter")
        return ModelFolder(path)
    if not (path / ADAPTER_WEIGHTS).is_file():
        raise ValueError(f"{path}: a LoRA adapter without {ADAPTER_WEIGHTS}; copy the whole folder")
    _check_weights(path, [path / ADAPTER_WEIGHTS])
    return ModelFolder(base_of(path) if base is None else _checked_base(path, base), path)


def base_of(adapter: Path) -> Path:
    """The base model that an adapter's adapter_config.json names: a path, or the folder's name of its run's model.

    Raises:
        ValueError: it names none, or one that isn't there.
    """
    named = _json(adapter / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise ValueError(f"{adapter}: {ADAPTER_CONFIG} names no base model; give its folder with --base")
    for folder in (adapter / named, Path(named), _model_of_run(adapter)):
        if folder and folder.exists() and folder.name == Path(named).name:
            return _checked_base(adapter, folder)
    raise ValueError(
        f"{adapter}: a LoRA adapter of the model {named}, which is not here; give that model's folder with --base"
    )


def name_base(adapter: Path, base: Path, *, place: Path) -> None:
    """Name an adapter's base model in its adapter_config.json.

    A base in the adapter's run is named by its relative path, another one by its folder's name alone: adapters are
    published, and paths of this machine are nobody else's business. `base_of` finds it by the run's recipe.

    Args:
        adapter: the adapter's folder.
        base: the folder of the base model.
        place: the folder in which the adapter will lie, RUN/stages/NAME/adapter.
    """
    base, place, config = base.resolve(), place.resolve(), _json(adapter / ADAPTER_CONFIG)
    inside = base.is_relative_to(place.parents[2])
    config["base_model_name_or_path"] = os.path.relpath(base, place) if inside else base.name
    atomic_write(adapter / ADAPTER_CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")


def check_model_folder(path: Path, *, takes: str = "the folder of a saved SAIL-VL2") -> None:
    """Refuse a folder that doesn't hold a whole SAIL-VL2: its config.json, weights and tokenizer.

    Raises:
        ValueError: one line that says what is needed and what was found.
    """
    if found := _not_a_model(path):
        raise ValueError(f"{path} {found}; give {takes}")


def described(path: Path) -> str:
    """What lies at a path, as the rest of a sentence that begins with the path: `is empty`, `doesn't exist`, …"""
    if not path.exists():
        return "doesn't exist"
    if not path.is_dir():
        return "is a file"
    if not any(path.iterdir()):
        return "is an empty folder"
    if (path / "config.json").is_file():
        return f"holds a model of type {_json(path / 'config.json').get('model_type')!r}"
    if (path / ADAPTER_CONFIG).is_file():
        return "is a LoRA adapter (`sail-rl export` merges it onto its base)"
    if RunDir(path).recipe.is_file():
        return f"is the folder of a run{_models_in(path)}"
    if path.parent.name == "stages" or list(path.glob("checkpoint-*")):
        return f"is the folder of a stage{_models_in(path)}"
    if list(path.glob("*_states.pt")):
        return "holds DeepSpeed's states of a checkpoint, not a model"
    if any((path / name).is_file() for name in TOKENIZER_FILES):
        return "has a tokenizer, but no config.json and no weights"
    names = sorted(inner.name for inner in path.iterdir())
    return f"has no config.json, but {', '.join(names[:3])}{' and more' if len(names) > 3 else ''}"


def _not_a_model(path: Path) -> str | None:
    """What is wrong with the folder as a model, as the rest of a sentence; None: it is one."""
    if not (path / "config.json").is_file():
        return described(path)
    config = _json(path / "config.json")
    if config.get("model_type") != OURS:
        kind = ", ".join(map(str, config.get("architectures") or [])) or "unknown architecture"
        return f"holds a model of type {config.get('model_type')!r} ({kind}), not {OURS!r}"
    weights = sorted(path.glob("*.safetensors"))
    if index := next(iter(sorted(path.glob("*.safetensors.index.json"))), None):
        needed = {str(name) for name in _json(index).get("weight_map", {}).values()}
        if missing := sorted(needed - {file.name for file in weights}):
            return f"lacks {missing[0]} ({len(missing)} of the {len(needed)} files of its weights are missing)"
    if not weights:
        return "has a config.json, but no weights (*.safetensors)"
    _check_weights(path, weights)
    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        return f"has weights, but no tokenizer ({TOKENIZER_FILES[0]})"
    if "llm_config" not in config and not (path / "processor_config.json").is_file():
        return "has weights, but no processor_config.json"
    return None


def _check_weights(folder: Path, files: list[Path]) -> None:
    """Read the header of each file, which tells the file's size, too."""
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                opened.keys()
        except (SafetensorError, OSError) as error:
            size = file.stat().st_size
            raise ValueError(
                f"{folder}: {file.name} ({size} bytes) is not a whole safetensors file ({error}); copy it again"
            ) from None


def _model_of_run(adapter: Path) -> Path | None:
    """The model that an adapter's run started from, if its recipe names one."""
    run = RunDir.of_model(adapter)
    recipe = yaml.safe_load(run.recipe.read_text()) if run else None
    path = ((recipe or {}).get("model") or {}).get("path")
    return Path(path) if path else None


def _checked_base(adapter: Path, base: Path) -> Path:
    if found := _not_a_model(base):
        raise ValueError(
            f"{adapter}: its base model {base} {found}; give the folder of the saved SAIL-VL2 that it was trained on "
            "with --base"
        )
    return base


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} can't be read as JSON ({error}); copy it again") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {type(found).__name__} instead of a JSON object; copy it again")
    return found


def _models_in(folder: Path) -> str:
    """The models in the folder of a run or stage, as the rest of a sentence."""
    places = ("model", "*/model", "stages/*/model")
    found = sorted(str(path.parent) for place in places for path in folder.glob(f"{place}/config.json"))
    return f" with the models {', '.join(found[:5])}" if found else ", which has no model yet"
