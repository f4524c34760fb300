"""Arithmetic that divides images of any size into tiles, for pixels, token counts and memory planning alike."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt, sqrt

from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The processing of one image: resize to `content`, pad right and below to full tiles, cut, add a thumbnail.

    Tiles without any content are omitted, so that they cost neither visual tokens nor encoder time.
    """

    content: Size
    tile: Size
    thumbnail: Size | None = None
    """The content of the thumbnail, which is padded to one tile; None without a thumbnail."""

    @property
    def rows(self) -> int:
        """The number of rows of tiles."""
        return -(-self.content[0] // self.tile[0])

    @property
    def columns(self) -> int:
        """The number of columns of tiles."""
        return -(-self.content[1] // self.tile[1])

    @property
    def tiles(self) -> int:
        """The number of tiles, including the thumbnail."""
        return self.rows * self.columns + (self.thumbnail is not None)


def tiled(image: Size, *, tile: Size, min_tiles: int, max_tiles: int, thumbnail: bool) -> Layout:
    """InternVL's dynamic tiling (arXiv 2404.16821, section 3.2): stretch to the tile grid of the nearest aspect ratio.

    If there are several tiles, a thumbnail of the image follows.
    """
    columns, rows = get_optimal_tiled_canvas(image, tile, min_tiles, max_tiles)
    several = rows * columns > 1
    return Layout((rows * tile[0], columns * tile[1]), tile, tile if thumbnail and several else None)


def padded(image: Size, *, tile: Size, min_tiles: int, max_tiles: int, thumbnail: bool) -> Layout:
    """SPHINX-X's tiling (arXiv 2402.05935, section 3.1): keep the aspect ratio in a square of n x n tiles.

    n is the smallest number, within the limits, for which no side has to shrink. Padding is added right and below, and
    tiles of padding only are omitted. The paper replaces each of them by a learned *skip token*, which SAIL-VL2's
    vocabulary lacks.
    """
    limit = max(1, isqrt(max_tiles))
    needed = max(-(-image[0] // tile[0]), -(-image[1] // tile[1]), isqrt(max(min_tiles, 1) - 1) + 1)
    side = min(needed, limit)
    content = fitted(image, (side * tile[0], side * tile[1]))
    return Layout(content, tile, fitted(image, tile) if thumbnail and side > 1 else None)


def native(image: Size, *, factor: int, max_pixels: int) -> Layout:
    """AnyRes (report arXiv 2509.14033, section 2): one tile of the image's own size, each side a multiple of `factor`.

    Sides are rounded to the nearest multiple. An image shrinks only if it then has more than `max_pixels`.
    """
    height, width = (max(factor, round(side / factor) * factor) for side in image)
    if height * width > max_pixels:
        scale = sqrt(max_pixels / (image[0] * image[1]))
        height, width = (max(factor, int(side * scale / factor) * factor) for side in image)
        # If one side already has the smallest size, the other one shrinks further.
        limit = max_pixels // factor**2
        height = min(height, max(1, limit // (width // factor)) * factor)
        width = min(width, max(1, limit // (height // factor)) * factor)
    return Layout((height, width), (height, width))


def fitted(image: Size, box: Size) -> Size:
    """The largest size with the image's aspect ratio that fits into `box`, at least one pixel per side."""
    scale = min(box[0] / image[0], box[1] / image[1])
    height, width = (min(limit, max(1, round(side * scale))) for side, limit in zip(image, box, strict=True))
    return height, width
