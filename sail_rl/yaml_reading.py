"""Reads YAML with safe types, and refuses a key that is given twice in one mapping."""

from __future__ import annotations

from typing import Any

import yaml

MERGE = "tag:yaml.org,2002:merge"


def read_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        yaml.YAMLError: the text isn't YAML.
        ValueError: a mapping has a key twice, of which YAML's reader would keep the last; names key and lines.
    """
    return yaml.load(text, _UniqueKeys)  # a subclass of yaml.SafeLoader


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
