"""Finds a row's pictures and video among the columns in which common datasets keep them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from PIL import Image

from .sources import given, is_video_file, picture, video
from .turns import listing

Row = dict[str, Any]

PICTURES = (
    *("images", "image", "img", "imgs", "picture", "pictures", "image_bytes", "image_path", "image_paths", "img_path"),
    *("image_file", "image_files", "image_url", "image_urls", "img_url"),
)
"""Columns with one picture, or a list of them; of several columns, the first is read."""
VIDEOS = ("video", "videos", "video_path", "video_paths")
"""Columns with a video: the path of a file, a list of frames, or a list with one of these."""
DECODED = "decoded_image"
"""MathVista keeps its picture here, beside a path in `image`."""
NUMBERED = re.compile(r"(?:images?|img|picture)_?(\d{1,3})")
"""MMMU keeps up to seven pictures in `image_1` to `image_7`."""


def with_pictures(row: Row) -> Row:
    """The row with its pictures as a list in `images`, and its video in `video`; it has neither without any.

    Columns that are read lose their own names.

    Raises:
        ValueError: for a value that is no picture or video, and for two columns that disagree.
    """
    row = {
        name: value
        for name, value in row.items()
        if name not in (*PICTURES, *VIDEOS) or not _is_empty(value) or (name == "video" and value == [])
    }
    if not _is_empty(row.get(DECODED)):
        row["images"] = row.pop(DECODED)
        row.pop("image", None)
    if name := next((name for name in PICTURES if name in row and _may_be(name, row[name])), None):
        row["images"] = _pictures(row[name] if name == "images" else row.pop(name), name)
        if name == "images" and "image" in row and _pictures(row.pop("image"), "image") != row["images"]:
            raise ValueError("`image` and `images` give different pictures; keep one, or rename one with `columns`")
    if name := next((name for name in VIDEOS if name in row and _may_be(name, row[name])), None):
        row["video"] = _video(row[name] if name == "video" else row.pop(name), name)
    return row


def numbered_pictures(row: Row) -> dict[int, Any]:
    """The pictures of columns such as `image_1` by their numbers, ascending."""
    columns = {int(NUMBERED.fullmatch(name)[1]): name for name in row if _is_numbered(name, row[name])}  # type: ignore[index]
    return {number: picture(row[name], name) for number, name in sorted(columns.items())}


def without_numbered(row: Row) -> Row:
    """The row without the columns of numbered pictures."""
    return {name: value for name, value in row.items() if not NUMBERED.fullmatch(name)}


def _is_numbered(name: str, value: Any) -> bool:
    return NUMBERED.fullmatch(name) is not None and not _is_empty(value) and _is_source(value)


def _is_empty(value: Any) -> bool:
    return not given(value) or (isinstance(value, str | bytes | list) and not value)


def _is_source(value: Any) -> bool:
    return isinstance(value, str | bytes | Mapping | Image.Image)


def _may_be(name: str, value: Any) -> bool:
    """True if a column is read: the usual names always are, and others unless they hold numbers."""
    return name in ("images", "image", "video", "videos") or _is_source(value) or isinstance(value, list)


def _pictures(value: Any, name: str) -> list[Any]:
    value = listing(value)
    if isinstance(value, list):
        return [picture(one, f"{name}[{number}]") for number, one in enumerate(value)]
    return [picture(value, name)]


def _video(value: Any, name: str) -> Any:
    value = listing(value)
    alone = isinstance(value, list) and len(value) == 1 and (name != "video" or is_video_file(value[0]))
    if alone:
        return video(value[0], f"{name}[0]")
    if name != "video" and isinstance(value, list):
        raise ValueError(f"{name} has {len(value)} videos; a row may have one")
    return video(value, name)
