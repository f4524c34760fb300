"""Opens pictures from files or bytes; errors name the picture and the problem."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from sail_rl.pictures import as_rgb, shown_size

from .values import brief

Size = tuple[int, int]
"""(height, width) in pixels."""


def open_picture(source: Any, folder: Path) -> Image.Image:
    """The picture as RGB (see `pictures.as_rgb`).

    Args:
        source: a path relative to `folder`, a dict with `bytes` (see `sources.picture`), or an image.
        folder: the folder of relative paths.

    Raises:
        ValueError: if the picture is missing, can't be decoded, or has more than `PIL.Image.MAX_IMAGE_PIXELS` pixels.
    """
    with _opened(source, folder) as picture:
        return as_rgb(picture)


def checked_size(source: Any, folder: Path) -> Size:
    """(height, width) as shown, from the header, after PIL's integrity check if the format has one, as PNG does.

    No pixel is decoded, so a truncated picture may still fail in `open_picture`. The errors are the same.
    """
    with _opened(source, folder) as picture:
        size = shown_size(picture)
        if not isinstance(source, Image.Image):
            picture.verify()
        return size


def inside(folder: Path, path: str) -> Path:
    """The file at `path` relative to `folder`; raises ValueError if it lies outside `folder`."""
    file = Path(os.path.normpath(folder.absolute() / path))
    if not file.is_relative_to(os.path.normpath(folder.absolute())):
        raise ValueError(f"{brief(path)} lies outside {folder}; set `root` to a folder that contains all files")
    return file


def exists(file: Path) -> bool:
    """True if the file exists; no path can be so long, or so odd, that this raises."""
    try:
        return file.is_file()
    except (OSError, ValueError):
        return False


@contextmanager
def _opened(source: Any, folder: Path) -> Iterator[Image.Image]:
    if isinstance(source, Image.Image):
        yield source
        return
    content, path = (source.get("bytes"), source.get("path")) if isinstance(source, dict) else (None, source)
    name = f"image {brief(path)}" if path else "an embedded image"
    file = inside(folder, str(path)) if content is None else folder
    if content is None and not exists(file):
        looked = f"looked for {str(file)!r:.240}"
        raise ValueError(f"{name} is missing ({looked}); paths are relative to the dataset file, or to `root`")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file if content is None else io.BytesIO(content)) as picture:
                yield picture
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{name} has too many pixels (the limit is {Image.MAX_IMAGE_PIXELS:,}); make it smaller"
        ) from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} can't be decoded: it isn't a picture of a known format") from error
    except (OSError, SyntaxError, ValueError) as error:  # PIL's verify raises SyntaxError, and ValueError for a NUL
        raise ValueError(f"{name} can't be decoded: {error!s:.200}") from error
