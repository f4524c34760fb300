"""Fetches the Hugging Face hub datasets that a recipe names, and keeps them as Parquet files beside the run."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
from datasets import Dataset, load_dataset

from sail_rl.files import atomic_path, short_hash

logger = logging.getLogger(__name__)


def fetched(folder: Path, label: str, hub: str, **which: Any) -> Path:
    """The Parquet file of a hub dataset in `folder`, fetched unless it exists. `which` are options of `fetch`."""
    path = fetched_path(folder, label, hub, **which)
    if not path.is_file():
        logger.info("fetching %s from the hub", hub)
        fetch(path, hub, **which)
    return path


def fetched_path(folder: Path, label: str, hub: str, **which: Any) -> Path:
    """The path of that Parquet file, whether it exists or not."""
    return folder / f"{label}-{short_hash({'hub': hub, **which})}.parquet"


def fetch(
    path: Path, name: str, *, config: str | None = None, split: str = "train", revision: str | None, rows: int | None
) -> None:
    """Write a split of a hub dataset to `path` atomically.

    Args:
        path: the Parquet file.
        name: the dataset, `organisation/dataset`.
        config: its configuration, if it has several.
        split: its split.
        revision: a branch, tag or commit.
        rows: the number of first rows to read, as a stream; None reads all rows.

    Raises:
        ValueError: if the dataset can't be fetched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _online():
            found = load_dataset(name, config, split=split, revision=revision, streaming=rows is not None)
            if rows is not None:
                found = Dataset.from_list(list(islice(found, rows)), features=found.features)
    except Exception as error:  # several libraries raise for networks, credentials and names
        raise ValueError(f"hub dataset {name} ({split}) can't be fetched: {error}") from error
    with atomic_path(path) as partial:
        found.to_parquet(partial)


@contextmanager
def _online() -> Iterator[None]:
    """Let the hub libraries go online, which the command line otherwise prevents; here the recipe asks for it."""
    before = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = False
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE = before
