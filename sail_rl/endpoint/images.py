"""Pictures as a judge gets them: scaled down, as data: URLs, with a digest of their content."""

from __future__ import annotations

import hashlib
import io
from functools import cached_property

from PIL import Image

from sail_rl.messages import data_url

MAX_PNG_BYTES = 1024 * 1024
JPEG_QUALITY = 90


class Picture:
    """One picture. Nothing is encoded before it is sent: a cached verdict costs a digest only.

    Args:
        image: any PIL image; it is sent as RGB.
        max_side: pixels of the longer side beyond which it is scaled down.
    """

    def __init__(self, image: Image.Image, max_side: int) -> None:
        self._image = image
        scale = min(1.0, max_side / max(image.size))
        self.sent_size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of pixels, size and the size it is sent in: equal for equal pictures, whatever they came from."""
        rgb = self._image.convert("RGB")
        return hashlib.sha256(repr((rgb.size, self.sent_size)).encode() + rgb.tobytes()).hexdigest()

    @cached_property
    def url(self) -> str:
        """`data:` URL of the scaled picture: PNG, or JPEG where the PNG would exceed 1 MiB."""
        rgb = self._image.convert("RGB")
        if rgb.size != self.sent_size:
            rgb = rgb.resize(self.sent_size, Image.Resampling.LANCZOS)
        rgb.save(png := io.BytesIO(), format="PNG")
        if png.tell() <= MAX_PNG_BYTES:
            return data_url(png.getvalue())
        rgb.save(jpeg := io.BytesIO(), format="JPEG", quality=JPEG_QUALITY)
        return data_url(jpeg.getvalue(), "image/jpeg")
