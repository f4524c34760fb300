"""Datasets of the Hugging Face hub, fetched because a recipe names them, and kept as Parquet beside the run."""

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
    """The Parquet file of a hub dataset in `folder`; it is fetched once. `which`: see `fetch`."""
    path = fetched_path(folder, label, hub, **which)
    if not path.is_file():
        logger.info("fetching %s from the hub", hub)
        fetch(path, hub, **which)
    return path


def fetched_path(folder: Path, label: str, hub: str, **which: Any) -> Path:
    """Where it is, or will be."""
    return folder / f"{label}-{short_hash({'hub': hub, **which})}.parquet"


def fetch(
    path: Path, name: str, *, config: str | None = None, split: str = "train", revision: str | None, rows: int | None
) -> None:
    """Write a split of hub dataset `name` to `path` (.parquet), which appears when it is whole.

    Args:
        path: the file.
        name: `organisation/dataset`.
        config: its configuration, if it has several.
        split: its split.
        revision: branch, tag or commit.
        rows: only the first so many, read as a stream; None: all.

    Raises:
        ValueError: when it can't be had.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _online():
            found = load_dataset(name, config, split=split, revision=revision, streaming=rows is not None)
            if rows is not None:
                found = Dataset.from_list(list(islice(found, rows)), features=found.features)
    except Exception as error:  # network, authentication, a wrong name: of many libraries
        raise ValueError(f"hub dataset {name} ({split}) can't be had: {error}") from error
    with atomic_path(path) as partial:
        found.to_parquet(partial)


@contextmanager
def _online() -> Iterator[None]:
    """Our command line keeps the hub's libraries offline; here the recipe has asked for them."""
    before = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = False
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE = before
