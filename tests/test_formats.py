"""Data in: the formats people have become one; what can't be used is refused with its row."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from conftest import picture
from datasets import Dataset
from test_data import write_jsonl

from sail_rl.cli.data_show import pieces
from sail_rl.cli.main import main
from sail_rl.config.loading import load_recipe
from sail_rl.config.sections import SourceConfig
from sail_rl.data import hub
from sail_rl.data.dataset import Rows
from sail_rl.data.encoding import Encoder
from sail_rl.data.formats import alike, unified
from sail_rl.data.saving import save_rows
from sail_rl.plan.datasets import build_data, open_rows

IMAGE = {"type": "image"}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def png(seed: int) -> bytes:
    picture(seed).save(content := io.BytesIO(), format="PNG")
    return content.getvalue()


ASKED = [{"role": "user", "content": [IMAGE, text("What is it?")]}]
DATA_URL = "data:image/png;base64," + base64.b64encode(png(0)).decode()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        # OpenAI and TRL
        (
            {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
            {"prompt": [{"role": "user", "content": "Hi"}], "completion": "Ho"},
        ),
        (
            {"messages": [*ASKED, {"role": "assistant", "content": [text("A "), text("cat")]}], "images": ["a.png"]},
            {"prompt": ASKED, "completion": "A cat", "images": ["a.png"]},
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "a.png"}}, text("What is it?")],
                    }
                ]
            },
            {"prompt": ASKED, "images": ["a.png"]},
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "image": DATA_URL}, text("What is it?")]}]},
            {"prompt": ASKED, "images": [{"bytes": png(0), "path": None}]},
        ),
        (
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "1+1?"},
                    {"role": "assistant", "content": "\\boxed{2}", "reasoning_content": "One and one."},
                ]
            },
            {
                "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}],
                "completion": "<think>\nOne and one.\n</think>\n\n\\boxed{2}",
            },
        ),
        # LLaVA and ShareGPT
        (
            {
                "id": 7,
                "image": "a.png",
                "conversations": [
                    {"from": "human", "value": "<image>\nWhat is it?"},
                    {"from": "gpt", "value": "A cat"},
                ],
            },
            {"id": 7, "images": ["a.png"], "prompt": ASKED, "completion": "A cat"},
        ),
        (
            {
                "images": ["a.png", "b.png"],
                "conversations": [
                    {"from": "human", "value": "Compare <image> and <image>."},
                    {"from": "gpt", "value": "Alike."},
                    {"from": "human", "value": "Sure?"},
                    {"from": "gpt", "value": "Yes."},
                ],
            },
            {
                "images": ["a.png", "b.png"],
                "prompt": [
                    {"role": "user", "content": [text("Compare "), IMAGE, text(" and "), IMAGE, text(".")]},
                    {"role": "assistant", "content": "Alike."},
                    {"role": "user", "content": "Sure?"},
                ],
                "completion": "Yes.",
            },
        ),
        (
            {"video": "a.mp4", "conversations": [{"from": "human", "value": "<video>\nWhat moves?"}]},
            {
                "video": "a.mp4",
                "prompt": [{"role": "user", "content": [{"type": "video"}, text("What moves?")]}],
            },
        ),
        # Plain columns
        (
            {"question": "What is it?", "image": "a.png", "answer": "cat"},
            {"prompt": [{"role": "user", "content": "What is it?"}], "images": ["a.png"], "answer": "cat"},
        ),
        ({"prompt": "Hi", "answer": "Ho"}, {"prompt": "Hi", "answer": "Ho"}),
        ({"prompt": "<image>What is it?", "image": "a.png"}, {"prompt": ASKED, "images": ["a.png"]}),
        # A null in every column that this row doesn't use, as Arrow has it
        (
            {
                "prompt": None,
                "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi", "image": None}]}],
            },
            {"prompt": [{"role": "user", "content": [text("Hi")]}]},
        ),
    ],
)
def test_each_format_becomes_prompt_and_completion(row: dict[str, Any], expected: dict[str, Any]) -> None:
    given = json.loads(json.dumps(row))
    assert unified(row) == expected
    assert row == given, "the row itself stays as it is"
    again = unified(expected)
    assert again == expected, "and what is in our format stays as it is"


def test_columns_are_called_what_the_recipe_says() -> None:
    row = {"problem": "1+1?", "solution": "2", "answer": "worked out at length", "source": "x"}
    assert unified(row, {"prompt": "problem", "answer": "solution", "completion": "answer"}) == {
        "prompt": "1+1?",
        "answer": "2",
        "completion": "worked out at length",
        "source": "x",
    }
    with pytest.raises(ValueError, match="`columns` maps prompt to 'query', which isn't among the columns problem"):
        unified(row, {"prompt": "query"})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": []}, "the list of messages is empty"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "the only message is the assistant's"),
        ({"messages": [{"role": "critic", "content": "Hi"}]}, r"messages\[0\].role is 'critic'; give one of user"),
        ({"messages": [{"role": "user", "content": None}]}, "the user's message has no content"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "a part of type 'audio'"),
        (
            {"messages": [*ASKED, {"role": "assistant", "content": [IMAGE]}]},
            "the assistant's answer has an image, but the model answers with text only",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "image": "https://x.org/a.png"}]}]},
            "is a network address, which is never fetched",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "image": "data:image/png;base64,??"}]}]},
            "isn't base64",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "image": "a"}, IMAGE]}]},
            "1 of 2 image parts name their image",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "image": "a"}]}], "images": ["b"]},
            "give them in one place only",
        ),
    ],
)
def test_what_cannot_be_read_is_said(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unified(row)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(png(0))
    (tmp_path / "b.png").write_bytes(png(1))
    return tmp_path


CONVERSATIONS: list[dict[str, Any]] = [
    {"image": "a.png", "conversations": [{"from": "human", "value": "<image>\nA?"}, {"from": "gpt", "value": "a"}]},
    {"image": None, "conversations": [{"from": "human", "value": "B?"}, {"from": "gpt", "value": "b"}]},
]


def assert_read(rows: Rows) -> None:
    assert len(rows) == 2
    first, second = rows[0], rows[1]
    assert [part["type"] for part in first["prompt"][0]["content"]] == ["image", "text"]
    assert first["images"][0].tobytes() == picture(0).tobytes()
    assert (first["completion"], second["completion"], second["images"]) == ("a", "b", [])


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "arrow", "saved", "shards", "pictures"])
def test_every_kind_of_file_is_read(kind: str, folder: Path) -> None:
    dataset, place = Dataset.from_list(CONVERSATIONS), folder / f"d.{kind}"
    if kind == "jsonl":
        write_jsonl(place, CONVERSATIONS)
    elif kind == "json":
        place.write_text(json.dumps(CONVERSATIONS))
    elif kind == "parquet":
        dataset.to_parquet(place)
    elif kind == "arrow":
        dataset.save_to_disk(folder / "x")
        (next((folder / "x").glob("*.arrow"))).rename(place)
    elif kind == "saved":
        dataset.save_to_disk(place)
    elif kind == "shards":
        for number in range(2):
            place.mkdir(exist_ok=True)
            dataset.select([number]).to_parquet(place / f"{number}.parquet")
    else:
        rows = [{"file_name" if name == "image" else name: value for name, value in r.items()} for r in CONVERSATIONS]
        place = folder
        write_jsonl(folder / "metadata.jsonl", rows)
    assert_read(Rows(place, needs=("prompt", "completion"), root=folder))


def test_rows_of_different_shapes_may_share_a_jsonl(folder: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.png"}, text("A?")]}], "answer": "a"},
        {"messages": [{"role": "user", "content": "B?"}], "answer": "b"},
        {"prompt": "C?", "answer": "c"},
    ]
    read = Rows(write_jsonl(folder / "d.jsonl", rows), needs=("prompt", "answer"))
    assert [row["answer"] for row in read] == ["a", "b", "c"]
    assert [len(row["images"]) for row in read] == [1, 0, 0]
    assert read[1]["prompt"] == [{"role": "user", "content": "B?"}]
    save_rows(folder / "kept.parquet", read, [2, 0])
    kept = Rows(folder / "kept.parquet")
    assert [row["answer"] for row in kept] == ["c", "a"]
    assert kept[1]["images"][0].tobytes() == picture(0).tobytes()


def test_alike_rows_keep_their_words() -> None:
    assert alike({"prompt": "Hi", "completion": "Ho"}) == {
        "prompt": [{"role": "user", "content": [text("Hi")]}],
        "completion": "Ho",
    }


@pytest.mark.parametrize("path", ["../a.png", "/etc/hostname", "b/../../a.png"])
def test_paths_that_lead_out_of_the_data_are_refused(path: str, folder: Path) -> None:
    inner = folder / "inner"
    inner.mkdir()
    file = write_jsonl(inner / "d.jsonl", [{"prompt": "x", "images": [path]}])
    with pytest.raises(ValueError, match=r"d.jsonl, row 0: '.*' lies outside .*inner; set `root`"):
        Rows(file)
    if path == "../a.png":
        file.write_text(json.dumps({"prompt": "x", "images": ["a.png"]}))
        assert Rows(file, root=folder)[0]["images"][0].tobytes() == picture(0).tobytes()


def test_a_broken_line_is_named(folder: Path) -> None:
    (folder / "d.jsonl").write_text('{"prompt": "x"}\n{"prompt": \n')
    with pytest.raises(ValueError, match=r"d.jsonl, row 1 \(line 2\): not JSON: Expecting value, column 12"):
        Rows(folder / "d.jsonl")
    (folder / "e.jsonl").write_text('{"prompt": "x"}\n["y"]\n')
    with pytest.raises(ValueError, match=r"e.jsonl, row 1 \(line 2\): list instead of an object"):
        Rows(folder / "e.jsonl")


def test_a_bad_message_is_named_with_its_row(folder: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "x"}]}, {"messages": [{"role": "ghost", "content": "x"}]}]
    with pytest.raises(ValueError, match=r"d.jsonl, row 1: messages\[0\].role is 'ghost'"):
        Rows(write_jsonl(folder / "d.jsonl", rows))


def test_a_missing_column_says_how_to_map_it(folder: Path) -> None:
    file = write_jsonl(folder / "d.jsonl", [{"task": "1+1?", "result": "2"}])
    with pytest.raises(
        ValueError, match="no column 'prompt' among task, result; if it has another name, set `columns`"
    ):
        Rows(file)
    assert Rows(file, columns={"prompt": "task", "answer": "result"})[0]["answer"] == "2"


# In a recipe


def recipe(tmp_path: Path, source: dict[str, Any]) -> Any:
    overrides = [f"output_dir={tmp_path / 'run'}", "data.builder=null", "data.kwargs={}"]
    files = dict.fromkeys(("sft", "rl", "heldout"), source)
    return load_recipe(Path("recipes/quickstart.yaml"), [*overrides, f"data.files={json.dumps(files)}"])


def test_a_recipe_maps_columns_and_says_where_images_are(folder: Path) -> None:
    (folder / "in").mkdir()
    rows = [{"problem": "A?", "picture": "a.png", "solution": "a"}]
    path = write_jsonl(folder / "in/d.jsonl", rows)
    columns = {"prompt": "problem", "image": "picture", "answer": "solution"}
    made = recipe(folder, {"path": str(path), "columns": columns, "root": str(folder)})
    row = open_rows(made, build_data(made), "rl")[0]
    assert row["images"][0].tobytes() == picture(0).tobytes()
    assert row["answer"] == "a"


def test_a_source_is_in_one_place() -> None:
    for wrong in ({}, {"path": "a", "hub": "b/c"}):
        with pytest.raises(ValueError, match="give either `path`"):
            SourceConfig.model_validate(wrong)
    with pytest.raises(ValueError, match="are for a `hub` dataset"):
        SourceConfig(path=Path("a"), rows=3)


def test_a_hub_dataset_is_fetched_once_in_part_and_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The hub itself isn't reachable from the tests: `load_dataset` reads a local dataset under its name.
    asked: list[dict[str, Any]] = []
    load = datasets.load_dataset

    def local(name: str, config: str | None, **options: Any) -> Any:
        asked.append({"name": name, "config": config, "offline": datasets.config.HF_HUB_OFFLINE, **options})
        return load("parquet", data_files=str(folder / "there.parquet"), split="train", streaming=options["streaming"])

    monkeypatch.setattr(hub, "load_dataset", local)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    images = [{"bytes": png(n), "path": None} for n in range(5)]
    there = Dataset.from_dict({"question": [f"{n}?" for n in range(5)], "image": images})
    there.cast_column("image", datasets.Image()).to_parquet(folder / "there.parquet")
    made = recipe(folder, {"hub": "someone/vqa", "rows": 3, "revision": "v1"})
    rows = open_rows(made, build_data(made), "rl")
    assert len(rows) == 3
    assert rows[2]["images"][0].tobytes() == picture(2).tobytes()
    first = {"split": "train", "revision": "v1", "streaming": True}
    assert asked[0] == {"name": "someone/vqa", "config": None, "offline": False, **first}
    calls = len(asked)
    build_data(made)
    assert len(asked) == calls, "a resumed run reads what it has"
    assert datasets.config.HF_HUB_OFFLINE is True
    whole = recipe(folder, {"hub": "someone/vqa"})
    assert len(open_rows(whole, build_data(whole), "rl")) == 5


def test_a_hub_dataset_that_cannot_be_had_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(hub, "load_dataset", fails)
    with pytest.raises(ValueError, match=r"hub dataset someone/vqa \(train\) can't be fetched: no route to host"):
        build_data(recipe(folder, {"hub": "someone/vqa"}))


# sail-rl data show


def test_the_trained_tokens_are_the_answer_with_its_end_and_nothing_else(encoder: Encoder, folder: Path) -> None:
    row = CONVERSATIONS[0] | {
        "conversations": [CONVERSATIONS[0]["conversations"][0], {"from": "gpt", "value": "3+5=8"}]
    }
    rows = Rows(write_jsonl(folder / "d.jsonl", [row]))
    sample = encoder.sft_sample(rows[0])
    seen = list(pieces(sample, encoder))
    assert [(piece, style) for piece, style in seen if style == "green"] == [("3+5=8<|im_end|>", "green")]
    assert [piece for piece, style in seen if style == "cyan"] == ["[image: 4 tokens]"]
    given = "".join(piece for piece, style in seen if style == "dim")
    assert given == "<|im_start|>user\n<img></img>\nA?<|im_end|><|im_start|>assistant\n"


def test_data_show_prints_rows_with_counts(
    tiny_dir: Callable[..., Path], folder: Path, capsys: pytest.CaptureFixture[str], encoder: Encoder
) -> None:
    file = write_jsonl(folder / "d.jsonl", CONVERSATIONS)
    assert main(["data", "show", str(file), "--model", str(tiny_dir()), "--rows", "5"]) == 0
    said = capsys.readouterr().out
    rows = Rows(file)
    for index in range(2):
        sample = encoder.sft_sample(rows[index])
        visual = 4 if index == 0 else 0
        prompt, trained = sample.prompt_length, sample.completion_length
        assert f"{len(sample)} tokens: {prompt} prompt ({visual} visual), {trained} trained" in said
    assert "images 56x56" in said
    for arguments, message in (
        ([str(file)], "give --model"),
        ([str(file), "--model", str(tiny_dir()), "--row", "2"], "has rows 0 to 1"),
        ([str(file), "--model", str(tiny_dir()), "--columns", "prompt"], "write OURS=THEIRS"),
    ):
        assert main(["data", "show", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_the_later_turns_of_a_chat_about_a_picture_are_text(tmp_path: Path) -> None:
    picture(0).save(tmp_path / "0.png")
    turns = [("human", "<image>\nDiffer?"), ("gpt", "Yes."), ("human", "How?"), ("gpt", "Colour.")]
    chat = {"image": "0.png", "conversations": [{"from": role, "value": text} for role, text in turns]}
    several = {"image": ["0.png", "0.png"], "conversations": [
        {"from": "human", "value": "<image>\n<image>\nDiffer?"}, {"from": "gpt", "value": "No."}]}  # fmt: skip
    for name, row in (("chat", chat), ("several", several)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    (loaded,) = list(Rows(tmp_path / "chat.jsonl"))
    assert [message["role"] for message in loaded["prompt"]] == ["user", "assistant", "user"]
    kinds = [[part["type"] for part in message["content"]] for message in loaded["prompt"]]
    assert kinds == [["image", "text"], ["text"], ["text"]]
    assert loaded["completion"] == "Colour."
    (loaded,) = list(Rows(tmp_path / "several.jsonl"))
    assert len(loaded["images"]) == 2
