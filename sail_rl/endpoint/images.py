"""Pictures for judges: scaled down, encoded as `data:` URLs, with a digest of their content."""

from __future__ import annotations

import hashlib
import io
from functools import cached_property

from PIL import Image

from sail_rl.messages import data_url
from sail_rl.pictures import as_rgb, shown_size

MAX_PNG_BYTES = 1024 * 1024
JPEG_QUALITY = 90


class Picture:
    """One picture, which is encoded only when it is sent; a cached verdict needs its digest only.

    Args:
        image: any PIL image; it is sent as RGB.
        max_side: the largest longer side in pixels; larger pictures are scaled down.
    """

    def __init__(self, image: Image.Image, max_side: int) -> None:
        self._image = image
        height, width = shown_size(image)
        scale = min(1.0, max_side / max(height, width))
        self.sent_size = (max(1, round(width * scale)), max(1, round(height * scale)))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the pixels, the size and the sent size; equal pictures have equal digests."""
        rgb = as_rgb(self._image)
        return hashlib.sha256(repr((rgb.size, self.sent_size)).encode() + rgb.tobytes()).hexdigest()

    @cached_property
    def url(self) -> str:
        """The `data:` URL of the scaled picture, as PNG, or as JPEG if the PNG would exceed 1 MiB."""
        rgb = as_rgb(self._image)
        if rgb.size != self.sent_size:
            rgb = rgb.resize(self.sent_size, Image.Resampling.LANCZOS)
        rgb.save(png := io.BytesIO(), format="PNG")
        if png.tell() <= MAX_PNG_BYTES:
            return data_url(png.getvalue())
        rgb.save(jpeg := io.BytesIO(), format="JPEG", quality=JPEG_QUALITY)
        return data_url(jpeg.getvalue(), "image/jpeg")
