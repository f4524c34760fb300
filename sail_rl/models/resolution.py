"""How an image of any size becomes tiles: pure arithmetic, shared by pixel work, token counts and memory planning."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt, sqrt

from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What is done to one image: resize it to `content`, pad right and bottom to whole tiles, cut, add a thumbnail.

    Tiles without a pixel of content don't exist: they cost neither visual tokens nor encoder time.
    """

    content: Size
    tile: Size
    thumbnail: Size | None = None
    """Content of the thumbnail (padded to one tile like the rest); None without one."""

    @property
    def rows(self) -> int:
        """Rows of tiles."""
        return -(-self.content[0] // self.tile[0])

    @property
    def columns(self) -> int:
        """Columns of tiles."""
        return -(-self.content[1] // self.tile[1])

    @property
    def tiles(self) -> int:
        """All tiles, the thumbnail among them."""
        return self.rows * self.columns + (self.thumbnail is not None)


def tiled(image: Size, *, tile: Size, min_tiles: int, max_tiles: int, thumbnail: bool) -> Layout:
    """InternVL's dynamic tiling (arXiv 2404.16821, section 3.2): stretch to the tile grid of the nearest aspect ratio.

    A thumbnail of the whole image follows when there is more than one tile.
    """
    columns, rows = get_optimal_tiled_canvas(image, tile, min_tiles, max_tiles)
    several = rows * columns > 1
    return Layout((rows * tile[0], columns * tile[1]), tile, tile if thumbnail and several else None)


def padded(image: Size, *, tile: Size, min_tiles: int, max_tiles: int, thumbnail: bool) -> Layout:
    """SPHINX-X's tiling (arXiv 2402.05935, section 3.1): keep the aspect ratio in a square of n x n tiles.

    n is the smallest number of tiles that covers the longer side without shrinking it, within the limits. Padding goes
    to the right and the bottom, and tiles that hold nothing else are left out. The paper puts one learned *skip token*
    in the place of each; SAIL-VL2's vocabulary has none, so nothing stands there.
    """
    limit = max(1, isqrt(max_tiles))
    needed = max(-(-image[0] // tile[0]), -(-image[1] // tile[1]), isqrt(max(min_tiles, 1) - 1) + 1)
    side = min(needed, limit)
    content = fitted(image, (side * tile[0], side * tile[1]))
    return Layout(content, tile, fitted(image, tile) if thumbnail and side > 1 else None)


def native(image: Size, *, factor: int, max_pixels: int) -> Layout:
    """AnyRes (report arXiv 2509.14033, section 2): one tile of the image's own size, each side a multiple of `factor`.

    Sides are rounded to the nearest multiple; an image is made smaller only if it has more than `max_pixels` then.
    """
    height, width = (max(factor, round(side / factor) * factor) for side in image)
    if height * width > max_pixels:
        scale = sqrt(max_pixels / (image[0] * image[1]))
        height, width = (max(factor, int(side * scale / factor) * factor) for side in image)
        # A side of the smallest size can't shrink further: the other one does.
        limit = max_pixels // factor**2
        height = min(height, max(1, limit // (width // factor)) * factor)
        width = min(width, max(1, limit // (height // factor)) * factor)
    return Layout((height, width), (height, width))


def fitted(image: Size, box: Size) -> Size:
    """The largest size of the image's aspect ratio in `box`, at least one pixel a side."""
    scale = min(box[0] / image[0], box[1] / image[1])
    height, width = (min(limit, max(1, round(side * scale))) for side, limit in zip(image, box, strict=True))
    return height, width
