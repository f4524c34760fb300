"""Probes which experts each data source activates, in packed forward passes over a sample of its rows."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import AutoProcessor

from sail_rl.data.dataset import Rows
from sail_rl.data.encoding import Encoder, Sample
from sail_rl.data.packing import collate
from sail_rl.files import atomic_write
from sail_rl.maths.balance import expert_shares, load_entropy, router_sums
from sail_rl.models import SailVLConfig, SailVLForConditionalGeneration
from sail_rl.models.folder import check_model_folder
from sail_rl.models.loading import load_model

from .source import Activation

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """The size of each source's sample, and the size of a forward pass.

    A sample ends at `rows` or `tokens`, whichever comes first; `seed` sets the order of the rows. A forward pass has at
    most `pack_length` tokens, unless it holds a single longer sample.
    """

    rows: int
    tokens: int
    pack_length: int
    seed: int

    def __post_init__(self) -> None:
        for name in ("rows", "tokens", "pack_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1")


def probe(model_dir: Path, sources: Mapping[str, Path], *, limits: Limits, dtype: torch.dtype) -> dict[str, Any]:
    """Measure expert activation by source; returns the JSON value that `write_probe` writes.

    All sources are read and checked before the model loads.

    Raises:
        ValueError: for a dense model, a folder without a model, or a source that is missing or empty.
    """
    config = _moe_config(model_dir)
    rows = {name: Rows(path) for name, path in sources.items()}
    encoder = Encoder(AutoProcessor.from_pretrained(model_dir), max_length=config.text_config.max_position_embeddings)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(model_dir, dtype=dtype).to(device).eval()
    activations = {name: activation(model, own, encoder, limits=limits, name=name) for name, own in rows.items()}
    return {
        "model": str(model_dir),
        "layers": config.text_config.num_hidden_layers,
        "experts": config.text_config.num_experts,
        "experts_per_token": config.text_config.num_experts_per_tok,
        "sources": {
            name: {"path": str(sources[name]), **found.as_dict(), "entropy": _entropies(found)}
            for name, found in activations.items()
        },
    }


@torch.no_grad()
def activation(
    model: SailVLForConditionalGeneration,
    rows: Sequence[dict[str, Any]],
    encoder: Encoder,
    *,
    limits: Limits,
    name: str,
) -> Activation:
    """Count the routed slots of all tokens (prompt, images and completion) of a source's samples."""
    order = random.Random(limits.seed).sample(range(len(rows)), min(limits.rows, len(rows)))
    filler = encoder.filler()
    text = model.config.text_config
    counts = torch.zeros(text.num_hidden_layers, text.num_experts, dtype=torch.float64)
    used = tokens = pictured = 0
    with _progress(name, len(order)) as progress:
        task = progress.add_task(name, total=len(order))
        for samples in _batches((_sample(encoder, rows[index]) for index in order), limits=limits):
            micro_batch = collate(samples, filler=filler)
            output = model(**micro_batch.unlabelled().model_inputs(model.device))
            assert output.router_logits is not None
            uses = micro_batch.uses.to(model.device)
            counts += router_sums(output.router_logits, uses, experts_per_token=text.num_experts_per_tok).counts.cpu()
            used, tokens = used + len(samples), tokens + int(uses.sum())
            pictured += sum(sample.pixel_values is not None for sample in samples)
            progress.update(task, completed=used)
    logger.info("%s: %d of %d rows, %d tokens", name, used, len(rows), tokens)
    return Activation(rows=used, rows_with_images=pictured, tokens=tokens, counts=counts.numpy().astype(numpy.int64))


def write_probe(path: Path, result: Mapping[str, Any]) -> None:
    """Write the result of `probe` as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(result) + "\n")


def _moe_config(model_dir: Path) -> SailVLConfig:
    check_model_folder(model_dir)
    config = SailVLConfig.from_pretrained(model_dir)
    if not config.is_moe:
        raise ValueError(
            f"{model_dir} is a dense model (text_config.model_type is {config.text_config.model_type!r}): it has "
            "no experts to probe; give a model with 'qwen3_moe'"
        )
    return config


def _sample(encoder: Encoder, row: dict[str, Any]) -> Sample:
    """A row's tokens, including its completion, all marked as labelled."""
    if row.get("completion") is not None:
        return replace(encoder.sft_sample(row), prompt_length=1)
    input_ids, images = encoder.prompt_inputs(encoder.prompt(row))
    if len(input_ids) > encoder.max_length:
        raise ValueError(
            f"row {row['id']} has {len(input_ids)} tokens, but the model takes at most {encoder.max_length}"
        )
    return Sample(input_ids, 1, images.get("pixel_values"), images.get("image_grid_thw"))


def _batches(samples: Iterator[Sample], *, limits: Limits) -> Iterator[list[Sample]]:
    """Batches of consecutive samples with at most `pack_length` tokens each, until `tokens` are reached."""
    batch: list[Sample] = []
    size = total = 0
    for sample in samples:
        if batch and size + len(sample) > limits.pack_length:
            yield batch
            batch, size = [], 0
        batch.append(sample)
        size, total = size + len(sample), total + len(sample)
        if total >= limits.tokens:
            break
    if batch:
        yield batch


def _entropies(found: Activation) -> list[float]:
    """The entropy of the activation in each layer, in nats."""
    return load_entropy(expert_shares(torch.from_numpy(found.counts).double())).tolist()


def _progress(name: str, rows: int) -> Progress:
    """A progress bar, which appears only on a terminal."""
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, disable=not console.is_terminal)
