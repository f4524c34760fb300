"""Loading a dataset file in TRL's prompt/completion format, with every row checked before any model loads.

Columns: `prompt` (a list of messages, or a string), `images` (a list; in JSONL: paths relative to the file) or `image`,
`completion` (SFT), `answer` and whatever else the rewards want to see. A row without `id` gets its row number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from PIL import Image, UnidentifiedImageError
from trl.data_utils import prepare_multimodal_messages

from sail_rl.contracts import Message

LOADERS = {".parquet": Dataset.from_parquet, ".jsonl": Dataset.from_json, ".json": Dataset.from_json}


class Rows(Sequence[dict[str, Any]]):
    """The rows of one dataset file; images are decoded when a row is read.

    Raises:
        ValueError: at construction, for a file or a row that can't be used, naming file, row and field.
    """

    def __init__(self, path: Path, *, needs: Sequence[str] = ("prompt",)) -> None:
        self.path = path
        self._dataset = _load(path)
        missing = [name for name in needs if name not in self._dataset.column_names]
        if missing:
            raise ValueError(
                f"{path}: no column {', '.join(map(repr, missing))} among {', '.join(self._dataset.column_names)}"
            )
        for index, row in enumerate(self._without_decoding()):
            self._check(index, row, needs)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        row = dict(self._dataset[index])
        row.setdefault("id", str(index))
        row["images"] = [self._open(index, image) for image in _images(row)]
        row.pop("image", None)
        row["prompt"] = _with_placeholders(row["prompt"], row["images"])
        return row

    def texts(self) -> Iterator[str]:
        """All prompt and completion texts, for training a tokenizer."""
        for row in self._dataset.select_columns([c for c in ("prompt", "completion") if c in self.columns]):
            for messages in row.values():
                yield from (message["content"] for message in _as_messages(messages, role="user"))

    @property
    def columns(self) -> list[str]:
        """Names of the file's columns."""
        return self._dataset.column_names

    def _without_decoding(self) -> Iterator[dict[str, Any]]:
        from datasets import Image as ImageFeature
        from datasets import List

        dataset = self._dataset
        for name, feature in dataset.features.items():
            if isinstance(feature, ImageFeature):
                dataset = dataset.cast_column(name, ImageFeature(decode=False))
            elif isinstance(feature, List) and isinstance(feature.feature, ImageFeature):
                dataset = dataset.cast_column(name, List(ImageFeature(decode=False)))
        return iter(dataset)

    def _check(self, index: int, row: dict[str, Any], needs: Sequence[str]) -> None:
        for name in needs:
            if row[name] is None or row[name] == "" or row[name] == []:
                raise ValueError(f"{self.path}, row {index}: {name!r} is empty")
        for image in _images(row):
            if isinstance(image, str) and not self._resolve(image).is_file():
                raise ValueError(
                    f"{self.path}, row {index}: image {image!r} is missing (looked for {self._resolve(image)}); "
                    "paths are relative to the dataset file"
                )
        placeholders = _placeholders(row["prompt"])
        if placeholders not in (0, len(_images(row))):
            raise ValueError(
                f"{self.path}, row {index}: the prompt has {placeholders} image part(s) but the row has "
                f"{len(_images(row))} image(s)"
            )

    def _resolve(self, image: str) -> Path:
        return self.path.parent / image

    def _open(self, index: int, image: Any) -> Image.Image:
        if isinstance(image, Image.Image):
            return image.convert("RGB")
        try:
            with Image.open(self._resolve(image)) as opened:
                return opened.convert("RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{self.path}, row {index}: image {image!r} does not decode: {error}") from error


def _load(path: Path) -> Dataset:
    if path.suffix not in LOADERS:
        raise ValueError(f"{path}: unknown ending {path.suffix!r}; give one of {', '.join(LOADERS)}")
    if not path.is_file():
        raise ValueError(f"{path}: no such dataset file")
    # datasets fails on a file of no bytes with an internal error
    dataset = LOADERS[path.suffix](str(path), keep_in_memory=True) if path.stat().st_size else Dataset.from_dict({})
    assert isinstance(dataset, Dataset)
    if len(dataset) == 0:
        raise ValueError(f"{path}: the dataset has no rows")
    return dataset


def _images(row: dict[str, Any]) -> list[Any]:
    if row.get("image") is not None:
        return [row["image"]]
    return row.get("images") or []


def _as_messages(prompt: str | list[Message], *, role: str) -> list[Message]:
    return [{"role": role, "content": prompt}] if isinstance(prompt, str) else prompt


def _placeholders(prompt: str | list[Message]) -> int:
    contents = [message["content"] for message in _as_messages(prompt, role="user")]
    return sum(part["type"] == "image" for content in contents if isinstance(content, list) for part in content)


def _with_placeholders(prompt: str | list[Message], images: list[Any]) -> list[Message]:
    """The prompt as messages with one image part for each image (TRL puts missing ones first in the user turn)."""
    messages = _as_messages(prompt, role="user")
    return prepare_multimodal_messages(messages, images) if images else messages
