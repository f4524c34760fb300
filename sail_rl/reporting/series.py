"""A run's metrics as series over the global step, and the range of steps of each stage."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy

from sail_rl.records.jsonl import Record, read_jsonl


@dataclass(frozen=True, slots=True)
class StageSpan:
    """The global steps of a stage, from `start` (before its first step) to `end`."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Series:
    """One metric: increasing global steps [N], finite values [N], and the index of each value's stage [N]."""

    steps: numpy.ndarray
    values: numpy.ndarray
    stages: numpy.ndarray

    def __len__(self) -> int:
        return len(self.steps)

    def smoothed(self) -> numpy.ndarray:
        """Centred running mean over about a twelfth of a stage, with a shorter window at the stage's ends."""
        smooth = numpy.empty_like(self.values)
        for stage in numpy.unique(self.stages):
            own = numpy.flatnonzero(self.stages == stage)
            reach = max(1, len(own) // 24)
            for position, index in enumerate(own):
                smooth[index] = self.values[own[max(0, position - reach) : position + reach + 1]].mean()
        return smooth


@dataclass(frozen=True)
class RunCurves:
    """The records of metrics.jsonl, and their stages in order of appearance."""

    records: list[Record]
    stages: list[StageSpan]

    @classmethod
    def read(cls, path: Path) -> RunCurves:
        """Read metrics.jsonl (see `jsonl.read_jsonl`)."""
        records = read_jsonl(path)
        spans: dict[str, StageSpan] = {}
        for record in records:
            name, step, overall = record["stage"], record["step"], record["global_step"]
            old = spans.get(name)
            spans[name] = StageSpan(name, overall - step, max(overall, old.end if old else 0))
        return cls(records, list(spans.values()))

    def names(self, pattern: str) -> list[str]:
        """The metric names that fully match the regular expression `pattern`, in order of appearance."""
        found: dict[str, None] = {}
        for record in self.records:
            for name in record:
                if name not in found and re.fullmatch(pattern, name):
                    found[name] = None
        return list(found)

    def series(self, name: str) -> Series:
        """One metric without nulls; the last of several values at a stage's step counts."""
        order = {stage.name: number for number, stage in enumerate(self.stages)}
        points = {
            (order[record["stage"]], record["global_step"]): record[name]
            for record in self.records
            if record.get(name) is not None
        }
        keys = sorted(points)
        return Series(
            numpy.array([step for _, step in keys], dtype=float),
            numpy.array([points[key] for key in keys], dtype=float),
            numpy.array([stage for stage, _ in keys], dtype=int),
        )

    def present(self, names: Iterable[str]) -> dict[str, Series]:
        """The non-empty series among these names."""
        found = {name: self.series(name) for name in names}
        return {name: series for name, series in found.items() if len(series)}
