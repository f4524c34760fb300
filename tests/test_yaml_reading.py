"""YAML files: what is read, and one line with the file's name for everything that can't be."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from sail_rl.config.loading import load_recipe, read_tree
from sail_rl.config.shipped import copy_recipe
from sail_rl.data.mixture import read_mixture
from sail_rl.files import content_hash
from sail_rl.yaml_reading import read_yaml_file

NESTED = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))  # 2^40 values


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_text_may_have_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.yaml").write_bytes("name: Zwölf\r\nsizes: [1, 2]\r\n".encode(encoding))
    assert read_yaml_file(tmp_path / "a.yaml") == {"name": "Zwölf", "sizes": [1, 2]}


def test_aliases_may_repeat_a_section(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("one: &one {size: 2}\ntwo: *one\nthree: {<<: *one, size: 3}\n")
    assert read_yaml_file(tmp_path / "a.yaml") == {"one": {"size": 2}, "two": {"size": 2}, "three": {"size": 3}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": the file is empty, and a recipe is a mapping"),
        (b"# a comment alone\n", ": the file is empty, and a recipe is a mapping"),
        (b"- a\n", ": this is a list, and a recipe is a mapping"),
        (b"name: x\nnote: caf\xe9\n", ": byte 0xe9 in line 2 isn't UTF-8; save the file as UTF-8"),
        (b"\xff\xfea", ": byte 0x61 in line 1 isn't UTF-16"),
        (b"stages: [a\nname: }\n", " isn't YAML: line 2, column 5: while parsing a flow sequence expected"),
        (b"name:\n\t- x\n", " isn't YAML: line 2, column 1"),
        (b"name: \0\n", " isn't YAML: unacceptable character"),
        (b"name: x\n---\nname: y\n", " isn't YAML: line 2, column 1: expected a single document"),
        (b"name: !!python/name:os.system\n", " isn't YAML: line 1, column 7: could not determine a constructor"),
        (b"name: x\nname: y\n", ": the key 'name' is given twice, in lines 1 and 2"),
        (b"name: 2024-13-45\n", ": month must be in 1..12"),
        (b"name: " + b"[" * 9999 + b"]" * 9999, ": the text is nested too deeply"),
        (b"name: &a [*a]\n", ": an alias contains itself"),
        (NESTED.encode(), ": an alias contains itself, or the text has more than 1,000,000 values"),
        (b"extends: [quickstart]\n", ": extends is ['quickstart']; give the path of one recipe"),
        (b"extends: a.yaml\n", " extends itself: "),
        (b"extends: ../x/a.yaml\n", "../x/a.yaml doesn't exist"),
    ],
)
def test_a_recipe_that_cannot_be_read_is_one_line_with_its_name(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_tree(tmp_path / "a.yaml")
    assert str(error.value).startswith(str(tmp_path / "a.yaml"))
    assert "\n" not in str(error.value)


def test_recipes_that_extend_each_other_are_named_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.yaml").write_text("extends: inner/b.yaml\n")
    (tmp_path / "inner/b.yaml").write_text("extends: ../c.yaml\n")
    (tmp_path / "c.yaml").write_text("extends: inner/../a.yaml\n")
    chain = " -> ".join(str(tmp_path.resolve() / name) for name in ("a.yaml", "inner/b.yaml", "c.yaml", "a.yaml"))
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path.resolve() / 'a.yaml'} extends itself: {chain}")):
        load_recipe(tmp_path / "a.yaml")
    with pytest.raises(ValueError, match="extends itself, by way of"):
        copy_recipe(str(tmp_path / "a.yaml"), tmp_path / "copy")


def test_a_recipe_may_be_extended_twice(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: quickstart\nname: a\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\nseed: 3\n")
    assert (load_recipe(tmp_path / "b.yaml").name, load_recipe(tmp_path / "b.yaml").seed) == ("a", 3)


def test_a_mixture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_bytes(b"a: 1.0 # caf\xe9\n")
    with pytest.raises(ValueError, match=r"m\.yaml: byte 0xe9 in line 1 isn't UTF-8"):
        read_mixture(tmp_path / "m.yaml")


def test_a_pipe_is_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ValueError, match=r"no recipe at .*pipe\.yaml"):
        load_recipe(tmp_path / "pipe.yaml")
    with pytest.raises(ValueError, match=r"no mixture at .*pipe\.yaml"):
        read_mixture(tmp_path / "pipe.yaml")
    with pytest.raises(ValueError, match=r"pipe\.yaml: neither a file nor a folder, but a pipe"):
        content_hash(tmp_path / "pipe.yaml")
