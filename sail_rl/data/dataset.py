"""Loading a dataset, with every row checked before any model loads.

Columns are TRL's: `prompt` (a list of messages, or a string), `images` (a list; in JSONL: paths relative to the file)
or `image`, or `video` (a list of frames, or the path of a file), `completion` (SFT), `answer` and whatever else the
rewards want to see; other formats are brought into this one (see `formats`). A row without `id` gets its row number,
and one whose `id` others have gets it appended.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trl.data_utils import prepare_multimodal_messages

from sail_rl.contracts import Message
from sail_rl.messages import as_messages, as_parts, image_count, in_parts, texts_of
from sail_rl.models.processing import image_tokens_in

from .files import load_file
from .formats import unified
from .images import Size, checked_size, open_picture
from .video import frame_sizes, read_frames, with_frames


class Rows(Sequence[dict[str, Any]]):
    """The rows of one dataset file; pictures are decoded when a row is read.

    A row's `images` are its pictures; a row with a `video` has its sampled frames there instead, and no images.

    Args:
        path: the file or folder, see `files`.
        needs: columns that may not be empty.
        video_frames: frames to sample from a video.
        columns: ours: theirs, where a column is called otherwise.
        root: folder that paths of images and videos are relative to, and can't leave; None: the dataset's own.

    Raises:
        ValueError: at construction, for a file or a row that can't be used, naming file, row and field.
    """

    def __init__(
        self,
        path: Path,
        *,
        needs: Sequence[str] = ("prompt",),
        video_frames: int = 8,
        columns: Mapping[str, str] | None = None,
        root: Path | None = None,
    ) -> None:
        self.path = path
        self._frames, self._names = video_frames, dict(columns or {})
        self._dataset, folder = load_file(path)
        self.root = root or folder
        with self._naming(0):
            self.columns = list(unified(self._dataset[0], self._names))
        if missing := [name for name in needs if name not in self.columns]:
            raise ValueError(
                f"{path}: no column {', '.join(map(repr, missing))} among {', '.join(self._dataset.column_names)}; "
                "`columns` of the recipe's data can name it"
            )
        self._sizes: list[list[Size]] = []
        given: list[Any] = []
        for index, row in enumerate(self._dataset):
            with self._naming(index):
                ours = unified(row, self._names)
                self._sizes.append(self._check(ours, needs))
                given.append(ours.get("id"))
        self._ids = _distinct(given)
        self._kept = list(range(len(self._dataset)))

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        number = self._kept[index]
        source = self._source(number)
        with self._naming(number):
            images = [open_picture(image, self.root) for image in _images(source)]
            video = read_frames(source["video"], self.root, count=self._frames) if _has_video(source) else []
        return self._row(source, number, images, video)

    def outline(self, index: int) -> dict[str, Any]:
        """The row with (height, width) in the place of each of its images or frames: nothing is decoded."""
        number = self._kept[index]
        source = self._source(number)
        sizes, video = self._sizes[number], _has_video(source)
        return self._row(source, number, [] if video else sizes, sizes if video else [])

    def stored(self, index: int) -> dict[str, Any]:
        """The row in our format, images undecoded, with an id."""
        number = self._kept[index]
        return self._source(number) | {"id": self._ids[number]}

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
        pictures = [self._names.get(name, name) for name in ("image", "images", "video")]
        for row in self._dataset.remove_columns([c for c in pictures if c in self._dataset.column_names]):
            ours = unified(row, {o: t for o, t in self._names.items() if o not in ("image", "images", "video")})
            for name in ("prompt", "completion"):
                yield from texts_of(as_messages(ours.get(name) or ""))

    def _source(self, number: int) -> dict[str, Any]:
        return unified(self._dataset[number], self._names)

    def _row(self, source: dict[str, Any], number: int, images: list[Any], video: list[Any]) -> dict[str, Any]:
        row = {name: value for name, value in source.items() if name != "image"}
        row |= {
            "id": self._ids[number],
            "images": images,
            "video": video,
            "prompt": _with_placeholders(row["prompt"], images, len(video)),
        }
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
            if row.get(name) in (None, "", []):
                raise ValueError(f"{name!r} is empty")
        for name in ("prompt", "completion"):
            for text in texts_of(as_messages(row.get(name) or "")):
                if written := image_tokens_in(text):
                    raise ValueError(
                        f"{name!r} has {', '.join(written)} in its text, which the model would take for an image; give "
                        "images as parts of the message or in `images`, and take the words out"
                    )
        if _has_video(row):
            if _images(row):
                raise ValueError("the row has images and a video; give one of them")
            with_frames(as_messages(row["prompt"]), 1)
            return frame_sizes(row["video"], self.root, count=self._frames)
        placeholders, images = image_count(as_messages(row["prompt"])), _images(row)
        if placeholders not in (0, len(images)):
            raise ValueError(f"the prompt has {placeholders} image part(s) but the row has {len(images)} image(s)")
        return [checked_size(image, self.root) for image in images]


def _distinct(given: Sequence[Any]) -> list[str]:
    """Ids as strings that tell rows apart: the row's number where there is none, and behind one that others have."""
    names = [str(number) if name is None else str(name) for number, name in enumerate(given)]
    counts = Counter(names)
    taken = {name for name, count in counts.items() if count == 1}
    made = []
    for number, name in enumerate(names):
        if counts[name] > 1:
            name = f"{name}#{number}"
            while name in taken:
                name += "'"
            taken.add(name)
        made.append(name)
    return made


def _images(row: dict[str, Any]) -> list[Any]:
    if row.get("image") is not None:
        return [row["image"]]
    return row.get("images") or []


def _has_video(row: dict[str, Any]) -> bool:
    return row.get("video") is not None


def _with_placeholders(prompt: str | list[Message], images: list[Any], frames: int) -> list[Message]:
    """The prompt as messages with one image part for each picture (missing ones come first in the user turn)."""
    messages = as_messages(prompt)
    if frames:
        return with_frames(messages, frames)
    if not images:
        return messages
    if not image_count(messages):
        first = next((n for n, message in enumerate(messages) if message["role"] == "user"), None)
        if first is None:
            raise ValueError(f"the row has {len(images)} image(s), and no user turn that they could belong to")
        parts = [{"type": "image"}] * len(images) + as_parts(messages[first]["content"])
        messages = [*messages[:first], messages[first] | {"content": parts}, *messages[first + 1 :]]
    # As parts: of a text alone TRL would make one more place for the images.
    return prepare_multimodal_messages(in_parts(messages), images)
