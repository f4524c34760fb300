"""Broken pictures are found before a model loads: decoded in processes that may die, remembered by their content."""

from __future__ import annotations

import json
import logging
import os
import signal
import struct
import threading
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image, ImageCms, features

from sail_rl.config.curation import CurationRecipe
from sail_rl.config.loading import load_recipe, read_tree
from sail_rl.curation.curate import curate
from sail_rl.data import decoder, decoding
from sail_rl.data.broken import checked_pictures
from sail_rl.data.dataset import Rows
from sail_rl.data.decoded import DecodedBefore, cache_file
from sail_rl.data.decoder import Medium
from sail_rl.data.decoding import decoded
from sail_rl.data.images import open_picture
from sail_rl.plan.plan import make_plan

NOISE = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own, empty at first."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache_file()


def encoded(kind: str, image: Image.Image | None = None, **options: Any) -> bytes:
    (image or Image.fromarray(NOISE)).save(buffer := BytesIO(), kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, pixels: bytes, *extra: tuple[bytes, bytes]) -> bytes:
    """An RGB PNG whose pixels needn't match its size."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    chunks = (header, *extra, (b"IDAT", zlib.compress(pixels)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def dataset(folder: Path, *names: str) -> Path:
    path = folder / "d.jsonl"
    path.write_text("".join(json.dumps({"prompt": "What?", "images": [name]}) + "\n" for name in names))
    return path


def dropped_rows(path: Path, listed: Path) -> dict[int, str]:
    """The rows of a dataset that are dropped, with the reasons."""
    kept = checked_pictures(Rows(path, keep_broken=True), dropped=listed)
    found = {entry["row"]: entry["reason"] for entry in map(json.loads, listed.open())} if listed.exists() else {}
    total = len(path.read_text().splitlines())
    assert sorted(found) == sorted(set(range(total)) - {kept.number(index) for index in range(len(kept))})
    return found


JPEG, PNG = encoded("JPEG"), encoded("PNG")
LAB = ImageCms.applyTransform(
    Image.fromarray(NOISE),
    ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"),
)
SOUND = {
    "a.jpg": JPEG,
    "progressive.jpg": encoded("JPEG", progressive=True),
    "cmyk.jpg": encoded("JPEG", Image.fromarray(NOISE).convert("CMYK")),
    "grey.jpg": encoded("JPEG", Image.fromarray(NOISE).convert("L")),
    "named_otherwise.jpg": PNG,
    "a.png": PNG,
    "palette.png": encoded("PNG", Image.fromarray(NOISE).convert("P")),
    "sixteen.png": encoded("PNG", Image.fromarray(NOISE[..., 0].astype(np.uint16) * 200)),
    "float.tif": encoded("TIFF", Image.fromarray(NOISE[..., 0].astype(np.float32))),
    "lab.tif": encoded("TIFF", LAB),
    "lzw.tif": encoded("TIFF", compression="tiff_lzw"),
    "animated.gif": encoded("GIF", save_all=True, append_images=[Image.fromarray(255 - NOISE)]),
    "animated.webp": encoded("WEBP", save_all=True, append_images=[Image.fromarray(255 - NOISE)]),
    "a.bmp": encoded("BMP"),
    "one_pixel.png": encoded("PNG", Image.new("RGB", (1, 1))),
    "line.png": encoded("PNG", Image.new("RGB", (9000, 1))),
    "column.jpg": encoded("JPEG", Image.new("RGB", (1, 9000))),
}
BROKEN = {
    "cut.jpg": (JPEG[: len(JPEG) // 2], "can't be decoded: image file is truncated"),
    "cut_progressive.jpg": (encoded("JPEG", progressive=True)[:-99], "can't be decoded: image file is truncated"),
    "header.jpg": (JPEG[:100], "can't be decoded: "),
    "cut.png": (PNG[:-99], "can't be decoded: "),
    "flipped.png": (PNG[:999] + bytes([PNG[999] ^ 1]) + PNG[1000:], "can't be decoded: broken PNG file"),
    "short.png": (png(50, 50, b"\0" * 100), "can't be decoded: image file is truncated"),
    "cut.gif": (encoded("GIF")[:-2000], "can't be decoded: image file is truncated"),
    "cut.webp": (encoded("WEBP")[:-200], "can't be decoded: "),
    "cut.tif": (encoded("TIFF")[:-200], "can't be decoded: "),
    "cut_lzw.tif": (encoded("TIFF", compression="tiff_lzw")[:-2000], "can't be decoded: "),
    "cut.bmp": (encoded("BMP")[:-200], "can't be decoded: image file is truncated"),
    "zero.png": (b"", "can't be decoded: the file is empty"),
    "page.jpg": (b"\n<!DOCTYPE html>\n<title>Not found</title>", "can't be decoded: it is an HTML page"),
    "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "perhaps a Git LFS pointer"),
    "message.png": (b'{"error": "denied"}', "can't be decoded: it is a text"),
    "drawing.svg": (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "it is an SVG, which has no pixels; convert it to PNG"),
    "phone.heic": (b"\0\0\0\x18ftypheic" + b"\0" * 99, "it is HEIC or AVIF, which this Pillow can't read"),
    "film.jpg": (b"\0\0\0\x18ftypisom" + b"\0" * 99, "it is a video; give it in the column `video`"),
    "random.jpg": (bytes(range(1, 200)), "it is no picture, cut short, or of a format that Pillow can't read"),
    "bomb.png": (png(60_000, 60_000, b""), "has too many pixels"),
    "large.png": (png(10_000, 10_000, b""), "has too many pixels"),
    "text_bomb.png": (png(9, 9, b"", (b"zTXt", b"k\0\0" + zlib.compress(b"a" * 10**8))), "can't be decoded: "),
}


def test_every_kind_of_broken_picture_is_dropped_with_its_reason_and_sound_ones_stay(tmp_path: Path) -> None:
    for name, content in SOUND.items():
        (tmp_path / name).write_bytes(content)
    for name, (content, _) in BROKEN.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    paths = {
        "folder.png": "is a folder instead of a file",
        "pipe.png": "is a pipe, socket or device instead of a file",
        "loop.png": "can't be read: Too many levels of symbolic links",
        "missing.png": "is missing (looked for ",
        "a.png/b.png": "is missing (looked for ",
        "x" * 300: "can't be read: File name too long",
    }
    reasons = {name: reason for name, (_, reason) in BROKEN.items()} | paths
    names = [*SOUND, *reasons]
    found = dropped_rows(dataset(tmp_path, *names), tmp_path / "dropped.jsonl")
    assert {names[number] for number in found} == set(reasons)
    for number, reason in found.items():
        assert reasons[names[number]] in reason, f"{names[number]}: {reason}"
        assert len(reason) < 500
        assert "\n" not in reason


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_a_cut_avif_is_no_unknown_format(tmp_path: Path) -> None:
    (tmp_path / "a.avif").write_bytes(encoded("AVIF"))
    (tmp_path / "b.avif").write_bytes(encoded("AVIF")[:-500])
    found = dropped_rows(dataset(tmp_path, "a.avif", "b.avif"), tmp_path / "dropped.jsonl")
    assert found == {1: "image 'b.avif' can't be decoded: it is a broken AVIF"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_picture_that_may_not_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "a.png").chmod(0)
    with pytest.raises(ValueError, match=r"row 0: image 'a.png' can't be read: Permission denied"):
        checked_pictures(Rows(dataset(tmp_path, "a.png"), keep_broken=True))


def test_what_passes_is_what_training_can_open(tmp_path: Path) -> None:
    """A JPEG is checked at an eighth of its size: for cuts at every place both agree with the whole decoding."""
    checked = []
    for cut in range(200, len(JPEG) + 1, 397):
        (tmp_path / f"{cut}.jpg").write_bytes(JPEG[:cut])
        checked.append(f"{cut}.jpg")
    (tmp_path / "whole.jpg").write_bytes(JPEG)
    checked.append("whole.jpg")
    found = dropped_rows(dataset(tmp_path, *checked), tmp_path / "dropped.jsonl")
    for number, name in enumerate(checked):
        try:
            open_picture(name, tmp_path)
            opens = True
        except ValueError:
            opens = False
        assert opens == (number not in found), name


def test_an_error_counts_the_rows_and_names_the_first(tmp_path: Path) -> None:
    (tmp_path / "good.jpg").write_bytes(JPEG)
    (tmp_path / "cut.jpg").write_bytes(JPEG[:-500])
    path = dataset(tmp_path, "good.jpg", *["cut.jpg", "gone.jpg"] * 4)
    with pytest.raises(ValueError, match=r"d.jsonl: 8 of 9 rows have broken pictures: row 1: image 'cut") as error:
        checked_pictures(Rows(path, keep_broken=True))
    assert "; row 2: image 'gone.jpg' is missing" in str(error.value)
    assert "; and 3 more; mend them, or let the recipe drop such rows (`broken: drop`)" in str(error.value)
    assert "row 6" not in str(error.value)


def test_a_dataset_of_broken_pictures_alone_is_an_error_even_if_they_are_dropped(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 of 2 rows have broken pictures"):
        checked_pictures(Rows(dataset(tmp_path, "a.png", "b.png"), keep_broken=True), dropped=tmp_path / "dropped")


def test_pictures_inside_parquet_are_decoded_too(tmp_path: Path) -> None:
    columns = Features({"prompt": Value("string"), "image": ImageFeature()})
    pictures = [{"bytes": content, "path": None} for content in (JPEG, JPEG[:-500], PNG)]
    Dataset.from_dict({"prompt": ["x"] * 3, "image": pictures}, columns).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"1 of 3 rows have broken pictures: row 1: an embedded image can't be"):
        checked_pictures(Rows(tmp_path / "a.parquet", keep_broken=True))


def test_frames_and_videos_are_decoded_as_far_as_they_are_used(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("ffv1", rate=5, width=320, height=240, pix_fmt="yuv420p")
        for number in range(20):
            container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (320, 240), (9 * number,) * 3))))
        container.mux(stream.encode())
    whole = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "good.jpg").write_bytes(JPEG)
    (tmp_path / "cut.jpg").write_bytes(JPEG[:-500])
    frames = ["good.jpg"] * 4
    videos = ["a.avi", frames, ["cut.jpg", *frames[1:]], [frames[0], "cut.jpg", *frames[2:]]]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps({"prompt": "x", "video": video}) + "\n" for video in videos))
    rows = Rows(tmp_path / "d.jsonl", video_frames=2)  # frames 1 and 3
    with pytest.raises(ValueError, match=r"1 of 4 rows have broken pictures: row 3: image 'cut.jpg' can't be decoded"):
        checked_pictures(rows)
    (tmp_path / "a.avi").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"2 of 4 rows have broken pictures: row 0: video 'a.avi' "):
        checked_pictures(rows)


def answers(folder: Path, *names: str) -> list[str | None]:
    return [wrong for _, wrong in decoded((name, Medium(name, folder)) for name in names)]


class Spy:
    """Counts the media that decoders are given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[Any] = []
        decode: Callable[..., str | None] = decoding._Decoders._decode
        monkeypatch.setattr(decoding._Decoders, "_decode", lambda own, m: self.seen.append(m.source) or decode(own, m))


