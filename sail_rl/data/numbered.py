"""MMMU's rows: pictures in `image_1` to `image_7`, which `<image 1>` marks in the question and in its options."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from string import ascii_uppercase
from typing import Any

from .pictures_in import Row, numbered_pictures, without_numbered

MARK = re.compile(r"<image[ _]?(\d{1,3})>\n?")


def with_numbered(row: Row) -> Row:
    """A row with numbered pictures, in our format; any other row as it is.

    The options follow the question, each on its line with its letter. Each mark becomes its picture, a repeated mark
    repeats it, and pictures without a mark come first. A prompt of several turns or with images gets no options.

    Raises:
        ValueError: for a mark without a picture.
    """
    found = {} if row.get("images") else numbered_pictures(row)
    if not found:
        return row
    row = without_numbered(row)
    prompt = row["prompt"]
    if isinstance(prompt, list) and len(prompt) == 1 and prompt[0]["role"] == "user":
        prompt = prompt[0]["content"]
    if not isinstance(prompt, str):
        return row | {"images": list(found.values())}
    if options := _options(row.get("options")):
        row["options"] = options
        prompt += "".join(f"\n({letter}) {option}" for letter, option in zip(ascii_uppercase, options, strict=False))
    return row | {"prompt": [{"role": "user", "content": _parts(prompt, found)}]}


def _options(value: Any) -> list[str]:
    """The options of a list, or of the text of a Python list, as MMMU stores them."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return []
    return [str(option) for option in value] if isinstance(value, list) else []


def _parts(text: str, pictures: Mapping[int, Any]) -> list[dict[str, Any]]:
    """Parts of the text with its marked pictures; unmarked ones come first."""
    pieces = MARK.split(text)
    marked = [int(number) for number in pieces[1::2]]
    if unknown := next((number for number in marked if number not in pictures), None):
        raise ValueError(f"the question marks <image {unknown}>, but the row has no picture in `image_{unknown}`")
    parts = [{"type": "image", "image": source} for number, source in pictures.items() if number not in marked]
    for index, piece in enumerate(pieces):
        if index % 2:
            parts.append({"type": "image", "image": pictures[int(piece)]})
        elif piece:
            parts.append({"type": "text", "text": piece})
    return parts
