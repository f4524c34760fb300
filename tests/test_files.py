"""Files of datasets: what each kind holds, exactly, and one line that names the file for everything that is broken."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import ipc, parquet

from sail_rl.data.dataset import Rows
from sail_rl.data.files import load_file

ROWS = [{"prompt": "One?", "answer": "1"}, {"prompt": "Zwölf? 十二 😀", "answer": None}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
RAW_LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
TABLE = pyarrow.table({"prompt": ["One?", "Two?"]})


def zstd(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def parquet_bytes(table: pyarrow.Table) -> bytes:
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def arrow_file(table: pyarrow.Table) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def rows_of(path: Path) -> list[dict[str, Any]]:
    return list(load_file(path)[0])


@pytest.mark.parametrize(
    ("name", "content"),
    {
        "a.jsonl": LINES.encode(),
        "capitals.JSONL": LINES.encode(),
        "raw.jsonl": RAW_LINES.encode(),
        "no_last_newline.jsonl": LINES.rstrip().encode(),
        "crlf.jsonl": LINES.replace("\n", "\r\n").encode(),
        "cr.jsonl": LINES.replace("\n", "\r").encode(),
        "blank_lines.jsonl": ("\n \n" + LINES.replace("\n", "\n\t\n\n")).encode(),
        "bom.jsonl": RAW_LINES.encode("utf-8-sig"),
        "utf16.jsonl": RAW_LINES.encode("utf-16"),
        "utf16_big_without_mark.jsonl": RAW_LINES.encode("utf-16-be"),
        "utf32.json": json.dumps(ROWS).encode("utf-32"),
        "lines.json": LINES.encode(),
        "list.jsonl": json.dumps(ROWS).encode(),
        "pretty.json": ("\n " + json.dumps(ROWS, indent=2) + "\n\n").encode(),
        "a.jsonl.gz": gzip.compress(LINES.encode()),
        "members.jsonl.gz": b"".join(gzip.compress(line.encode()) for line in LINES.splitlines(keepends=True)),
        "named_otherwise.jsonl": gzip.compress(LINES.encode()),
        "not_compressed.jsonl.gz": LINES.encode(),
        "a.json.bz2": bz2.compress(json.dumps(ROWS).encode()),
        "a.jsonl.zst": zstd(LINES.encode()),
        "a.csv": "prompt,answer\nOne?,1\nZwölf? 十二 😀,\n".encode(),
        "bom.csv": "prompt,answer\r\nOne?,1\r\n\r\nZwölf? 十二 😀,\r\n".encode("utf-8-sig"),
        "a.tsv.gz": gzip.compress("prompt\tanswer\nOne?\t1\nZwölf? 十二 😀\t\n".encode()),
    }.items(),
)
def test_every_way_to_write_texts_gives_the_same_rows(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert rows_of(tmp_path / name) == ROWS


@pytest.mark.parametrize("name", ["a.parquet", "stream.arrow", "file.arrow"])
def test_parquet_and_both_arrow_formats_are_read(tmp_path: Path, name: str) -> None:
    if name.startswith("stream"):
        Dataset(TABLE).save_to_disk(tmp_path / "saved")
        next((tmp_path / "saved").glob("*.arrow")).rename(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(parquet_bytes(TABLE) if name.endswith("parquet") else arrow_file(TABLE))
    assert rows_of(tmp_path / name) == TABLE.to_pylist()


def test_values_are_what_the_file_says(tmp_path: Path) -> None:
    rows = [
        {"answer": "2024-05-01", "id": 7, "box": [1, 2.5, "x"], "messages": [{"role": "user", "content": "Hi"}]},
        {"answer": 12345678901234567890123, "id": "7", "box": {"a": []}, "more": "007"},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = ("answer", "id", "box", "messages", "more")
    assert rows_of(tmp_path / "a.jsonl") == [{name: row.get(name) for name in names} for row in rows]
    (tmp_path / "a.csv").write_text('answer,text\n007,"a ""quoted"" line\nand another"\n2024-05-01,1.50\n')
    assert rows_of(tmp_path / "a.csv") == [
        {"answer": "007", "text": 'a "quoted" line\nand another'},
        {"answer": "2024-05-01", "text": "1.50"},
    ]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.lists(st.dictionaries(st.text(), VALUES, min_size=1, max_size=3), min_size=1, max_size=4),
    as_list=st.booleans(),
    raw=st.booleans(),
)
def test_any_json_comes_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], as_list: bool, raw: bool
) -> None:
    path = tmp_path_factory.mktemp("json") / "a.json"
    texts = [json.dumps(row, ensure_ascii=not raw) for row in rows]
    path.write_text(f"[{','.join(texts)}]" if as_list else "\n".join(texts), encoding="utf-8")
    found, _ = load_file(path)
    assert set(found.column_names) == {key for row in rows for key in row}
    assert list(found) == [dict.fromkeys(found.column_names) | row for row in rows]


GOOD = '{"prompt": "x"}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", ": the dataset has no rows"),
        ("a.jsonl", b"\n \r\n\t\n", ": the dataset has no rows"),
        ("a.json", b"[]", ": the dataset has no rows"),
        ("a.json", b" [ \n ] ", ": the dataset has no rows"),
        ("a.csv", b"prompt,answer\n", ": the dataset has no rows"),
        ("a.jsonl.gz", gzip.compress(b""), ": the dataset has no rows"),
        ("a.parquet", parquet_bytes(TABLE.slice(0, 0)), ": the dataset has no rows"),
        ("a.parquet", b"", ": the dataset has no rows"),
        ("a.arrow", arrow_file(TABLE.slice(0, 0)), ": the dataset has no rows"),
        ("a.jsonl", GOOD + '{"prompt": "caf\xe9"}', ", row 1 (line 2): not UTF-8: byte 0xe9 at position 15"),
        ("a.json", '[{"prompt": "x"},\n{"prompt": "caf\xe9"}]', ": line 2: not UTF-8: byte 0xe9"),
        ("a.csv", "prompt\ncaf\xe9\n", ": line 2: not UTF-8: byte 0xe9"),
        ("a.jsonl", b"\xff\xfe\x00\xd8\x00", ": the text is neither UTF-8 nor UTF-16"),
        ("a.jsonl", GOOD + "\n" + r'{"a": [{"b": "\ud83d!"}]}', ", row 1 (line 3): 'a.0.b' has half of a surrogate"),
        ("a.jsonl", r'{"\uDC00": 1}', r", row 0 (line 1): '\udc00' has half of a surrogate"),
        ("a.jsonl", GOOD + '{"prompt": "x", "prompt": "y"}', ", row 1 (line 2): the key 'prompt' is there twice"),
        ("a.json", '[{"m": [{"role": 1, "role": 2}]}]', ", row 0 (line 1): the key 'role' is there twice"),
        ("a.csv", "prompt,answer,prompt\n", ": line 1: the column 'prompt' is empty or named twice"),
        ("a.parquet", parquet_bytes(pyarrow.table([["a"], ["b"]], ["p", "p"])), ": the column 'p' is there twice"),
        ("a.jsonl", '{"prompt": "x", "answer": NaN}', ", row 0 (line 1): 'answer' is NaN"),
        ("a.jsonl", '{"boxes": [[1, -Infinity]]}', ", row 0 (line 1): 'boxes.0.1' is -Infinity"),
        ("a.jsonl", '{"score": 1e999}', ", row 0 (line 1): 'score' is 1e999, which is no number"),
        ("a.jsonl", GOOD + '{"prompt": "x",}', ", row 1 (line 2): not JSON: "),
        ("a.jsonl", '{"prompt": "x"},\n', ", row 0 (line 1): not JSON: Extra data, column 16; a line holds one object"),
        ("a.jsonl", GOOD + '{"prompt": "x', ", row 1 (line 2): not JSON: Unterminated string starting at, column 12"),
        ("a.jsonl", GOOD + "\0\0\0", ", row 1 (line 2): not JSON"),
        ("a.jsonl", GOOD + "[1]\n", ", row 1 (line 2): list instead of an object"),
        ("a.jsonl", "[1]\n" + GOOD, ", row 0 (line 1): int instead of an object"),
        (
            "a.jsonl",
            '{\n "data": [\n{"prompt": "x"}]}',
            ", row 0 (line 1): the file is one object with data; give a list",
        ),
        ("a.json", '[{"prompt": "x"},\n]', ", row 1 (line 2): not JSON"),
        ("a.json", '[{"prompt": "x"}\n', ", after row 0 (line 2): the list has no end"),
        ("a.json", '[{"prompt": "x"}] {}', ", after row 0 (line 1): the list has no end, or something follows it"),
        ("a.json", '"text"', ", row 0 (line 1): str instead of an object"),
        ("a.jsonl", '{"a": ' + "[" * 100_000, ", row 0 (line 1): the value is nested too deeply"),
        ("a.json", "[" * 100_000, ", row 0 (line 1): the value is nested too deeply"),
        ("a.csv", "prompt,answer\na,1\nb,2,3\n", ", row 1 (line 3): 3 values for 2 columns"),
        ("a.jsonl.gz", gzip.compress(os.urandom(999))[:-99], ": Compressed file ended before"),
        ("a.jsonl.gz", gzip.compress(GOOD.encode())[:-8] + b"8 bytes!", ": CRC check failed"),
        ("a.jsonl.bz2", bz2.compress(GOOD.encode())[:-9], ": Compressed file ended before"),
        ("a.jsonl.zst", zstd(os.urandom(999))[:-99], ": "),
        ("a.parquet", parquet_bytes(TABLE)[:-9], ": Parquet magic bytes not found"),
        ("a.parquet", parquet_bytes(TABLE)[200:], ": "),
        ("a.parquet", GOOD, ": "),
        ("a.arrow", arrow_file(TABLE)[:-99], ": "),
        ("a.arrow", b"junk", ": "),
        ("a.jsonl", parquet_bytes(TABLE), ": the file is Parquet or Arrow, not JSON"),
        ("a", GOOD, ": unknown file extension ''; give one of .jsonl"),
        ("a.xlsx", b"PK", ": unknown file extension '.xlsx'"),
        ("a.txt.gz", gzip.compress(b"x"), ": unknown file extension '.txt'"),
    ],
)
def test_a_broken_file_is_one_line_with_its_name(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("latin-1"))
    with pytest.raises(ValueError, match=re.escape(f"{path}{message}")) as error:
        load_file(path)
    text = str(error.value)
    assert "\n" not in text
    assert len(text) <= len(str(path)) + 330


def test_a_path_that_is_no_file_is_said_without_opening_it(tmp_path: Path) -> None:
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    (tmp_path / "lost.jsonl").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.jsonl")  # opening it would wait for a writer, for ever
    for name, message in {
        "loop.jsonl": "Too many levels of symbolic links",
        "lost.jsonl": "no such dataset file",
        "pipe.jsonl": "neither a file nor a folder, but a pipe",
        "x" * 300 + ".jsonl": "File name too long",
        "a\0b.jsonl": "embedded null byte",
        "part-*.jsonl": "no such dataset file; a pattern isn't expanded",
        "lost.jsonl/a.jsonl": "no such dataset file",
    }.items():
        with pytest.raises(ValueError, match=message):
            load_file(tmp_path / name)
    with pytest.raises(ValueError, match="/dev/zero: neither a file nor a folder"):
        load_file(Path("/dev/zero"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(GOOD)
    (tmp_path / "a.jsonl").chmod(stat.S_IWUSR)
    with pytest.raises(ValueError, match=r"a\.jsonl: Permission denied"):
        load_file(tmp_path / "a.jsonl")


def test_a_broken_folder_is_one_line_with_the_name_of_its_file(tmp_path: Path) -> None:
    for folder, files, message in [
        ("empty", {}, "empty: neither a folder of"),
        ("shards", {"a.parquet": parquet_bytes(TABLE), "b.parquet": b"junk"}, "shards/b.parquet: Parquet file size"),
        ("none", {"a.parquet": parquet_bytes(TABLE.slice(0, 0))}, "none: the dataset has no rows"),
        ("pictures", {"metadata.jsonl": b'{"file_name": "a.png"}\n{"'}, "metadata.jsonl, row 1 (line 2): not JSON"),
        ("splits", {"dataset_dict.json": b'{"splits": ["train", "test"]}'}, "splits: the folder has the splits train"),
        ("saved", {"state.json": b"{", "dataset_info.json": b"{}"}, "saved: Expecting property name"),
    ]:
        (tmp_path / folder).mkdir()
        for name, content in files.items():
            (tmp_path / folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(message)):
            load_file(tmp_path / folder)


def test_a_compressed_dataset_trains_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"question,answer,level\nOne and one?,2,\n"))
    assert Rows(tmp_path / "a.csv.gz", needs=("prompt", "answer"))[0] == {
        "prompt": [{"role": "user", "content": "One and one?"}],
        "answer": "2",
        "level": None,
        "id": "0",
        "images": [],
        "video": [],
    }