def test_a_second_check_decodes_only_what_is_new_broken_or_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    for name, content in {"a.jpg": JPEG, "b.png": PNG, "cut.jpg": JPEG[:-500]}.items():
        (tmp_path / name).write_bytes(content)
    spy = Spy(monkeypatch)
    first = answers(tmp_path, "a.jpg", "b.png", "cut.jpg")
    assert [wrong is None for wrong in first] == [True, True, False]
    assert sorted(spy.seen) == ["a.jpg", "b.png", "cut.jpg"]
    spy.seen.clear()
    assert answers(tmp_path, "a.jpg", "b.png", "cut.jpg") == first
    assert spy.seen == ["cut.jpg"]
    spy.seen.clear()
    times = (tmp_path / "a.jpg").stat()
    broken = JPEG[:-500] + b"\0" * 500  # of the same size, and with the old times
    (tmp_path / "a.jpg").write_bytes(broken)
    os.utime(tmp_path / "a.jpg", ns=(times.st_atime_ns, times.st_mtime_ns))
    (tmp_path / "b.png").rename(tmp_path / "moved.png")
    answers(tmp_path, "a.jpg", "moved.png")
    assert spy.seen == ["a.jpg"], "content decides, not name, size or time"
    spy.seen.clear()
    own_cache.unlink()  # ours to delete
    answers(tmp_path, "moved.png")
    assert spy.seen == ["moved.png"]


