"""The pixels of a picture, as training, rollouts, judges and reports all see them: 8-bit RGB.

vLLM's media loader shows the same pixels to a served model, except for pictures of more than 8 bits, which it clips.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps

logger = logging.getLogger(__name__)
ROTATED = range(5, 9)  # EXIF orientations that exchange width and height
ORIENTATION = 0x0112  # the EXIF tag


def as_rgb(image: Image.Image) -> Image.Image:
    """The picture as it is meant to be seen, in mode RGB.

    EXIF orientation is applied, transparency is laid on white, and of several frames the first is taken. More than 8
    bits are scaled to 8: 16-bit values by 255/65535; 32-bit integers likewise, unless some exceed 65535 or are
    negative; floats in [0, 1] by 255. Other integers and floats are scaled from their own range, darkest to brightest.
    """
    if getattr(image, "is_animated", False):
        _say_first_frame()
    image.load()  # raises for a truncated file, once: the next load would show it as grey below the cut
    with suppress(Exception):  # PIL raises anything for broken EXIF, which no viewer minds
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":  # a transparent colour of an RGB file stays as it is, as in vLLM
        return image
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        colours = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(colours, mask=colours.getchannel("A"))
        return white
    return image.convert("RGB")


def shown_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of the picture with its EXIF orientation; no pixels are decoded."""
    turned = _exif(image).get(ORIENTATION) in ROTATED
    return (image.width, image.height) if turned else (image.height, image.width)


def _exif(image: Image.Image) -> Image.Exif:
    """The picture's EXIF data. PIL decodes a whole PNG for it, so only one with an eXIf chunk is opened once more."""
    file = getattr(image, "fp", None)
    if image.format != "PNG" or file is None or "exif" in image.info:
        return image.getexif()
    position = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(position)
    return Image.open(BytesIO(content)).getexif() if b"eXIf" in content else Image.Exif()


def _eight_bits(values: np.ndarray) -> np.ndarray:
    limit = 1.0 if values.dtype.kind == "f" else 65535.0
    values = np.nan_to_num(values.astype(np.float64))
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > limit:
        values, limit = values - low, high - low or 1.0
    return np.round(values * (255 / limit)).astype(np.uint8)


@cache
def _say_first_frame() -> None:
    logger.warning("a picture has several frames; the first is used (this is said once)")
