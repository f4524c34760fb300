"""Loads a dataset and checks every row before any model loads.

The columns are TRL's: `prompt` (messages or a string), `images` (a list; paths in JSONL are relative to the file),
`image` or `video` (a list of frames, or a file's path), `completion` (for SFT), `answer`, and any columns that rewards
read. `formats` converts other formats into this one. A row's `id` defaults to its row number, and the row number is
appended to repeated ids.
"""

from __future__ import annotations

import copy
import logging
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trl.data_utils import prepare_multimodal_messages

from sail_rl.contracts import Message
from sail_rl.messages import as_messages, as_parts, image_count, in_parts, texts_of

from .files import load_file
from .formats import CONVERSATIONS, unified
from .images import BrokenPictureError, Size, checked_size, open_picture
from .pictures_in import PICTURES, VIDEOS
from .templated import refuse_templated
from .unread import unread
from .video import frame_sizes, read_frames, with_frames

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RowIndex:
    """The result of a check of all rows. With it the same rows open without another check.

    Attributes:
        columns: names of the columns, in our format.
        sizes: (height, width) of each image or frame of each row of the file.
        ids: id of each row of the file.
        kept: numbers of the rows that are used.
    """

    columns: list[str]
    sizes: list[list[Size]]
    ids: list[str]
    kept: list[int]


