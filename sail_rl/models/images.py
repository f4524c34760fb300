"""The image processor: resizes, normalises and cuts images into tiles and patches; supports AnyRes."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from transformers import BatchFeature
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    PILImageResampling,
    SizeDict,
    make_flat_list_of_images,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
    GotOcr2ImageProcessorKwargs,
    GotOcr2ImageProcessorPil,
)

from sail_rl.pictures import as_rgb

from .resolution import Layout, Size, native, padded, tiled

Resolution = Literal["tiles", "padded", "anyres"]


class SailVLImageProcessorKwargs(GotOcr2ImageProcessorKwargs, total=False):  # type: ignore[call-arg]
    """The options of `SailVLImageProcessor`."""

    resolution: Resolution
    use_thumbnail: bool
    max_pixels: int
    patch_size: int
    merge_size: int


class SailVLImageProcessor(GotOcr2ImageProcessorPil):
    """Converts images to flattened patches without torchvision, by bicubic resizing and ImageNet statistics.

    Args:
        resolution: "tiles" stretches an image to a grid of tiles. "padded" keeps its aspect ratio, pads it to a square
            of tiles and omits empty tiles. "anyres" keeps its own size (see `resolution`).
        size: the `height` and `width` of a tile in pixels.
        crop_to_patches: whether an image may have several tiles (transformers' name; not used by "anyres").
        min_patches, max_patches: limits on the number of tiles of an image without its thumbnail (transformers' names,
            in which a "patch" is a tile).
        use_thumbnail: whether a thumbnail, one tile with the entire image, follows several tiles.
        max_pixels: the size above which "anyres" shrinks images; the report has 1792 x 1792 = 16,384 patches.
        patch_size: the side of the encoder's patches in pixels.
        merge_size: the side, in patches, of the square that becomes one visual token (`SailVLConfig.shuffle`).
    """

    valid_kwargs = SailVLImageProcessorKwargs
    model_input_names = ["pixel_values", "image_grid_thw"]  # noqa: RUF012
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"height": 448, "width": 448}  # noqa: RUF012
    resolution = "tiles"
    crop_to_patches = True
    min_patches = 1
    max_patches = 12
    use_thumbnail = True
    max_pixels = 1792 * 1792
    patch_size = 14
    merge_size = 2

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        factor = self.patch_size * self.merge_size
        if self.resolution not in ("tiles", "padded", "anyres"):
            raise ValueError(f"resolution is {self.resolution!r}; give 'tiles', 'padded' or 'anyres'")
        if self.size["height"] % factor or self.size["width"] % factor:
            raise ValueError(f"size is {dict(self.size)}; give multiples of patch_size x merge_size = {factor}")

    def layout(self, height: int, width: int, **options: Any) -> Layout:
        """The tiles of an image of this size; `options` override those of the processor."""
        option = {name: options.get(name, getattr(self, name)) for name in _LAYOUT_OPTIONS}
        tile = (option["size"]["height"], option["size"]["width"])
        if option["resolution"] == "anyres":
            factor = option["patch_size"] * option["merge_size"]
            return native((height, width), factor=factor, max_pixels=option["max_pixels"])
        tiling = padded if option["resolution"] == "padded" else tiled
        low, high = (option["min_patches"], option["max_patches"]) if option["crop_to_patches"] else (1, 1)
        return tiling(
            (height, width), tile=tile, min_tiles=low, max_tiles=max(low, high), thumbnail=option["use_thumbnail"]
        )

    def frame_size(self, height: int, width: int) -> Size:
        """The size (height, width) that resizes a video frame to at most one tile."""
        area = self.size["height"] * self.size["width"]
        return self.layout(height, width, min_patches=1, max_patches=1, max_pixels=min(area, self.max_pixels)).content

    def largest_size(self) -> Size:
        """An image size (height, width) with the largest number of patches that the options allow."""
        height, width = self.size["height"], self.size["width"]
        if self.resolution == "anyres":
            factor = self.patch_size * self.merge_size
            return factor, self.max_pixels // factor**2 * factor
        tiles = max(self.min_patches, self.max_patches) if self.crop_to_patches else 1
        if self.resolution == "padded":
            return height * isqrt(tiles), width * isqrt(tiles)
        return height, width * tiles

    def get_number_of_image_patches(self, height: int, width: int, images_kwargs: dict | None = None) -> int:
        """The number of patches, before the pixel shuffle, of an image of this size."""
        options = images_kwargs or {}
        layout = self.layout(height, width, **options)
        return layout.tiles * layout.tile[0] * layout.tile[1] // options.get("patch_size", self.patch_size) ** 2

    def convert_to_rgb(self, image: Any) -> Any:
        """A PIL image as RGB (see `pictures.as_rgb`); arrays as they are."""
        return as_rgb(image) if isinstance(image, Image.Image) else super().convert_to_rgb(image)

    def without_images(self) -> dict[str, torch.Tensor]:
        """The outputs for no image: `pixel_values` [0, 3 x patch²] and `image_grid_thw` [0, 3]."""
        pixels = torch.zeros(0, 3 * self.patch_size**2)
        return {"pixel_values": pixels, "image_grid_thw": torch.zeros(0, 3, dtype=torch.long)}

    def process_ahead(self, image: Image.Image) -> None:
        """Process an image now, and keep the result with it: later calls with the same options only take it.

        The result goes with this object: copies, edited and unpickled images don't have it. Don't edit the image
        itself afterwards. Several threads may process different images.
        """
        options = self._standardize_kwargs(**{name: getattr(self, name, None) for name in self._valid_kwargs_names})
        data = super()._preprocess_image_like_inputs(image, **options | {"return_tensors": None})
        image.__dict__[_PROCESSED] = _Processed(_compared(options), data["pixel_values"], data["image_grid_thw"])

    def _preprocess_image_like_inputs(self, images: Any, *args: Any, **options: Any) -> BatchFeature:
        """Process images, except if all of them were processed ahead with the same options."""
        flat = make_flat_list_of_images(images)
        found = [each for image in flat if (each := getattr(image, "__dict__", {}).get(_PROCESSED))]
        if len(found) < len(flat) or any(each.options != _compared(options) for each in found):
            return super()._preprocess_image_like_inputs(images, *args, **options)
        patches = [each.pixel_values for each in found]
        data = {
            "pixel_values": np.concatenate(patches) if len(patches) > 1 else patches[0],
            "image_grid_thw": np.concatenate([each.image_grid_thw for each in found]),
        }
        return BatchFeature(data=data, tensor_type=options.get("return_tensors"))

    def _preprocess(
        self,
        images: list[np.ndarray],
        *,
        resample: PILImageResampling | None,
        rescale_factor: float,
        image_mean: list[float],
        image_std: list[float],
        return_tensors: str | None,
        patch_size: int,
        **options: Any,
    ) -> BatchFeature:
        """`pixel_values` [P, 3 x patch²] and `image_grid_thw` [images, 3] of channel-first images."""
        patches, grids = [], []
        for image in images:
            layout = self.layout(*image.shape[1:], patch_size=patch_size, **options)

            def normalised(content: Size, image: np.ndarray = image) -> np.ndarray:
                resized = self.resize(image, SizeDict(height=content[0], width=content[1]), resample)
                return self.normalize(self.rescale(resized, rescale_factor), image_mean, image_std)

            tiles = cut(normalised(layout.content), layout.tile)
            if layout.thumbnail:
                tiles += cut(normalised(layout.thumbnail), layout.tile)
            patches += [flatten_patches(tile, patch_size) for tile in tiles]
            grids.append([len(tiles), layout.tile[0] // patch_size, layout.tile[1] // patch_size])
        data = {"pixel_values": np.concatenate(patches), "image_grid_thw": np.array(grids)}
        return BatchFeature(data=data, tensor_type=return_tensors)


def is_processed(image: Any) -> bool:
    """True if the image was processed ahead (see `SailVLImageProcessor.process_ahead`)."""
    return _PROCESSED in getattr(image, "__dict__", {})


@dataclass(frozen=True, slots=True)
class _Processed:
    """The result of one image with these options: `pixel_values` [P, 3 x patch²] and `image_grid_thw` [1, 3]."""

    options: dict[str, Any]
    pixel_values: np.ndarray
    image_grid_thw: np.ndarray


_PROCESSED = "sail_processed"


def _compared(options: dict[str, Any]) -> dict[str, Any]:
    """The options that change the result."""
    return {name: value for name, value in options.items() if name != "return_tensors"}


_LAYOUT_OPTIONS = (
    *("resolution", "size", "crop_to_patches", "min_patches", "max_patches"),
    *("use_thumbnail", "max_pixels", "patch_size", "merge_size"),
)


def cut(image: np.ndarray, tile: Size) -> list[np.ndarray]:
    """The tiles [3, *tile] of a normalised image [3, H, W], row by row, padded right and below with the mean colour."""
    rows, columns = -(-image.shape[1] // tile[0]), -(-image.shape[2] // tile[1])
    margin = (rows * tile[0] - image.shape[1], columns * tile[1] - image.shape[2])
    image = np.pad(image, ((0, 0), (0, margin[0]), (0, margin[1])))  # 0 is the mean colour
    return [part for row in np.split(image, rows, axis=1) for part in np.split(row, columns, axis=2)]


def flatten_patches(tile: np.ndarray, patch_size: int) -> np.ndarray:
    """The patches [rows x columns, 3 x patch²] of a tile [3, H, W], in the element order of a convolution's weight."""
    channels, height, width = tile.shape
    squares = tile.reshape(channels, height // patch_size, patch_size, width // patch_size, patch_size)
    return squares.transpose(1, 3, 0, 2, 4).reshape(-1, channels * patch_size**2)