def test_the_memory_of_decoded_pictures_survives_cut_lines_and_folders_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.jpg").write_bytes(JPEG)
    medium = Medium("a.jpg", tmp_path)
    own_cache.parent.mkdir(parents=True)
    own_cache.write_bytes(b"\xff\n0123456789abc")  # a process was killed as it wrote
    before = DecodedBefore()
    before.add(before.key(medium))
    before.close()
    again = DecodedBefore()
    assert again.key(medium) in again
    again.close()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a.jpg"))  # a file where a folder should be
    with caplog.at_level(logging.INFO):
        assert answers(tmp_path, "a.jpg") == [None]
    assert "decoded pictures aren't remembered" in caplog.text


def test_a_file_used_by_many_rows_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cut.jpg").write_bytes(JPEG[:-500])
    (tmp_path / "a.jpg").write_bytes(JPEG)
    spy = Spy(monkeypatch)
    found = dropped_rows(dataset(tmp_path, *["cut.jpg", "a.jpg"] * 9), tmp_path / "dropped.jsonl")
    assert sorted(found) == list(range(0, 18, 2))
    assert sorted(spy.seen) == ["a.jpg", "cut.jpg"]


def test_a_decoder_that_dies_or_hangs_breaks_one_picture_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(JPEG)
    start = decoding._Decoders._start

    def dying(own: Any) -> Any:
        process = start(own)
        if not own.__dict__.setdefault("killed", False):
            own.killed = True
            os.kill(process.pid, signal.SIGALRM)  # as the kernel does after the time limit
        return process

    monkeypatch.setattr(decoding, "MAX_PROCESSES", 1)
    monkeypatch.setattr(decoding._Decoders, "_start", dying)
    assert answers(tmp_path, "a.jpg", "b.jpg", "c.jpg") == [
        "image 'a.jpg' takes longer than 60 seconds to decode",
        None,
        None,
    ]


