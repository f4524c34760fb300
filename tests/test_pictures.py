"""The pixels of pictures: every mode as its owner sees it, the same in training, rollouts and vLLM's server."""

from __future__ import annotations

import logging
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sail_rl import pictures
from sail_rl.data.images import checked_size, open_picture
from sail_rl.endpoint.images import Picture
from sail_rl.models import SailVLImageProcessor
from sail_rl.pictures import ORIENTATION, as_rgb, shown_size

RAMP = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (24, 1))
COLOURS = np.stack([RAMP, RAMP[:, ::-1], np.full_like(RAMP, 40)], axis=-1)
RGB = Image.fromarray(COLOURS)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    image.save(buffer := BytesIO(), kind, **options)
    return buffer.getvalue()


def with_alpha() -> Image.Image:
    return Image.fromarray(np.dstack([COLOURS, RAMP]))


def see_through_palette() -> bytes:
    palette = RGB.quantize(16)
    return saved(palette, "PNG", transparency=int(np.asarray(palette)[0, 0]))


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[ORIENTATION] = orientation
    return data


def frames() -> bytes:
    rest = [Image.new("RGB", (32, 24), "blue"), Image.new("RGB", (32, 24), "red")]
    return saved(RGB, "GIF", save_all=True, append_images=rest)


FILES: dict[str, Callable[[], bytes]] = {
    "RGB": lambda: saved(RGB, "PNG"),
    "RGBA": lambda: saved(with_alpha(), "PNG"),
    "LA": lambda: saved(with_alpha().convert("LA"), "PNG"),
    "palette with tRNS": see_through_palette,
    "RGB with tRNS": lambda: saved(RGB, "PNG", transparency=tuple(int(value) for value in COLOURS[0, 3])),
    "L with tRNS": lambda: saved(Image.fromarray(RAMP), "PNG", transparency=0),
    "palette": lambda: saved(RGB.quantize(16), "PNG"),
    "grey": lambda: saved(Image.fromarray(RAMP), "PNG"),
    "bilevel": lambda: saved(Image.fromarray(RAMP).convert("1"), "PNG"),
    "CMYK": lambda: saved(RGB.convert("CMYK"), "JPEG"),
    "WebP with alpha": lambda: saved(with_alpha(), "WEBP", lossless=True),
    "animation": frames,
    **{f"EXIF {number}": lambda number=number: saved(RGB, "JPEG", exif=exif(number)) for number in range(1, 9)},
    "PNG with EXIF": lambda: saved(RGB, "PNG", exif=exif(6)),
    "broken EXIF": lambda: saved(RGB, "JPEG", exif=b"Exif\x00\x00nonsense"),
}


@pytest.mark.parametrize("kind", FILES)
def test_the_pixels_are_those_of_vllms_media_loader(kind: str, tmp_path: Path) -> None:
    from vllm.multimodal.media.image import ImageMediaIO

    content = FILES[kind]()
    (tmp_path / "picture").write_bytes(content)
    ours = open_picture("picture", tmp_path)
    theirs = ImageMediaIO(image_mode="RGB").load_bytes(content).media
    assert ours.mode == "RGB"
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    assert checked_size("picture", tmp_path) == (ours.height, ours.width)


def test_what_is_transparent_is_white() -> None:
    clear = np.zeros((4, 4, 4), np.uint8)  # black, and wholly transparent
    assert np.asarray(as_rgb(Image.fromarray(clear))).min() == 255
    half = Image.fromarray(np.dstack([np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 51, np.uint8)]))
    assert set(np.asarray(as_rgb(half)).flat) == {204}  # 255 x (1 - 51/255)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 257 * 100, 65535]], np.uint16), [0, 100, 255]),
        (np.array([[0, 257 * 100, 65535]], np.int32), [0, 100, 255]),
        (np.array([[-1000, 0, 4000]], np.int32), [0, 51, 255]),
        (np.array([[0, 1_000_000, 2_000_000]], np.int32), [0, 128, 255]),
        (np.array([[0.0, 0.2, 1.0]], np.float32), [0, 51, 255]),
        (np.array([[-1.0, 0.0, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 51.0, 255.0]], np.float32), [0, 51, 255]),
        (np.array([[5.0, 5.0, 5.0]], np.float32), [0, 0, 0]),
        (np.array([[0.0, np.nan, 1.0]], np.float32), [0, 0, 255]),
    ],
)
def test_more_than_eight_bits_are_scaled(values: np.ndarray, expected: list[int], tmp_path: Path) -> None:
    Image.fromarray(values).save(tmp_path / "deep.tif")
    seen = np.asarray(open_picture("deep.tif", tmp_path))
    assert seen[0].tolist() == [[value] * 3 for value in expected]


def test_a_16_bit_png_keeps_its_greys(tmp_path: Path) -> None:
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert np.array_equal(np.asarray(open_picture("deep.png", tmp_path))[..., 0], RAMP)


def test_several_frames_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    pictures._say_first_frame.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            as_rgb(Image.open(BytesIO(frames())))
    assert [record.message for record in caplog.records] == [
        "a picture has several frames; the first is used (this is said once)"
    ]


def test_a_turned_picture_has_its_shown_size() -> None:
    assert shown_size(Image.open(BytesIO(FILES["EXIF 6"]()))) == (32, 24)
    assert shown_size(Image.open(BytesIO(FILES["EXIF 3"]()))) == (24, 32)


def test_exif_data_behind_the_pixels_counts() -> None:
    body = b"eXIf" + exif(6).tobytes()[6:]
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    content = FILES["RGB"]()
    content = content[:-12] + chunk + content[-12:]  # before IEND
    assert shown_size(Image.open(BytesIO(content))) == (32, 24)
    assert as_rgb(Image.open(BytesIO(content))).size == (24, 32)


def test_the_processor_and_the_judges_see_the_same_pixels() -> None:
    processor = SailVLImageProcessor(size={"height": 28, "width": 28})
    clear, white = with_alpha(), as_rgb(with_alpha())
    seen = [processor(image, return_tensors="np")["pixel_values"] for image in (clear, white)]
    assert np.array_equal(*seen)
    assert Picture(clear, 100).url == Picture(white, 100).url
    assert Picture(Image.open(BytesIO(FILES["EXIF 6"]())), 100).sent_size == (24, 32)
