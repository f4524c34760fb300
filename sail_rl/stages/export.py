"""Export for publication: weights, processor, chat template, generation config, and a model card with the lineage."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import AutoProcessor

from sail_rl.config import ExportStage
from sail_rl.files import atomic_path
from sail_rl.models.build import refuse_to_overwrite
from sail_rl.models.folder import ModelFolder, model_folder
from sail_rl.models.merging import load_merged
from sail_rl.plan.plan import Plan
from sail_rl.reporting.curves import write_curves
from sail_rl.run_dir import LINEAGE, RunDir

from .train import StageResult


def export_model(
    model_dir: Path,
    out: Path,
    *,
    base: Path | None = None,
    run_dir: Path | None = None,
    published: bool = False,
    name: str | None = None,
) -> None:
    """Write a model for publication.

    Args:
        model_dir: the folder of a model, or of a LoRA adapter, which is merged onto its base model.
        out: a new or empty folder.
        base: the adapter's base model; None: the one that the adapter names.
        run_dir: the run that made it, for the card's lineage and curves; None: found from `model_dir` if it is
            RUN/stages/NAME/model or RUN/stages/NAME/adapter.
        published: in the published layout; False: in ours, which vLLM reads.
        name: the model's name in the card; None: the folder's name.

    Raises:
        ValueError: if `out` isn't empty, `model_dir` holds no model, or the layout doesn't support this model.
    """
    refuse_to_overwrite(out)
    folder = model_folder(model_dir.resolve(), base=base)
    run = RunDir(run_dir) if run_dir else RunDir.of_model(folder.given)
    with atomic_path(out) as partial:
        _write_export(folder, partial, run=run, published=published, name=name or out.name)


def _write_export(folder: ModelFolder, out: Path, *, run: RunDir | None, published: bool, name: str) -> None:
    model = load_merged(folder, dtype="auto")
    model.save_pretrained(out, save_original_format=published)
    AutoProcessor.from_pretrained(folder.model).save_pretrained(out)
    lineage = lineage_of(folder.given)
    if lineage:
        (out / LINEAGE).write_text(json.dumps(lineage, indent=2) + "\n")
    curves = write_curves(run.root).get("overview") if run else None
    if curves:
        shutil.copyfile(curves, out / curves.name)
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    facts = {"parameters": f"{millions:,.1f}M, {dtype}", "language model": model.config.text_config.model_type}
    (out / "README.md").write_text(card(name, lineage, facts, curves=bool(curves)))


def export_stage(plan: Plan, config: ExportStage, models: Sequence[Path]) -> StageResult:
    """Export the model of a stage of this run into the export stage's folder (rank 0 only)."""
    start = time.perf_counter()
    out = plan.recipe.run_dir.stage(config.name).export
    shutil.rmtree(out, ignore_errors=True)  # left by a run that was killed before it wrote the result
    run_dir = plan.recipe.output_dir
    export_model(models[0], out, run_dir=run_dir, published=config.published, name=plan.recipe.name)
    return StageResult(config.name, (time.perf_counter() - start) / 60, None, None)


def push(folder: Path, repository: str, *, private: bool = True, endpoint: str | None = None) -> str:
    """Upload an exported folder to the hub repository `owner/name`, and create it if it is missing; return its address.

    Args:
        folder: a folder that `export_model` wrote.
        repository: `owner/name`; the token is that of `hf auth login`, or HF_TOKEN.
        private: make a new repository private.
        endpoint: the hub's address; None: the default hub.

    Raises:
        ValueError: with the hub's error message.
    """
    import huggingface_hub
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    huggingface_hub.constants.HF_HUB_OFFLINE = False  # the user asked for the network by --push
    api = HfApi(endpoint=endpoint)
    try:
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=repository)
    except (HfHubHTTPError, OSError) as error:
        raise ValueError(
            f"{repository} can't be pushed to the hub ({error}); {folder} is complete, push it again"
        ) from error
    return str(address)


def lineage_of(model_dir: Path) -> list[dict[str, Any]]:
    """The lineage of a model (or adapter) and of all its ancestors, oldest first; [] if the model has none."""
    file = model_dir / LINEAGE
    if not file.is_file():
        return []
    own = json.loads(file.read_text())
    if not isinstance(own, dict) or "stage" not in own:
        return [own] if isinstance(own, dict) else own
    run = RunDir.of_model(model_dir)
    if run is None:  # a copy of the model, away from its run
        return [own]
    found: dict[str, dict[str, Any]] = {}
    for parent in own["parents"]:
        for ancestor in lineage_of(run.model(parent["stage"])):
            found.setdefault(ancestor.get("stage", ""), ancestor)
    for source in own["data"].values():
        if "stage" in source and (harvest := run.stage(source["stage"]).lineage).is_file():
            found.setdefault(source["stage"], json.loads(harvest.read_text()))
    return [*found.values(), own]


def card(name: str, lineage: list[dict[str, Any]], facts: dict[str, str], *, curves: bool) -> str:
    """The model card (Markdown with the hub's YAML head)."""
    head = {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": ["sail-vl2", "reasoning", "sail-rl"],
    }
    lines = ["---", yaml.safe_dump(head, sort_keys=False).strip(), "---", "", f"# {name}", ""]
    lines += [f"- {key}: {value}" for key, value in facts.items()]
    if stages := [entry for entry in lineage if "stage" in entry]:
        lines += ["", "## How it was made", "", *_table(stages)]
        rows = dict.fromkeys(entry["metrics"].get("heldout_rows") for entry in stages)
        lines += [line for found in rows if found for line in ("", f"Held-out rows: {found}.")]
        if curves:
            lines += ["", f"![Curves of training]({RunDir('').overview})"]
        lines += ["", f"All settings, hashes of the data, and versions: [{LINEAGE}]({LINEAGE})."]
    lines += ["", "## Use", "", "```python", "import sail_rl.models  # registers the model with transformers"]
    lines += ["from transformers import AutoModelForImageTextToText, AutoProcessor", ""]
    lines += [f'model = AutoModelForImageTextToText.from_pretrained("{name}")']
    lines += [f'processor = AutoProcessor.from_pretrained("{name}")', ""]
    lines += [
        'messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}]'
    ]
    lines += ["text = processor.apply_chat_template(messages, add_generation_prompt=True)"]
    lines += ['inputs = processor(images=[image], text=text, return_tensors="pt")  # image: a PIL image']
    lines += ["print(processor.decode(model.generate(**inputs, max_new_tokens=1024)[0]))", "```", ""]
    return "\n".join(lines)


def _table(stages: list[dict[str, Any]]) -> Iterator[str]:
    yield "| stage | kind | from | data | held-out before → after |"
    yield "|---|---|---|---|---|"
    for entry in stages:
        name, kind, data = entry["stage"], entry["settings"]["kind"], ", ".join(entry["data"])
        parents = ", ".join(parent["stage"] for parent in entry["parents"])
        before, after = (entry["metrics"].get(f"heldout_accuracy_{when}") for when in ("before", "after"))
        accuracy = " → ".join("–" if value is None else f"{value:.1%}" for value in (before, after))
        yield f"| {name} | {kind} | {parents} | {data} | {accuracy} |"
