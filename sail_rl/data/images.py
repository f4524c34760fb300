"""Opens pictures from files or bytes; errors name the picture and the problem."""

from __future__ import annotations

import os
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, UnidentifiedImageError, features

from sail_rl.paths import expanded
from sail_rl.pictures import as_rgb, shown_size

from .values import brief

Size = tuple[int, int]
"""(height, width) in pixels."""
SIGNATURE_BYTES = 512
PICTURE_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, EOFError, ArithmeticError),
    *(NotImplementedError, struct.error, zlib.error),
)
"""What PIL's plugins raise for broken files."""


class BrokenPictureError(ValueError):
    """A picture or video of a row is missing, can't be read or can't be decoded."""


def open_picture(source: Any, folder: Path) -> Image.Image:
    """The picture as RGB (see `pictures.as_rgb`).

    Args:
        source: a path relative to `folder`, a dict with `bytes` (see `sources.picture`), or an image.
        folder: the folder of relative paths.

    Raises:
        BrokenPictureError: if the picture is missing, can't be decoded, or has more than `PIL.Image.MAX_IMAGE_PIXELS`
            pixels.
        ValueError: if its path leads out of `folder`.
    """
    with _opened(source, folder) as picture:
        return as_rgb(picture)


def decode(source: Any, folder: Path) -> None:
    """Decode a picture as `open_picture` does, with the same errors. A JPEG gets an eighth of its size, all data read.

    An eighth takes a third of the time: entropy decoding, in which broken data show, comes first and is done in full.
    """
    with _opened(source, folder) as picture:
        if picture.format in ("JPEG", "MPO"):
            picture.draft(picture.mode, (1, 1))
        as_rgb(picture)


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
    """The file at `path` relative to `folder`, with `~` and `$VAR` expanded unless a file has that name.

    Raises:
        ValueError: if the file lies outside `folder`, or a variable isn't set.
    """
    if path.startswith(("~", "$")) and not exists(folder / path):
        path = str(expanded(path))
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


def name_of(source: Any) -> str:
    """The name of a picture or video file in errors."""
    path = source.get("path") if isinstance(source, dict) else source
    return f"image {brief(path)}" if path and not isinstance(path, Image.Image) else "an embedded image"


@contextmanager
def content_of(source: Any, folder: Path) -> Iterator[BinaryIO]:
    """The bytes of a picture or video file as an open file, whose `name` says where they are from.

    Raises:
        BrokenPictureError: there is no such file, or it can't be read.
        ValueError: the path leads out of `folder`.
    """
    content, path = (source.get("bytes"), source.get("path")) if isinstance(source, dict) else (None, source)
    name = name_of(source)
    if content is not None:
        yield BytesIO(content)
        return
    if not path:
        raise BrokenPictureError(f"{name} has neither a path nor bytes")
    file = inside(folder, str(path))
    try:
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode):  # opening a pipe would wait for a writer
            kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
            raise BrokenPictureError(f"{name} is {kind} instead of a file")
        opened = file.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        hint = ", with / between folders" if "\\" in str(path) else ""
        raise BrokenPictureError(
            f"{name} is missing (looked for {str(file)!r:.240}); paths are relative to the dataset file, or to `root`"
            f"{hint}"
        ) from None
    except BrokenPictureError:
        raise
    except (OSError, ValueError) as error:  # not permitted, a loop of links, a name that is too long or has a NUL
        raise BrokenPictureError(f"{name} can't be read: {getattr(error, 'strerror', error)}") from None
    with opened:
        yield opened


@contextmanager
def _opened(source: Any, folder: Path) -> Iterator[Image.Image]:
    if isinstance(source, Image.Image):
        yield source
        return
    name = name_of(source)
    with content_of(source, folder) as content:
        start = content.read(SIGNATURE_BYTES)
        content.seek(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of broken EXIF data, which no viewer minds
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(content) as picture:
                    yield picture
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise BrokenPictureError(
                f"{name} has too many pixels (the limit is {Image.MAX_IMAGE_PIXELS:,}); make it smaller"
            ) from error
        except UnidentifiedImageError as error:
            raise BrokenPictureError(f"{name} can't be decoded: {_kind(start)}") from error
        except PICTURE_ERRORS as error:
            raise BrokenPictureError(f"{name} can't be decoded: {str(error) or type(error).__name__:.200}") from error


def _kind(start: bytes) -> str:
    """What a file that isn't a picture is, from its first bytes."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        return "the file is empty"
    if b"<svg" in text:
        return "it is an SVG, which has no pixels; convert it to PNG"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "it is an HTML page, perhaps a server's error; download it again"
    if start[4:8] == b"ftyp":
        return _kind_of_media(start[8:12])
    if text.startswith((b"{", b"<?xml", b"version https://git-lfs")):
        return "it is a text, perhaps a Git LFS pointer; download the file itself"
    return "it is no picture, cut short, or of a format that Pillow can't read"


def _kind_of_media(brand: bytes) -> str:
    """What an ISO media file is, which pictures and videos may be."""
    if brand in (b"avif", b"avis") and features.check("avif"):
        return "it is a broken AVIF"
    if brand in (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"):
        return "it is HEIC or AVIF, which this Pillow can't read; convert it to JPEG or PNG"
    return "it is a video; give it in the column `video`"