class Rows(Sequence[dict[str, Any]]):
    """The rows of one dataset, whose pictures are decoded when a row is read.

    A row has its pictures in `images`, or its sampled frames in `video`.

    Args:
        path: the file or folder, see `files`.
        needs: columns that must not be empty.
        video_frames: the number of frames to sample from a video.
        columns: the dataset's names of our columns, where they differ.
        root: the folder that contains all images and videos, and to which their paths are relative; by default the
            dataset's folder.
        row_index: the result of an earlier check of the same rows; by default every row is checked now.
        keep_broken: leave rows out whose pictures can't be opened, and name them in `broken`; by default they are
            errors. `broken.checked_pictures` finds those that can't be decoded, too.

    Raises:
        ValueError: at construction, for an unusable file or row; names file, row and field.
    """

    def __init__(
        self,
        path: Path,
        *,
        needs: Sequence[str] = ("prompt",),
        video_frames: int = 8,
        columns: Mapping[str, str] | None = None,
        root: Path | None = None,
        row_index: RowIndex | None = None,
        keep_broken: bool = False,
    ) -> None:
        self.path = path
        self.broken: dict[int, str] = {}
        """What is wrong with the pictures of rows that are left out, by row number."""
        self._keeps_broken = keep_broken
        self._frames, self._names = video_frames, dict(columns or {})
        self._dataset, folder = load_file(path)
        self.root = root or folder
        found = row_index or self._checked(needs)
        self.columns, self._sizes, self._ids, self._kept = found.columns, found.sizes, found.ids, found.kept

    @property
    def row_index(self) -> RowIndex:
        """The result of the check of all rows."""
        return RowIndex(self.columns, self._sizes, self._ids, self._kept)

    def _checked(self, needs: Sequence[str]) -> RowIndex:
        """Check every row; ValueError for one that can't be used. Names columns that are passed over."""
        columns: dict[str, None] = {}
        sizes: list[list[Size]] = []
        ids: list[Any] = []
        passed_over: dict[str, str] = {}
        turns = {*CONVERSATIONS, "prompt", *self._names.values()}
        for number, row in enumerate(self._dataset):
            with self._naming(number):
                ours = unified(row, self._names)
                sizes.append(self._checked_sizes(number, ours, needs))
            ids.append(ours.get("id"))
            columns |= dict.fromkeys(ours)
            for name, sentence in unread(ours, [row.get(name) for name in turns]).items():
                passed_over.setdefault(name, f"{self.path}, row {number}: {sentence}")
        for warning in passed_over.values():
            logger.warning("%s (said once for this file)", warning)
        kept = [number for number in range(len(sizes)) if number not in self.broken]
        return RowIndex(list(columns), sizes, _distinct(ids), kept)

    @property
    def video_frames(self) -> int:
        """The number of frames that are sampled from a video."""
        return self._frames

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        number = self._kept[index]
        source = self._source(number)
        with self._naming(number):
            images = [open_picture(image, self.root) for image in source.get("images", ())]
            video = read_frames(source["video"], self.root, count=self._frames) if "video" in source else []
        return self._row(source, number, images, video)

    def metadata(self, index: int) -> dict[str, Any]:
        """The row with (height, width) in place of each image or frame, without decoding any."""
        number = self._kept[index]
        source = self._source(number)
        sizes, video = self._sizes[number], "video" in source
        return self._row(source, number, [] if video else sizes, sizes if video else [])

    def raw(self, index: int) -> dict[str, Any]:
        """The row in our format with its id, and with undecoded images."""
        number = self._kept[index]
        return self._source(number) | {"id": self._ids[number]}

    def without(self, indices: Collection[int]) -> Rows:
        """The rows except these; the others keep their row numbers."""
        rest = copy.copy(self)
        dropped = set(indices)
        rest._kept = [number for index, number in enumerate(self._kept) if index not in dropped]
        return rest

    def number(self, index: int) -> int:
        """The row number in the file of the row at `index`."""
        return self._kept[index]

    def describe(self, index: int) -> str:
        """File and row number of the row at `index`, for errors."""
        return f"{self.path}, row {self._kept[index]}"

    def texts(self) -> Iterator[str]:
        """All texts of prompts and completions, for training a tokenizer."""
        pictures = {*PICTURES, *VIDEOS, *(self._names[name] for name in (*PICTURES, *VIDEOS) if name in self._names)}
        names = {ours: theirs for ours, theirs in self._names.items() if theirs not in pictures}
        for row in self._dataset.remove_columns([name for name in self._dataset.column_names if name in pictures]):
            ours = unified(row, names)
            for name in ("prompt", "completion"):
                yield from texts_of(as_messages(ours.get(name) or ""))

    def _source(self, number: int) -> dict[str, Any]:
        return unified(self._dataset[number], self._names)

    def _row(self, source: dict[str, Any], number: int, images: list[Any], video: list[Any]) -> dict[str, Any]:
        prompt = _with_placeholders(source["prompt"], images, len(video))
        return source | {"id": self._ids[number], "images": images, "video": video, "prompt": prompt}

    @contextmanager
    def _naming(self, number: int) -> Iterator[None]:
        """Add file and row number to errors in this context."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self.path}, row {number}: {error}") from error

    def _checked_sizes(self, number: int, row: dict[str, Any], needs: Sequence[str]) -> list[Size]:
        """The result of `_check`, or an empty list for a row that is left out for its pictures."""
        try:
            return self._check(row, needs)
        except BrokenPictureError as error:
            if not self._keeps_broken:
                raise
            self.broken[number] = str(error)
            return []

    def _check(self, row: dict[str, Any], needs: Sequence[str]) -> list[Size]:
        """The sizes of the row's images or frames; raises ValueError for an unusable row."""
        for name in needs:
            self._check_filled(row, name)
        messages = as_messages(row.get("prompt") or "")
        for name, own in (("prompt", messages), ("completion", as_messages(row.get("completion") or ""))):
            for text in texts_of(own):
                refuse_templated(text, name)
        images = row.get("images", [])
        if "video" in row:
            if images:
                raise ValueError("the row has images and a video; give only one of the two")
            with_frames(messages, 1)
            return frame_sizes(row["video"], self.root, count=self._frames)
        if any(part["type"] == "video" for message in messages for part in as_parts(message["content"])):
            raise ValueError("the prompt has a video part or `<video>`, but the row has no `video`")
        if image_count(messages) not in (0, len(images)):
            raise ValueError(
                f"the prompt has {image_count(messages)} image part(s) but the row has {len(images)} image(s); "
                "each `<image>` in a text stands for one of `images`"
            )
        sizes = [checked_size(image, self.root) for image in images]
        _with_placeholders(messages, sizes, 0)
        return sizes

    def _check_filled(self, row: dict[str, Any], name: str) -> None:
        """Raise ValueError if a row lacks a column that is needed, or if it says nothing."""
        asks = name == "completion" and {*CONVERSATIONS} & {*self._dataset.column_names, *self._names}
        hint = ", and the messages don't end with the assistant's turn" if asks else ""
        if name not in row:
            names = f"{', '.join(self._dataset.column_names):.300}"
            raise ValueError(
                f"no column {name!r} among {names}{hint}; if it has another name, set `columns` in the recipe's data"
            )
        value = row[name]
        empty = _says_nothing(value)
        if name in ("prompt", "completion") and not empty:
            messages = as_messages(value)
            media = "video" in row or any(part["type"] != "text" for m in messages for part in as_parts(m["content"]))
            empty = not media and all(_says_nothing(text) for text in texts_of(messages))
        if empty:
            raise ValueError(f"{name!r} is empty{hint}")


def _says_nothing(value: Any) -> bool:
    """True for a missing value, as any file writes it; 0 and false are values."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, float):
        return math.isnan(value)  # pandas' missing number
    return value is None or value == [] or value == {}


def _distinct(given: Sequence[Any]) -> list[str]:
    """Unique ids as strings: missing ids become row numbers, and repeated ids get the row number appended."""
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


def _with_placeholders(prompt: str | list[Message], images: list[Any], frames: int) -> list[Message]:
    """The prompt as messages with one image part per picture; missing parts start the first user turn."""
    messages = as_messages(prompt)
    if frames:
        return with_frames(messages, frames)
    if not images:
        return messages
    if not image_count(messages):
        first = next((n for n, message in enumerate(messages) if message["role"] == "user"), None)
        if first is None:
            raise ValueError(f"the row has {len(images)} image(s), but its prompt has no user turn to hold them")
        parts = [{"type": "image"}] * len(images) + as_parts(messages[first]["content"])
        messages = [*messages[:first], messages[first] | {"content": parts}, *messages[first + 1 :]]
    # Parts are needed: TRL would add another image placeholder to a message that is a plain text.
    return prepare_multimodal_messages(in_parts(messages), images)