def test_the_time_limit_ends_a_decoder_in_the_middle_of_its_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jpg").write_bytes(JPEG)
    hang = "import signal, sail_rl.data.decoder as d\nd.decode = lambda *_: [0 for _ in iter(int, 1)]\n"
    hang += "alarm = signal.alarm\nsignal.alarm = lambda s: alarm(min(s, 1))\nd.main()\n"
    popen = decoding.subprocess.Popen

    def hanging(arguments: list[str], **options: Any) -> Any:
        return popen([*arguments[:2], "-c", hang], **options)

    monkeypatch.setattr(decoding.subprocess, "Popen", hanging)
    assert answers(tmp_path, "a.jpg") == ["image 'a.jpg' takes longer than 60 seconds to decode"]


def test_memory_is_limited_in_the_decoder_and_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert decoder.MEMORY_BYTES <= 8 * 2**30
    (tmp_path / "a.png").write_bytes(encoded("PNG", Image.new("L", (9000, 9000))))
    (tmp_path / "b.jpg").write_bytes(JPEG)
    small = "import sail_rl.data.decoder as d\nd.MEMORY_BYTES = 1 << 29\nd.main()\n"
    popen = decoding.subprocess.Popen
    monkeypatch.setattr(decoding.subprocess, "Popen", lambda a, **o: popen([*a[:2], "-c", small], **o))
    assert answers(tmp_path, "a.png", "b.jpg") == ["the picture needs more than 0 GiB of memory", None]


