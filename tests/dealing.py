"""Which tests stay together on one worker of pytest-xdist, and which come first; a plugin that conftest.py loads.

pytest-xdist 3.8 forgets `xdist_group` marks with pytest 9.2 (its issue 1386). So each worker writes the groups of its
tests to a file, and the process that deals the tests out reads it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

FILE = "groups_file"
ALONE = "real_server"
"""A session fixture that only one worker should build."""
VLLM = {"vllm_engine_at", "grpo_trainer"}
"""Session fixtures that import vLLM, which takes seconds: the quick tests that use them share a worker."""
CHUNK = 12
"""The most quick tests of a file that stay together: large groups leave a worker idle in the end."""


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker where its groups are read."""
    node.workerinput[FILE] = str(_groups_file(os.getpid()))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests first: quick ones fill the workers' last minute evenly."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    if hasattr(config, "workerinput"):
        path = Path(config.workerinput[FILE])
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        partial.write_text(json.dumps(_groups(items)))
        partial.replace(path)


def _groups(items: list[pytest.Item]) -> dict[str, str]:
    """The group of each test."""
    members: Counter[str] = Counter()
    groups = {}
    for item in items:
        group = _group(item)
        groups[item.nodeid] = f"{group} {members[group] // CHUNK}" if group.endswith("quick") else group
        members[group] += 1
    return groups


def _group(item: pytest.Item) -> str:
    """Tests with a fixture in common are one group, as are the other quick ones of a file; slow ones stand alone."""
    fixtures = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]
    if ALONE in fixtures:
        return ALONE
    slow = item.get_closest_marker("slow")
    if not slow and VLLM & fixtures.keys():
        return "vLLM"
    if VLLM & fixtures.keys() or any(found[-1].scope in ("module", "class") for found in fixtures.values()):
        return item.path.stem if slow else f"{item.path.stem}, together"
    return item.nodeid if slow else f"{item.path.stem}, quick"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A scheduler that deals out whole groups, in the order of their first tests."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def schedule(self) -> None:
            if self.collection is None:
                config.option.loadscopereorder = False
                path = _groups_file(os.getpid())
                self.groups = json.loads(path.read_text())
                path.unlink()
            super().schedule()

        def _split_scope(self, nodeid: str) -> str:
            return str(self.groups[nodeid])

    return Groups(config, log)


def _groups_file(process: int) -> Path:
    return Path(tempfile.gettempdir(), f"test-groups-{process}.json")
