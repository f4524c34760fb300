"""Reads YAML with safe types, and refuses a key that is given twice in one mapping."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

MERGE = "tag:yaml.org,2002:merge"
MAX_VALUES = 1_000_000
"""Most values of a text, those behind aliases counted each time: nested aliases make billions of a few lines."""


def read_yaml_file(path: Path) -> Any:
    """The value of a YAML or JSON file in UTF-8, or in UTF-16 with its mark.

    Raises:
        ValueError: one line that names the file, and where it can the line in it.
    """
    try:
        content = path.read_bytes()
        return read_yaml(content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"))
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        wrong = f"byte 0x{content[error.start]:02x} in line {line} isn't {error.encoding.upper()}"
        raise ValueError(f"{path}: {wrong}; save the file as UTF-8") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path} isn't YAML: {_in_one_line(error)}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _in_one_line(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        context = f" {error.context}" if error.context else ""
        return f"line {mark.line + 1}, column {mark.column + 1}:{context} {error.problem}"
    return " ".join(str(error).split())


def read_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        yaml.YAMLError: the text isn't YAML.
        ValueError: a mapping has a key twice, of which YAML's reader would keep the last; names key and lines. An alias
            contains itself, or aliases make too many values; the text is nested too deeply; a date isn't one.
    """
    try:
        value = yaml.load(text, _UniqueKeys)  # a subclass of yaml.SafeLoader
    except RecursionError:
        raise ValueError("the text is nested too deeply") from None
    waiting, values = [value], 0
    while waiting:
        inner = waiting.pop()
        values += 1
        waiting += inner.values() if isinstance(inner, dict) else inner if isinstance(inner, list) else ()
        if values + len(waiting) > MAX_VALUES:
            raise ValueError(f"an alias contains itself, or the text has more than {MAX_VALUES:,} values")
    return value


class _UniqueKeys(yaml.SafeLoader):
    """Checks each mapping before the mappings that it merges (`<<`) are put into it: their keys may be overridden."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
                continue
            line = key.start_mark.line + 1
            if (key.tag, key.value) in lines:
                first = lines[key.tag, key.value]
                raise ValueError(f"the key {key.value!r} is given twice, in lines {first} and {line}; keep one")
            lines[key.tag, key.value] = line
        return node
