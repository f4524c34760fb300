"""The card (README.md) of a LoRA adapter's folder."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from .folder import ADAPTER_CONFIG


def adapter_card(folder: Path, name: str) -> str:
    """The card of the adapter in a folder (Markdown with the hub's YAML head), without any path of this machine.

    Args:
        folder: the adapter's folder, with its adapter_config.json.
        name: the adapter's name, for the title.
    """
    config = json.loads((folder / ADAPTER_CONFIG).read_text())
    base = config["base_model_name_or_path"]
    head = {
        "library_name": "peft",
        "pipeline_tag": "image-text-to-text",
        "tags": ["lora", "sail-vl2", "reasoning", "sail-rl"],
    }
    full = ", ".join(config.get("modules_to_save") or [])
    lines = ["---", yaml.safe_dump(head, sort_keys=False).strip(), "---", "", f"# {name}", ""]
    lines += [f"A LoRA adapter of the SAIL-VL2 `{base}`, trained with sail-rl.", ""]
    lines += [f"- rank {config['r']}, alpha {config['lora_alpha']}, dropout {config['lora_dropout']}"]
    lines += [f"- modules that are trained in full: {full}"] if full else []
    lines += ["", "## Use", "", "```console"]
    lines += ["$ sail-rl sample ADAPTER data.jsonl --base BASE --out samples    # and so does `sail-rl eval`"]
    lines += ["$ sail-rl export ADAPTER OUT --base BASE                         # the model with the adapter merged in"]
    lines += ["```", "", "```python", "import sail_rl.models  # registers the model with transformers"]
    lines += ["from peft import PeftModel", "from transformers import AutoModelForImageTextToText, AutoProcessor", ""]
    lines += ["model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(BASE), ADAPTER)"]
    lines += ["processor = AutoProcessor.from_pretrained(ADAPTER)", "```", ""]
    return "\n".join(lines)
