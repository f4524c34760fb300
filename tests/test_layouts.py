"""The layouts of public datasets: each row becomes what its owner means, and what is passed over is named."""

from __future__ import annotations

import base64
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from conftest import picture
from datasets import Dataset
from datasets import Image as ImageFeature
from test_data import write_jsonl
from test_formats import ASKED, IMAGE, png, recipe, text

from sail_rl.data.dataset import Rows
from sail_rl.data.formats import unified
from sail_rl.data.saving import save_rows
from sail_rl.plan.rewards import check_gold_answers


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def said(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


HI = [user("Hi")]
SYSTEM = {"role": "system", "content": "Be brief."}
BYTES = {"bytes": png(0), "path": None}
BASE64 = base64.b64encode(png(0)).decode()

LAYOUTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "Alpaca": (
        {"instruction": "Add.", "input": "1 and 1", "output": "2"},
        {"prompt": [user("Add.\n1 and 1")], "completion": "2"},
    ),
    "Alpaca without an input": (
        {"instruction": "Hi", "input": "", "output": "Ho"},
        {"prompt": HI, "completion": "Ho"},
    ),
    "LLaMA-Factory's Alpaca": (
        {
            "instruction": "<image>What is it?",
            "output": "A cat",
            "system": "Be brief.",
            "history": [["Hi", "Ho"]],
            "images": ["a.png"],
        },
        {"prompt": [SYSTEM, *HI, said("Ho"), *ASKED], "completion": "A cat", "images": ["a.png"]},
    ),
    "LLaMA-Factory's ShareGPT": (
        {
            "conversations": [{"from": "human", "value": "<image>What is it?"}, {"from": "gpt", "value": "A cat"}],
            "system": "Be brief.",
            "images": ["a.png"],
        },
        {"prompt": [SYSTEM, *ASKED], "completion": "A cat", "images": ["a.png"]},
    ),
    "ShareGPT with an empty system": (
        {"conversations": [{"from": "human", "value": "Hi"}], "system": ""},
        {"prompt": HI},
    ),
    "a system that the messages repeat": (
        {"messages": [SYSTEM, *HI], "system": "Be brief."},
        {"prompt": [SYSTEM, *HI]},
    ),
    "OpenAI's developer": (
        {"messages": [{"role": "developer", "content": "Be brief."}, *HI]},
        {"prompt": [SYSTEM, *HI]},
    ),
    "LMSYS": ({"conversation": [*HI, said("Ho")]}, {"prompt": HI, "completion": "Ho"}),
    "ms-swift's query": (
        {"query": "Hi", "response": "Ho", "system": "Be brief.", "history": []},
        {"prompt": [SYSTEM, *HI], "completion": "Ho"},
    ),
    "ms-swift's GRPO": (
        {"images": "a.png", "messages": ASKED, "solution": "<answer> 3 </answer>"},
        {"images": ["a.png"], "prompt": ASKED, "solution": "<answer> 3 </answer>", "answer": "3"},
    ),
    "R1's solution": (
        {"problem": "1+1?", "solution": "<think>One, two.</think>\n<answer>2</answer>"},
        {
            "prompt": [user("1+1?")],
            "solution": "<think>One, two.</think>\n<answer>2</answer>",
            "answer": "2",
        },
    ),
    "ms-swift's video": (
        {"messages": [user("<video>What moves?")], "videos": ["a.mp4"]},
        {"prompt": [user([{"type": "video"}, text("What moves?")])], "video": "a.mp4"},
    ),
    "messages as JSON": (
        {"messages": json.dumps([*HI, said("Ho")])},
        {"prompt": HI, "completion": "Ho"},
    ),
    "verl": (
        {
            "data_source": "x",
            "prompt": [user("<image>What is it?")],
            "images": [{"image": "file:///a.png"}],
            "reward_model": {"style": "rule", "ground_truth": "cat"},
        },
        {
            "data_source": "x",
            "prompt": ASKED,
            "images": ["/a.png"],
            "reward_model": {"style": "rule", "ground_truth": "cat"},
            "answer": "cat",
        },
    ),
    "EasyR1": (
        {"problem": "<image>What is it?", "answer": "cat", "images": [{"bytes": png(0), "path": None}]},
        {"prompt": ASKED, "answer": "cat", "images": [BYTES]},
    ),
    "MMMU": (
        {
            "question": "What is <image 2>?",
            "options": "['<image 1>', 'a cat']",
            "answer": "B",
            "image_1": "a.png",
            "image_2": {"bytes": png(0), "path": None},
            "image_3": None,
        },
        {
            "prompt": [user([text("What is "), IMAGE, text("?\n(A) "), IMAGE, text("(B) a cat")])],
            "options": ["<image 1>", "a cat"],
            "answer": "B",
            "images": [BYTES, "a.png"],
        },
    ),
    "numbered images without marks": (
        {"question": "Alike?", "image_2": "b.png", "image_1": "a.png"},
        {"prompt": [user([IMAGE, IMAGE, text("Alike?")])], "images": ["a.png", "b.png"]},
    ),
    "numbered images beside turns": (
        {"messages": [user("<image>, <image>?")], "image1": "a.png", "image2": "b.png"},
        {"prompt": [user([IMAGE, text(", "), IMAGE, text("?")])], "images": ["a.png", "b.png"]},
    ),
    "MathVista": (
        {"question": "What is it?", "image": "images/1.jpg", "decoded_image": {"bytes": png(0), "path": "1.jpg"}},
        {"prompt": [user("What is it?")], "images": [{"bytes": png(0), "path": "1.jpg"}]},
    ),
    "Qwen's parts": (
        {"messages": [user([{"image": "a.png"}, {"text": "What is it?"}]), said([{"text": "A cat"}])]},
        {"prompt": ASKED, "completion": "A cat", "images": ["a.png"]},
    ),
    "the Responses API's parts": (
        {"messages": [user([{"type": "input_image", "image_url": "a.png"}, {"type": "input_text", "text": "What?"}])]},
        {"prompt": [user([IMAGE, text("What?")])], "images": ["a.png"]},
    ),
    "Anthropic's parts": (
        {"messages": [user([{"type": "image", "source": {"type": "base64", "data": BASE64}}, text("What is it?")])]},
        {"prompt": ASKED, "images": [BYTES]},
    ),
    "a video in a part": (
        {"messages": [user([{"type": "video", "video": "a.mp4"}, text("What moves?")])]},
        {"prompt": [user([{"type": "video"}, text("What moves?")])], "video": "a.mp4"},
    ),
    "frames of a video": (
        {"prompt": "What moves?", "videos": [["1.png", "2.png"]]},
        {"prompt": "What moves?", "video": ["1.png", "2.png"]},
    ),
    "an answer about the word <image>": (
        {"messages": [*HI, said("<image> is a tag")]},
        {"prompt": HI, "completion": "<image> is a tag"},
    ),
    "the same picture twice": (
        {"prompt": "Hi", "image": "a.png", "images": ["a.png"]},
        {"prompt": "Hi", "images": ["a.png"]},
    ),
    "empty pictures": (
        {"prompt": "Hi", "image": "", "images": [], "img": None, "videos": []},
        {"prompt": "Hi"},
    ),
    "pictures as JSON": (
        {"prompt": "Hi", "images": '["a.png", "b.png"]'},
        {"prompt": "Hi", "images": ["a.png", "b.png"]},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_read_as_its_owner_means_it(layout: str) -> None:
    row, expected = LAYOUTS[layout]
    assert unified(row) == expected
    assert unified(expected) == expected, "what is in our format stays as it is"


@pytest.mark.parametrize(
    "column", ["images", "image", "img", "imgs", "image_url", "image_path", "img_url", "picture", "images_1"]
)
@pytest.mark.parametrize(
    "source",
    [
        "a.png",
        f"data:image/png;base64,{BASE64}",
        f"DATA:image/png;BASE64,{BASE64.rstrip('=')}",
        BASE64,
        base64.encodebytes(png(0)).decode(),
        {"bytes": BASE64},
        {"path": "a.png", "bytes": None},
        {"url": f"data:image/png;base64,{BASE64}"},
        "file://{folder}/a.png",
        "file://localhost{folder}/a%2Epng",
        "./sub/../a.png",
    ],
    ids=range(11),
)
def test_a_picture_may_be_given_in_any_column_in_any_way(column: str, source: Any, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    if isinstance(source, str):
        source = source.replace("{folder}", str(tmp_path))
    for given in (source, [source])[: 1 if column == "images_1" else 2]:
        row = {"prompt": "What is it?", column: given, "completion": "A cat"}
        (read,) = Rows(write_jsonl(tmp_path / "d.jsonl", [row]))
        assert [image.tobytes() for image in read["images"]] == [picture(0).tobytes()]
        assert [part["type"] for part in read["prompt"][0]["content"]] == ["image", "text"]


@pytest.mark.parametrize("kind", ["bytes", "list of bytes", "feature", "in messages"])
def test_bytes_and_image_features_in_parquet_are_pictures(kind: str, tmp_path: Path) -> None:
    column: dict[str, list[Any]] = {"image": [png(0), None]}
    if kind == "list of bytes":
        column = {"images": [[png(0)], []]}
    elif kind == "in messages":
        parts = [
            {"type": "image", "image": {"bytes": png(0), "path": None}, "text": None},
            {**text("A?"), "image": None},
        ]
        column = {"messages": [[user(parts)], [user([{**text("B?"), "image": None}])]]}
    data = Dataset.from_dict(column if kind == "in messages" else column | {"prompt": ["A?", "B?"]})
    if kind == "feature":
        data = data.cast_column("image", ImageFeature())
    elif kind == "in messages":
        features = data.features.copy()
        features["messages"].feature["content"].feature["image"] = ImageFeature()
        data = data.cast(features)
    data.to_parquet(tmp_path / "d.parquet")
    first, second = Rows(tmp_path / "d.parquet")
    assert [image.tobytes() for image in first["images"]] == [picture(0).tobytes()]
    assert second["images"] == []
    save_rows(tmp_path / "kept.parquet", Rows(tmp_path / "d.parquet"), [1, 0])
    assert [image.tobytes() for row in Rows(tmp_path / "kept.parquet") for image in row["images"]] == [
        picture(0).tobytes()
    ]


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"prompt": "Hi", "messages": HI}, "column 'messages' looks like turns"),
        ({"prompt": "Hi", "chosen": [user("Hi"), said("Ho")]}, "column 'chosen' looks like turns"),
        ({"prompt": "Hi", "tools": [{"name": "f"}]}, "column 'tools' looks like turns"),
        ({"prompt": "Hi", "photo_of_it": "a.png"}, "column 'photo_of_it' looks like pictures"),
        ({"prompt": "Hi", "shots": [BASE64]}, "column 'shots' looks like pictures"),
        ({"prompt": "Hi", "image": "a.png", "image_2": "a.png"}, "column 'image_2' looks like pictures"),
        ({"prompt": "Hi", "image": "a.png", "image_url": "https://x.org/a.png"}, "column 'image_url' looks like"),
        ({"prompt": "Hi", "audios": ["a.wav"]}, "column 'audios' looks like"),
        ({"prompt": "Hi", "clip": "film.mp4"}, "column 'clip' looks like"),
        (
            {"messages": [*HI, said("Ho") | {"tool_calls": [{"name": "f"}]}]},
            "'tool_calls' of messages isn't read",
        ),
        ({"messages": [*HI, said("Ho") | {"weight": 0}]}, "'weight' of messages isn't read"),
    ],
)
def test_what_is_passed_over_is_named_once_for_a_file(
    row: dict[str, Any], named: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    file = write_jsonl(tmp_path / "d.jsonl", [{"prompt": "Hi"}, row, row])
    with caplog.at_level(logging.WARNING):
        rows = Rows(file)
        list(rows)
        Rows(file, row_index=rows.row_index)
    (message,) = [record.getMessage() for record in caplog.records if "isn't read" in record.getMessage()]
    assert named in message
    assert message.startswith(f"{file}, row 1: ")


@pytest.mark.parametrize(
    "column",
    [{"image_id": 3}, {"source": "x"}, {"images_extra": 1}, {"question": "Hi?"}, {"tags": ["a", "b"]}, {"ok": b""}],
)
def test_other_columns_are_nobody_s_business(column: dict[str, Any], tmp_path: Path, caplog: Any) -> None:
    Dataset.from_list([{"prompt": "Hi", **column}]).to_parquet(tmp_path / "d.parquet")
    with caplog.at_level(logging.WARNING):
        Rows(tmp_path / "d.parquet")
    assert not [record for record in caplog.records if "isn't read" in record.getMessage()]


@pytest.mark.parametrize(
    "values",
    [
        [1, "1", [1, 2], None, True, 2.5],
        [1, 2.5, 3],
        [{"a": 1}, {"b": "2"}, {}],
        [{}, {}],
        [[1], ["1"], []],
        ["1", "2", None],
    ],
)
def test_saved_rows_keep_the_values_of_every_column_exactly(values: list[Any], tmp_path: Path) -> None:
    rows = [{"prompt": "Hi", "answer": value} for value in values]
    save_rows(tmp_path / "kept.parquet", Rows(write_jsonl(tmp_path / "d.jsonl", rows)), list(range(len(values))))
    kept = [row["answer"] for row in Rows(tmp_path / "kept.parquet")]
    assert json.dumps(kept) == json.dumps(values)


def test_an_integer_that_no_file_keeps_is_refused(tmp_path: Path) -> None:
    rows = Rows(write_jsonl(tmp_path / "d.jsonl", [{"prompt": "Hi", "serial": 2**70}]))
    with pytest.raises(ValueError, match="column 'serial': an integer has more than 64 bits; write it as a text"):
        save_rows(tmp_path / "kept.parquet", rows, [0])


def test_saved_frames_are_found_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "a.png").write_bytes(png(0))
    rows = Rows(write_jsonl(tmp_path / "d.jsonl", [{"prompt": "What moves?", "video": ["a.png"]}]))
    save_rows(tmp_path / "there/kept.parquet", rows, [0])
    (kept,) = Rows(tmp_path / "there/kept.parquet", root=Path("/"))
    assert [frame.tobytes() for frame in kept["video"]] == [picture(0).tobytes()]


def test_a_windows_path_gets_a_hint(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/a.png").write_bytes(png(0))
    with pytest.raises(ValueError, match=r"is missing .*, with / between folders"):
        Rows(write_jsonl(tmp_path / "d.jsonl", [{"prompt": "Hi", "image": "sub\\a.png"}]))


@pytest.mark.parametrize("name", ["self", "completions", "prompts", "trainer_state"])
def test_a_column_that_rewards_cannot_get_is_named_and_disturbs_no_check(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_jsonl(tmp_path / "d.jsonl", [{"prompt": "1+1?", "answer": "2", "completion": "2", name: "v"}])
    made = recipe(tmp_path, {"path": str(file)})
    with caplog.at_level(logging.WARNING):
        check_gold_answers(made, {"rl": Rows(file), "heldout": Rows(file)})
    assert any(f"{file}: rewards don't get the column(s) {name}," in record.getMessage() for record in caplog.records)
