"""Opening pictures from files or bytes: those that can't be used are refused with a message that says which and why."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

Size = tuple[int, int]
"""(height, width) in pixels."""


def open_picture(source: Any, folder: Path) -> Image.Image:
    """The picture as RGB.

    Args:
        source: a path relative to `folder`, a dict with `bytes` or `path` (how datasets stores images), or an image.
        folder: where relative paths start.

    Raises:
        ValueError: if it is missing, does not decode, or has more pixels than `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    with _opened(source, folder) as picture:
        return picture.convert("RGB")


def checked_size(source: Any, folder: Path) -> Size:
    """(height, width) from the picture's header, after PIL's integrity check where its format has one (PNG does).

    No pixel is decoded: a picture cut short may still fail in `open_picture`. Same errors as there.
    """
    with _opened(source, folder) as picture:
        if not isinstance(source, Image.Image):
            picture.verify()
        return picture.height, picture.width


def inside(folder: Path, path: str) -> Path:
    """The file at `path` relative to `folder`; ValueError if it leads out of there."""
    file = Path(os.path.normpath(folder.absolute() / path))
    if not file.is_relative_to(os.path.normpath(folder.absolute())):
        raise ValueError(f"{path!r} leads out of {folder}, where files must be; set `root` to a folder above")
    return file


@contextmanager
def _opened(source: Any, folder: Path) -> Iterator[Image.Image]:
    if isinstance(source, Image.Image):
        yield source
        return
    content, path = (source.get("bytes"), source.get("path")) if isinstance(source, dict) else (None, source)
    name = f"image {path!r}" if path else "an embedded image"
    if content is None and not path:
        raise ValueError(f"{name} has neither a path nor bytes")
    file = inside(folder, str(path)) if content is None else folder
    if content is None and not file.is_file():
        raise ValueError(f"{name} is missing (looked for {file}); paths are relative to the dataset file, or to `root`")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file if content is None else io.BytesIO(content)) as picture:
                yield picture
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{name} has too many pixels (the limit is {Image.MAX_IMAGE_PIXELS:,}); make it smaller"
        ) from error
    except (UnidentifiedImageError, OSError, SyntaxError) as error:  # PIL's verify raises SyntaxError
        raise ValueError(f"{name} does not decode: {error}") from error
