"""Pictures and videos in rows: what is refused at load, frames and their labels, lengths without pixels."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from conftest import picture
from datasets import Dataset, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image

from sail_rl.config import Recipe
from sail_rl.data.dataset import Rows
from sail_rl.data.encoding import Encoder
from sail_rl.data.video import sample_indices, with_frames
from sail_rl.models import SailVLImageProcessor, SailVLProcessor
from sail_rl.plan.plan import Plan, drop_overlong

av = pytest.importorskip("av")


def rows_of(folder: Path, *rows: dict[str, Any], **options: Any) -> Rows:
    path = folder / "d.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Rows(path, **options)


def write_video(path: Path, *, frames: int, width: int = 64, height: int = 48) -> Path:
    """A video whose frame n is the grey 10 n, lossless up to the colour conversion."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=5, width=width, height=height, pix_fmt="yuv420p")
        for number in range(frames):
            frame = av.VideoFrame.from_image(Image.new("RGB", (width, height), (10 * number,) * 3))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


class TestPictures:
    def test_a_picture_cut_short_is_found_at_load(self, tmp_path: Path) -> None:
        picture(0).save(tmp_path / "a.png")
        (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:-300])
        with pytest.raises(ValueError, match=r"d.jsonl, row 1: image 'b.png' can't be decoded"):
            rows_of(tmp_path, {"prompt": "x", "images": ["a.png"]}, {"prompt": "x", "images": ["b.png"]})

    def test_a_cut_jpeg_names_its_row_when_it_is_read(self, tmp_path: Path) -> None:
        picture(0, 200, 200).save(tmp_path / "a.jpg")
        (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:4000])
        rows = rows_of(tmp_path, {"prompt": "x", "images": ["a.jpg"]})  # JPEG has no checksum to verify
        with pytest.raises(ValueError, match=r"row 0: image 'a.jpg' can't be decoded: image file is truncated"):
            rows[0]

    @pytest.mark.parametrize("limit", [3000, 1000])  # PIL warns above its limit and raises above twice that
    def test_a_decompression_bomb_is_refused_at_load(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int
    ) -> None:
        picture(0, 64, 64).save(tmp_path / "a.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ValueError, match=rf"row 0: image 'a.png' has too many pixels \(the limit is {limit:,}\)"):
            rows_of(tmp_path, {"prompt": "x", "images": ["a.png"]})

    def test_pictures_embedded_in_parquet_are_read_and_checked(self, tmp_path: Path) -> None:
        features = Features({"prompt": Value("string"), "images": List(ImageFeature())})
        made = Dataset.from_dict({"prompt": ["x"], "images": [[picture(3)]]}, features=features)
        made.to_parquet(tmp_path / "a.parquet")
        assert Rows(tmp_path / "a.parquet")[0]["images"][0].tobytes() == picture(3).tobytes()
        bad = Dataset.from_dict({"prompt": ["x"], "images": [[{"bytes": b"no picture", "path": None}]]}, features)
        bad.to_parquet(tmp_path / "b.parquet")
        with pytest.raises(ValueError, match=r"b.parquet, row 0: an embedded image can't be decoded"):
            Rows(tmp_path / "b.parquet")


class TestTypedImageTokens:
    @pytest.mark.parametrize("token", ["<IMG_CONTEXT>", "<img>", "</img>"])
    def test_an_image_token_in_a_text_is_text(self, tmp_path: Path, encoder: Encoder, token: str) -> None:
        parts = [{"type": "image"}, {"type": "text", "text": f"What does {token} mean?"}]
        picture(0).save(tmp_path / "a.png")
        row = {"prompt": [{"role": "user", "content": parts}], "images": ["a.png"], "completion": token}
        sample = encoder.sft_sample(rows_of(tmp_path, row)[0])
        assert (sample.input_ids == encoder.processor.image_token_id).sum() == 4
        assert sample.input_ids[sample.prompt_length :].tolist() == [
            *encoder.processor.chat.encode(token),
            encoder.processor.tokenizer.eos_token_id,
        ]


class TestVideo:
    @pytest.mark.parametrize(
        ("total", "count", "indices"),
        [(8, 4, [1, 3, 5, 7]), (3, 8, [0, 1, 2]), (10, 3, [1, 5, 8]), (100, 1, [50]), (4, 4, [0, 1, 2, 3])],
    )
    def test_frames_are_sampled_evenly(self, total: int, count: int, indices: list[int]) -> None:
        assert sample_indices(total, count) == indices

    def test_frames_take_the_place_of_the_video_and_are_labelled(self) -> None:
        parts = [{"type": "text", "text": "Look. "}, {"type": "video"}, {"type": "text", "text": "What moves?"}]
        (message,) = with_frames([{"role": "user", "content": parts}], 2)
        texts = [part.get("text", part["type"]) for part in message["content"]]
        assert texts == ["Look. ", "Frame 1: ", "image", "Frame 2: ", "image", "What moves?"]

    def test_a_list_of_frames_becomes_a_prompt(self, tmp_path: Path, encoder: Encoder) -> None:
        for number in range(4):
            picture(number, 120, 40).save(tmp_path / f"{number}.png")
        video = [f"{number}.png" for number in range(4)]
        rows = rows_of(tmp_path, {"prompt": "What moves?", "video": video, "answer": "x"}, video_frames=2)
        assert [frame.tobytes() for frame in rows[0]["video"]] == [picture(n, 120, 40).tobytes() for n in (1, 3)]
        prompt = encoder.prompt(rows[0])
        assert prompt.text == (
            "<|im_start|>user\nFrame 1: <IMG_CONTEXT>\nFrame 2: <IMG_CONTEXT>\nWhat moves?<|im_end|>"
            "<|im_start|>assistant\n"
        )
        assert [image.size for image in prompt.images] == [(56, 56), (56, 56)]
        _, images = encoder.prompt_inputs(prompt)
        assert images["image_grid_thw"].tolist() == [[1, 4, 4], [1, 4, 4]]  # a tile each, wide as the frames are
        assert prompt.columns == {"id": "0", "answer": "x"}

    @pytest.mark.parametrize("ending", ["mkv", "avi"])
    def test_a_file_gives_the_frames_in_the_middle_of_equal_parts(self, tmp_path: Path, ending: str) -> None:
        write_video(tmp_path / f"a.{ending}", frames=12)
        rows = rows_of(tmp_path, {"prompt": "What moves?", "video": f"a.{ending}"}, video_frames=4)
        greys = [frame.getpixel((5, 5))[0] for frame in rows[0]["video"]]
        assert greys == pytest.approx([10, 40, 70, 100], abs=2)  # frames 1, 4, 7, 10
        assert rows.metadata(0)["video"] == [(48, 64)] * 4

    def test_a_video_that_can_t_be_read_names_its_row(self, tmp_path: Path) -> None:
        (tmp_path / "a.mp4").write_bytes(b"no video")
        with pytest.raises(ValueError, match=r"row 0: video 'a.mp4' can't be decoded"):
            rows_of(tmp_path, {"prompt": "x", "video": "a.mp4"})
        with pytest.raises(ValueError, match=r"row 0: video 'b.mp4' is missing"):
            rows_of(tmp_path, {"prompt": "x", "video": "b.mp4"})
        with pytest.raises(ValueError, match=r"row 0: the video is an empty list"):
            rows_of(tmp_path, {"prompt": "x", "video": []})

    def test_a_video_cut_short_names_its_row_when_it_is_read(self, tmp_path: Path) -> None:
        write_video(tmp_path / "a.avi", frames=40, width=320, height=240)
        whole = rows_of(tmp_path, {"prompt": "x", "video": "a.avi"})  # its header says 40 frames
        (tmp_path / "a.avi").write_bytes((tmp_path / "a.avi").read_bytes()[: (tmp_path / "a.avi").stat().st_size // 2])
        with pytest.raises(ValueError, match=r"row 0: video 'a.avi' (is truncated: it ends after|can't be decoded)"):
            whole[0]

    def test_images_beside_a_video_are_refused(self, tmp_path: Path) -> None:
        picture(0).save(tmp_path / "a.png")
        with pytest.raises(ValueError, match="row 0: the row has images and a video"):
            rows_of(tmp_path, {"prompt": "x", "video": ["a.png"], "images": ["a.png"]})
        parts = [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]
        with pytest.raises(ValueError, match="row 0: a prompt with a video may have one video part and no image parts"):
            rows_of(tmp_path, {"prompt": [{"role": "user", "content": parts}], "video": ["a.png"]})


class TestLength:
    @pytest.mark.parametrize("resolution", ["tiles", "padded", "anyres"])
    def test_counted_length_is_that_of_the_sample(
        self, tmp_path: Path, processor: SailVLProcessor, resolution: str
    ) -> None:
        tile = {"height": 56, "width": 56}
        images = SailVLImageProcessor(size=tile, resolution=resolution, max_pixels=112 * 112)
        encoder = Encoder(SailVLProcessor(images, processor.tokenizer), max_length=512)
        picture(0, 190, 70).save(tmp_path / "a.png")
        picture(1, 30, 99).save(tmp_path / "b.png")
        rows = rows_of(
            tmp_path,
            {"prompt": "What is the sum?", "images": ["a.png", "b.png"], "completion": "10"},
            {"prompt": "What?", "images": [], "completion": "10"},
            {"prompt": "What moves?", "video": ["a.png", "b.png"], "completion": "10 and 20"},
        )
        for index, row in enumerate(rows):
            sample = encoder.sft_sample(row)
            assert encoder.length(rows.metadata(index), completion=True) == len(sample)
            assert encoder.length(rows.metadata(index), completion=False) == sample.prompt_length


class TestOverlong:
    @pytest.fixture
    def rows(self, tmp_path: Path) -> Rows:
        picture(0, 28, 336).save(tmp_path / "a.png")  # 12 tiles and a thumbnail: 54 tokens
        short = {"prompt": "What?", "images": []}
        return rows_of(tmp_path, short, {"prompt": "What?", "images": ["a.png"]}, {**short, "prompt": "Why?"})

    def plan(self, rows: Rows, folder: Path, overlong: str) -> Plan:
        reward = {"accuracy": {"path": "rewards.answer:math_answer"}}
        stage: dict[str, Any] = {"name": "rl", "kind": "rl", "data": "d", "steps": 1, "rewards": reward}
        stage["optimizer"] = {"learning_rate": 1e-6}
        stage["sampling"] = {"max_tokens": 8, "prompts_per_step": 1, "samples_per_prompt": 2}
        recipe = Recipe.model_validate(
            {
                "name": "x",
                "output_dir": folder,
                "model": {"max_length": 50},
                "data": {"files": {"d": rows.path}, "overlong": overlong},
                "evaluation": {"data": "d", "rewards": reward, "max_tokens": 8},
                "stages": [stage],
            }
        )
        return Plan(recipe, {"d": rows}, {}, {})

    def test_a_row_longer_than_the_context_is_refused(self, rows: Rows, tmp_path: Path, tiny_dir: Any) -> None:
        with pytest.raises(
            ValueError, match=r"d.jsonl: 1 of 3 rows are too long, first row 1 with \d+ tokens where 49"
        ):
            drop_overlong(self.plan(rows, tmp_path, "error"), tiny_dir())

    def test_or_dropped_and_counted(
        self, rows: Rows, tmp_path: Path, tiny_dir: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            kept = drop_overlong(self.plan(rows, tmp_path, "drop"), tiny_dir()).datasets["d"]
        assert "d: dropped 1 of 3 rows, longer than 49 tokens" in caplog.text
        assert [row["id"] for row in kept] == ["0", "2"]  # the others keep their numbers
        assert kept.metadata(1)["prompt"][0]["content"] == "Why?"
