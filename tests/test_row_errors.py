"""Rows that can't be used: each wrong value is one short line with file, row and field, wherever it is."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data import write_jsonl
from test_formats import png

from sail_rl.data.dataset import Rows
from sail_rl.data.formats import unified
from sail_rl.data.unread import unread
from sail_rl.data.values import LONGEST, brief
from sail_rl.evaluation.reward_examples import read_examples
from sail_rl.messages import as_messages, as_parts

HI = {"role": "user", "content": "Hi"}
HO = {"role": "assistant", "content": "Ho"}
LONG = "x" * 100_000
BROKEN = "data:image/png;base64," + base64.b64encode(png(0)).decode()[:-40] + "%%%%"

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"prompt": 5}, "prompt is 5; give a text, or a list of messages"),
    ({"prompt": True}, "prompt is true;"),
    ({"prompt": {"role": "user", "content": "x"}}, "prompt is {"),
    ({"prompt": ["a", "b"]}, "prompt[0] is 'a'; give an object with `role` and `content`"),
    ({"prompt": [[HI]]}, "prompt[0] is [{"),
    ({"prompt": []}, "prompt: the list of messages is empty"),
    ({"prompt": [{}]}, "prompt[0].role is null; give one of user"),
    ({"prompt": [{"role": 7, "content": "x"}]}, "prompt[0].role is 7"),
    ({"prompt": [HI, {"role": "critic", "content": "x"}]}, "prompt[1].role is 'critic'"),
    ({"prompt": [{"from": "robot", "value": "x"}]}, "prompt[0].from is 'robot'"),
    ({"messages": "Hi"}, "messages is 'Hi'; give a list of messages"),
    ({"messages": '[{"role": "user"'}, "messages is '[{"),
    ({"messages": 3}, "messages is 3"),
    ({"messages": HI}, "messages is {"),
    ({"messages": []}, "messages: the list of messages is empty"),
    ({"messages": [None]}, "messages[0] is null"),
    ({"messages": [[HI]]}, "messages[0] is [{"),
    ({"messages": [HO]}, "messages[0]: the only message is the assistant's"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content is 3; give a text, or a list of parts"),
    ({"messages": [{"role": "user", "content": {"type": "text"}}]}, "messages[0].content is {"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content is null"),
    ({"messages": [{"role": "user", "content": [None]}]}, "messages[0].content[0] is null; give an object"),
    ({"messages": [{"role": "user", "content": ["a"]}]}, "messages[0].content[0] is 'a'"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]}, "content[0].text is null"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "content[0].text is 5; give a text"),
    ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "content[0]: a part of type 'audio'"),
    ({"messages": [{"role": "user", "content": [{"type": ["text"]}]}]}, "content[0]: a part of type ['text']"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "image": 5}]}]}, "content[0].image is 5;"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": 5}}]}]}, "_url.url is 5"),
    ({"messages": [{"role": "user", "content": [{"type": "video", "video": 5}]}]}, "content[0].video is 5"),
    ({"messages": [{"role": "user", "content": [{"type": "video"}]}, HO]}, "the row has no `video`"),
    ({"messages": [HI, HO], "completion": "Hey"}, "give the answer once"),
    ({"messages": [HI, HO | {"reasoning": 5}]}, "the thought beside messages[1].content is 5; give a text"),
    ({"messages": [HI, {"role": "assistant", "content": "<think>a</think>b", "thinking": "c"}]}, "the thought once"),
    ({"messages": [HI, {"role": "assistant", "content": [{"type": "image"}]}]}, "the assistant's answer has"),
    ({"conversations": [{"from": "human", "value": 3}]}, "conversations[0].value is 3"),
    ({"conversations": [["Hi", "Ho"]]}, "conversations[0] is ["),
    ({"conversations": "Hi"}, "conversations is 'Hi'"),
    ({"question": ["a"]}, "question[0] is 'a'"),
    ({"question": {"text": "a"}}, "question is {"),
    ({"instruction": "a", "input": 5}, "input is 5; give a text"),
    ({"instruction": "a", "output": 5}, "output is 5; give a text"),
    ({"query": "a", "history": "b"}, "history is 'b'; give a list of pairs"),
    ({"query": "a", "history": [["b"]]}, "history is [['b']]; give a list of pairs"),
    ({"query": "a", "history": [["b", None]]}, "history[1].content is null"),
    ({"prompt": "a", "system": 5}, "system is 5; give the text of the system's turn"),
    ({"messages": [{"role": "system", "content": "a"}, HI], "system": "b"}, "`system` differs from"),
    ({"prompt": "a", "completion": 5}, "completion is 5; give a text, or a list with one assistant message"),
    ({"prompt": "a", "completion": {"role": "assistant", "content": "x"}}, "completion is {"),
    ({"prompt": "a", "completion": ["x"]}, "completion[0] is 'x'"),
    ({"prompt": "a", "completion": []}, "completion has 0 messages"),
    ({"prompt": "a", "completion": [HI]}, "completion[0] has the role 'user'"),
    ({"prompt": "a", "completion": ""}, "'completion' is empty"),
    ({"prompt": "a", "completion": " \n"}, "'completion' is empty"),
    ({"prompt": "a", "completion": None}, "'completion' is empty"),
    ({"prompt": ""}, "'prompt' is empty"),
    ({"messages": [{"role": "user", "content": " "}, HO]}, "'prompt' is empty"),
    ({"task": "a"}, "'prompt' is empty"),
    ({"messages": [HI]}, "'completion' is empty, and the messages don't end with the assistant's turn"),
    ({"prompt": "a", "id": ["b"]}, "id is ['b']; give a text or a number"),
    ({"prompt": "a", "id": True}, "id is true;"),
    ({"prompt": "a", "image": 3}, "image is 3; give a path, a data: URL, base64, bytes"),
    ({"prompt": "a", "image": True}, "image is true;"),
    ({"prompt": "a", "image": " "}, "image is ' ';"),
    ({"prompt": "a", "images": 3}, "images is 3;"),
    ({"prompt": "a", "images": [3]}, "images[0] is 3;"),
    ({"prompt": "a", "images": [None]}, "images[0] is null;"),
    ({"prompt": "a", "images": ["a.png", ""]}, "images[1] is '';"),
    ({"prompt": "a", "images": [["a.png"]]}, "images[0] is ['a.png'];"),
    ({"prompt": "a", "images": {"a": "a.png"}}, "images is {'a': 'a.png'};"),
    ({"prompt": "a", "images": [{"bytes": 3}]}, "images[0] is {'bytes': 3};"),
    ({"prompt": "a", "images": [{"bytes": None, "path": 3}]}, "images[0] is {"),
    ({"prompt": "a", "images": "data:image/png;base64,"}, "images has no content"),
    ({"prompt": "a", "images": "data:image/svg+xml,<svg/>"}, "images is a data: URL ('data:image/svg+xml')"),
    ({"prompt": "a", "images": BROKEN}, "isn't base64"),
    ({"prompt": "a", "images": "https://x.org/a.png"}, "images: 'https://x.org/a.png' is a network address"),
    ({"prompt": "a", "images": "s3://x/a.png"}, "is a network address, which is never fetched"),
    ({"prompt": "a", "images": [LONG]}, "image 'xxx"),
    ({"prompt": "a", "images": ["a\0.png"]}, "image 'a\\x00.png' can't be read"),
    ({"prompt": "a", "images": ["a\n.png"]}, "image 'a\\n.png' is missing"),
    ({"prompt": "a", "images": ["file:///elsewhere/a.png"]}, "'/elsewhere/a.png' lies outside"),
    ({"prompt": "a", "images": ["/" + LONG]}, "lies outside"),
    ({"prompt": "a", "images": [base64.b64encode(png(0)[:60]).decode()]}, "an embedded image can't be decoded"),
    ({"prompt": "a", "images": [{"bytes": "AAAA"}]}, "an embedded image can't be decoded: it is no picture"),
    ({"prompt": "a", "image": "a.png", "images": ["b.png"]}, "`image` and `images` give different pictures"),
    ({"prompt": "<image>a"}, "the prompt has 1 image part(s) but the row has 0 image(s)"),
    ({"prompt": "<video>a"}, "the row has no `video`"),
    ({"question": "<image 2>?", "image_1": "a.png"}, "marks <image 2>, but the row has no picture in `image_2`"),
    ({"question": "?", "image_1": {"a": 1}}, "image_1 is {'a': 1}"),
    ({"prompt": [{"role": "system", "content": "a"}], "images": ["real.png"]}, "has no user turn to hold them"),
    ({"prompt": "a", "video": 3}, "video is 3; give the path of a video file, or a list of frames"),
    ({"prompt": "a", "video": []}, "the video is an empty list of frames"),
    ({"prompt": "a", "video": [3]}, "video[0] is 3"),
    ({"prompt": "a", "video": LONG}, "video 'xxx"),
    ({"prompt": "a", "video": "https://x.org/a.mp4"}, "is a network address"),
    ({"prompt": "a", "videos": ["a.mp4", "b.mp4"]}, "videos has 2 videos; a row may have one"),
    ({"prompt": "a", "videos": [{"bytes": "x"}]}, "videos[0] is {"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_a_wrong_value_is_one_short_line_with_file_row_and_field(
    row: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "real.png").write_bytes(png(0))
    completed = row.keys() & {"messages", "conversations", "instruction", "query"}
    row = row if completed else {"completion": "Ho"} | row
    file = write_jsonl(tmp_path / "d.jsonl", [{"prompt": "Hi", "completion": "Ho"}, row])
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        Rows(file, needs=("prompt", "completion"))
    said = str(caught.value)
    assert said.startswith(f"{file}, row 1: ")
    assert "\n" not in said
    assert len(said) < 300 + 3 * len(str(file)), said


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt": [b"Hi"]}, "prompt is <2 bytes>; give a text, or a list of messages"),
        ({"prompt": ["Hi"], "images": [[b""]]}, "images[0] is <0 bytes>"),
        ({"prompt": ["Hi"], "images": [[b"x" * 10**6]]}, "an embedded image can't be decoded"),
        ({"prompt": [[{"role": "user", "content": b"Hi"}]]}, "prompt[0].content is <2 bytes>"),
        ({"messages": [[[HI]]]}, "messages[0] is [{"),
        ({"prompt": [1.5]}, "prompt is 1.5"),
    ],
)
def test_wrong_types_in_parquet_are_named_likewise(values: dict[str, Any], message: str, tmp_path: Path) -> None:
    Dataset.from_dict(values).to_parquet(tmp_path / "d.parquet")
    with pytest.raises(ValueError, match=re.escape(f"d.parquet, row 0: {message}")) as caught:
        Rows(tmp_path / "d.parquet")
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"task": "a"}, "no column 'prompt' among task; if it has another name, set `columns`"),
        ({"prompt": "a"}, "no column 'completion' among prompt; if"),
        (
            {"messages": [HI]},
            "no column 'completion' among messages, and the messages don't end with the assistant's turn",
        ),
    ],
)
def test_a_column_that_no_row_has_is_named(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "d.jsonl", [row, row])
    with pytest.raises(ValueError, match=re.escape(f"{file}, row 0: {message}")):
        Rows(file, needs=("prompt", "completion"))


def test_an_image_column_of_nulls_is_text(tmp_path: Path) -> None:
    features = Features(
        {"prompt": Value("string"), "images": List({"bytes": Value("binary"), "path": Value("string")})}
    )
    Dataset.from_dict({"prompt": ["a", "b"], "images": [None, []]}, features).to_parquet(tmp_path / "d.parquet")
    assert [row["images"] for row in Rows(tmp_path / "d.parquet")] == [[], []]


def test_a_reward_s_examples_are_read_by_the_same_reader(tmp_path: Path) -> None:
    for row, message in WRONG[:60]:
        if "is empty" in message or "no column" in message or "no `video`" in message:
            continue
        file = write_jsonl(tmp_path / "d.jsonl", [{"prompt": "Hi", "completion": "Ho"}, row])
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            read_examples(file)
        assert str(caught.value).startswith("d.jsonl, row 1: ")


# Any value anywhere

NAMES = st.sampled_from(
    [
        "prompt",
        "messages",
        "conversations",
        "question",
        "instruction",
        "input",
        "output",
        "query",
        "response",
        "history",
        "system",
        "completion",
        "answer",
        "images",
        "image",
        "image_1",
        "img",
        "videos",
        "video",
        "solution",
        "reward_model",
        "options",
        "role",
        "content",
        "from",
        "value",
        "type",
        "text",
        "url",
        "bytes",
        "path",
        "data",
        "thinking",
        "user",
        "assistant",
        "human",
        "gpt",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system"]), "content": st.text(max_size=5) | VALUES},
        optional={"thinking": VALUES, "tool_calls": VALUES},
    ),
    max_size=3,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.dictionaries(NAMES, VALUES | MESSAGES, max_size=5))
def test_any_row_is_read_or_refused_in_one_short_line(row: dict[str, Any]) -> None:
    try:
        read = unified(row)
    except ValueError as error:
        said = str(error)
        assert "\n" not in said
        assert len(said) < 400
        return
    prompt, completion = read.get("prompt"), read.get("completion")
    assert prompt is None or isinstance(prompt, str | list)
    for message in as_messages(prompt or ""):
        assert message["role"] in ("user", "assistant", "system")
        for part in as_parts(message["content"]):
            assert part["type"] in ("text", "image", "video")
            assert part["type"] != "text" or isinstance(part["text"], str)
    assert completion is None or isinstance(completion, str)
    assert all(isinstance(image, str | dict) for image in read.get("images", []))
    assert unified(read) == read
    unread(read, row.values())


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_a_brief_value_is_one_short_line(value: Any) -> None:
    text = brief(value)
    assert len(text) <= LONGEST
    assert "\n" not in text
