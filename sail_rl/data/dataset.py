"""Loading a dataset file in TRL's prompt/completion format, with every row checked before any model loads.

Columns: `prompt` (a list of messages, or a string), `images` (a list; in JSONL: paths relative to the file) or `image`,
or `video` (a list of frames, or the path of a file), `completion` (SFT), `answer` and whatever else the rewards want to
see. A row without `id` gets its row number.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets import Dataset, List
from datasets import Image as ImageFeature
from trl.data_utils import prepare_multimodal_messages

from sail_rl.contracts import Message
from sail_rl.models.processing import image_tokens_in

from .encoding import texts_of
from .images import Size, checked_size, open_picture
from .video import frame_sizes, read_frames, with_frames

LOADERS = {".parquet": Dataset.from_parquet, ".jsonl": Dataset.from_json, ".json": Dataset.from_json}


class Rows(Sequence[dict[str, Any]]):
    """The rows of one dataset file; pictures are decoded when a row is read.

    A row's `images` are its pictures; a row with a `video` has its sampled frames there instead, and no images.

    Args:
        path: the file.
        needs: columns that may not be empty.
        video_frames: frames to sample from a video.

    Raises:
        ValueError: at construction, for a file or a row that can't be used, naming file, row and field.
    """

    def __init__(self, path: Path, *, needs: Sequence[str] = ("prompt",), video_frames: int = 8) -> None:
        self.path = path
        self._frames = video_frames
        self._dataset = _undecoded(_load(path))
        missing = [name for name in needs if name not in self._dataset.column_names]
        if missing:
            raise ValueError(
                f"{path}: no column {', '.join(map(repr, missing))} among {', '.join(self._dataset.column_names)}"
            )
        self._sizes: list[list[Size]] = []
        for index, row in enumerate(self._dataset):
            with self._naming(index):
                self._sizes.append(self._check(row, needs))
        self._kept = list(range(len(self._dataset)))

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        number = self._kept[index]
        source = self._dataset[number]
        with self._naming(number):
            images = [open_picture(image, self.path.parent) for image in _images(source)]
            video = read_frames(source["video"], self.path.parent, count=self._frames) if _has_video(source) else []
        return self._row(number, images, video)

    def outline(self, index: int) -> dict[str, Any]:
        """The row with (height, width) in the place of each of its images or frames: nothing is decoded."""
        number = self._kept[index]
        sizes, video = self._sizes[number], _has_video(self._dataset[number])
        return self._row(number, [] if video else sizes, sizes if video else [])

    def stored(self, index: int) -> dict[str, Any]:
        """The row as it lies in the file, images undecoded, with an id."""
        number = self._kept[index]
        row = dict(self._dataset[number])
        row.setdefault("id", str(number))
        return row

    def without(self, indices: Collection[int]) -> Rows:
        """The same rows but for these; the others keep their numbers."""
        rest = copy.copy(self)
        dropped = set(indices)
        rest._kept = [number for index, number in enumerate(self._kept) if index not in dropped]
        return rest

    def number(self, index: int) -> int:
        """The number in the file of the row at `index`."""
        return self._kept[index]

    def texts(self) -> Iterator[str]:
        """All prompt and completion texts, for training a tokenizer."""
        for row in self._dataset.select_columns([c for c in ("prompt", "completion") if c in self.columns]):
            for messages in row.values():
                yield from texts_of(_as_messages(messages))

    @property
    def columns(self) -> list[str]:
        """Names of the file's columns."""
        return self._dataset.column_names

    def _row(self, number: int, images: list[Any], video: list[Any]) -> dict[str, Any]:
        row = dict(self._dataset[number])
        row.pop("image", None)
        row.setdefault("id", str(number))
        row |= {"images": images, "video": video, "prompt": _with_placeholders(row["prompt"], images, len(video))}
        return row

    @contextmanager
    def _naming(self, number: int) -> Iterator[None]:
        """Errors within name file and row."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self.path}, row {number}: {error}") from error

    def _check(self, row: dict[str, Any], needs: Sequence[str]) -> list[Size]:
        """Sizes of the row's images or frames; ValueError for a row that can't be used."""
        for name in needs:
            if row[name] is None or row[name] == "" or row[name] == []:
                raise ValueError(f"{name!r} is empty")
        for name in ("prompt", "completion"):
            for text in texts_of(_as_messages(row.get(name) or "")):
                if written := image_tokens_in(text):
                    raise ValueError(
                        f"{name!r} has {', '.join(written)} in its text, which the model would take for an image; give "
                        "images as parts of the message or in `images`, and take the words out"
                    )
        if _has_video(row):
            if _images(row):
                raise ValueError("the row has images and a video; give one of them")
            with_frames(_as_messages(row["prompt"]), 1)
            return frame_sizes(row["video"], self.path.parent, count=self._frames)
        placeholders, images = _placeholders(row["prompt"]), _images(row)
        if placeholders not in (0, len(images)):
            raise ValueError(f"the prompt has {placeholders} image part(s) but the row has {len(images)} image(s)")
        return [checked_size(image, self.path.parent) for image in images]


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


def _undecoded(dataset: Dataset) -> Dataset:
    """The dataset with images as they are stored: we open them ourselves, so that an error can name its row."""
    for name, feature in dataset.features.items():
        if isinstance(feature, ImageFeature):
            dataset = dataset.cast_column(name, ImageFeature(decode=False))
        elif isinstance(feature, List) and isinstance(feature.feature, ImageFeature):
            dataset = dataset.cast_column(name, List(ImageFeature(decode=False)))
    return dataset


def _images(row: dict[str, Any]) -> list[Any]:
    if row.get("image") is not None:
        return [row["image"]]
    return row.get("images") or []


def _has_video(row: dict[str, Any]) -> bool:
    return row.get("video") is not None


def _as_messages(prompt: str | list[Message]) -> list[Message]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _placeholders(prompt: str | list[Message]) -> int:
    contents = [message["content"] for message in _as_messages(prompt)]
    return sum(part["type"] == "image" for content in contents if isinstance(content, list) for part in content)


def _with_placeholders(prompt: str | list[Message], images: list[Any], frames: int) -> list[Message]:
    """The prompt as messages with one image part for each picture (TRL puts missing ones first in the user turn)."""
    messages = _as_messages(prompt)
    if frames:
        return with_frames(messages, frames)
    return prepare_multimodal_messages(messages, images) if images else messages