def test_no_thread_or_process_stays_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(9):
        (tmp_path / f"{number}.jpg").write_bytes(JPEG + bytes([number]))
    started: list[Any] = []
    start = decoding._Decoders._start
    monkeypatch.setattr(decoding._Decoders, "_start", lambda own: started.append(start(own)) or started[-1])
    results = decoded((number, Medium(f"{number}.jpg", tmp_path)) for number in [*range(9), *range(9)])
    next(results)
    results.close()  # as Ctrl-C does
    assert all(process.poll() is not None for process in started)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decoder")]


def recipe_of(folder: Path, data: Path, **settings: Any) -> Any:
    tree = read_tree(Path("recipes/quickstart.yaml")) | {"output_dir": str(folder / "run")}
    tree["data"] = {"files": dict.fromkeys(("sft", "rl", "heldout"), str(data))} | settings
    (folder / "r.yaml").write_text(yaml.safe_dump(tree))
    return load_recipe(folder / "r.yaml")


def test_a_recipe_refuses_or_drops_rows_before_a_model_loads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "good.jpg").write_bytes(JPEG)
    (tmp_path / "cut.jpg").write_bytes(JPEG[:-500])
    row = {"prompt": "What?", "completion": "A cat", "answer": "1"}
    names = ("good.jpg", "cut.jpg", "good.jpg")
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(row | {"images": [name]}) + "\n" for name in names))
    with pytest.raises(ValueError, match=r"1 of 3 rows have broken pictures: row 1: image 'cut.jpg' can't be decoded"):
        make_plan(recipe_of(tmp_path, path), {})
    recipe = recipe_of(tmp_path, path, broken="drop")
    with caplog.at_level(logging.WARNING):
        plan = make_plan(recipe, {})
    assert "dropped 1 of 3 rows with broken pictures, which " in caplog.text
    assert [row["id"] for row in plan.datasets["rl"]] == ["0", "2"]
    (listed,) = map(json.loads, recipe.run_dir.broken_rows("rl").open())
    assert listed["row"] == 1
    assert listed["reason"].startswith("image 'cut.jpg' can't be decoded: image file is truncated")
    (tmp_path / "cut.jpg").write_bytes(JPEG)  # mended
    assert len(make_plan(recipe, {}).datasets["rl"]) == 3
    assert not recipe.run_dir.broken_rows("rl").exists(), "a list of rows that are no longer dropped would mislead"


def test_curation_refuses_or_drops_broken_pictures_before_it_asks_anybody(tmp_path: Path) -> None:
    (tmp_path / "good.jpg").write_bytes(JPEG)
    (tmp_path / "cut.jpg").write_bytes(JPEG[:-500])
    path = dataset(tmp_path, "good.jpg", "cut.jpg")
    tree = {"data": str(path), "steps": ["strip_prompts"], "out": str(tmp_path / "out.parquet")}
    with pytest.raises(ValueError, match=r"1 of 2 rows have broken pictures"):
        curate(CurationRecipe.model_validate(tree))
    curate(CurationRecipe.model_validate(tree | {"broken": "drop"}))
    assert [row["id"] for row in Rows(tmp_path / "out.parquet")] == ["0"]
    assert json.loads((tmp_path / "out.d.broken.jsonl").read_text())["row"] == 1
