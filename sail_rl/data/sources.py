"""Reads what a row gives as a picture or a video: a path, a `file://` or `data:` URL, base64, bytes, or an object."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from PIL import Image

from .values import brief, wrong

PICTURE = "a path, a data: URL, base64, bytes, or an object with `bytes` or `path`"
INNER = ("image", "image_url", "video", "video_url", "url", "data", "source")
"""Keys under which an object may hold the picture or video itself (verl, OpenAI, Qwen, Anthropic)."""
BASE64 = re.compile(r"[A-Za-z0-9+/\s]{40,}={0,2}\s*")
PICTURE_FILE = re.compile(r"[^\n]{1,1000}\.(?:png|jpe?g|webp|bmp|gif|tiff?|avif|heic)", re.IGNORECASE)
VIDEO_FILE = re.compile(r"[^\n]{1,1000}\.(?:mp4|mkv|webm|avi|mov|m4v|mpe?g|flv|wmv)", re.IGNORECASE)
SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\x00", b"MM\x00*")
"""First bytes of the common picture formats."""


def picture(value: Any, field: str) -> Any:
    """The picture as `images.open_picture` takes it: a path, `{"bytes": …, "path": …}`, or a PIL image.

    Args:
        value: the picture as a row gives it.
        field: its place in the row, for errors.

    Raises:
        ValueError: if the value is no picture, or a network address.
    """
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, bytes) and value:
        return {"bytes": value, "path": None}
    if isinstance(value, Mapping):
        return _of_object(value, field)
    if not isinstance(value, str) or not value.strip():
        raise wrong(field, value, PICTURE)
    if value[:5].lower() == "data:":
        return {"bytes": _data_url(value, field), "path": None}
    if is_base64(value):
        return {"bytes": _decoded(value, field), "path": None}
    return local_path(value, field)


def video(value: Any, field: str) -> Any:
    """The video as `video.read_frames` takes it: a path, or a list of frames.

    Raises:
        ValueError: as `picture` does.
    """
    if isinstance(value, Mapping):
        value = next((value[name] for name in (*INNER, "path") if given(value.get(name))), value)
    if isinstance(value, list):
        if not value:
            raise ValueError(f"the {field} is an empty list of frames; give frames, a file's path, or null")
        return [picture(frame, f"{field}[{number}]") for number, frame in enumerate(value)]
    if not isinstance(value, str) or not value.strip() or value[:5].lower() == "data:":
        raise wrong(field, value, "the path of a video file, or a list of frames")
    return local_path(value, field)


def is_picture_file(value: Any) -> bool:
    """True for a text that ends like the name of a picture's file."""
    return isinstance(value, str) and PICTURE_FILE.fullmatch(value) is not None


def is_video_file(value: Any) -> bool:
    """True for a text that ends like the name of a video's file."""
    return isinstance(value, str) and VIDEO_FILE.fullmatch(value) is not None


def given(value: Any) -> bool:
    """False for null, and for an object of nulls, which is how Arrow may store null."""
    if isinstance(value, Mapping):
        return any(given(inner) for inner in value.values())
    return value is not None


def is_base64(text: str) -> bool:
    """True for the base64 of a picture in a common format."""
    if not BASE64.fullmatch(text):
        return False
    start = "".join(text[:64].split())[:16]
    return base64.b64decode(start).startswith(SIGNATURES)


def local_path(text: str, field: str) -> str:
    """A path, or the path of a `file://` URL; network addresses are refused."""
    if text[:7].lower() == "file://":
        return unquote(text[7:].removeprefix("localhost"))
    if "://" in text:
        raise ValueError(
            f"{field}: {brief(text)} is a network address, which is never fetched; download it and give its path"
        )
    return text


def _of_object(value: Mapping[str, Any], field: str) -> Any:
    content, path = value.get("bytes"), value.get("path")
    if content is None and isinstance(path, str) and path:
        return picture(path, f"{field}.path")
    if isinstance(content, str):
        content = _decoded(content, f"{field}.bytes")
    if isinstance(content, bytes) and content:
        return {"bytes": content, "path": path if isinstance(path, str) else None}
    name = next((name for name in INNER if given(value.get(name))), None)
    if content is None and path is None and name is not None:
        return picture(value[name], f"{field}.{name}")
    raise wrong(field, value, PICTURE)


def _data_url(text: str, field: str) -> bytes:
    head, comma, body = text.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise ValueError(f"{field} is a data: URL ({brief(head)}) whose content isn't base64; encode it in base64")
    return _decoded(unquote(body), field)


def _decoded(text: str, field: str) -> bytes:
    letters = "".join(text.split())
    try:
        content = base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{field} ({brief(text)}) isn't base64: {error}; encode the picture's file again") from None
    if not content:
        raise ValueError(f"{field} has no content; give {PICTURE}")
    return content
