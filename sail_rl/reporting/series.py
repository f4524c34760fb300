"""A run's metrics as series over the global step, and the stretch of steps that each stage covers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy

from sail_rl.records.jsonl import Record, read_jsonl


@dataclass(frozen=True, slots=True)
class StageSpan:
    """A stage covers the global steps from `start` (before its first step) to `end`."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Series:
    """One metric: global steps [N], increasing, values [N], finite, and the index of each value's stage [N]."""

    steps: numpy.ndarray
    values: numpy.ndarray
    stages: numpy.ndarray

    def __len__(self) -> int:
        return len(self.steps)

    def smoothed(self) -> numpy.ndarray:
        """Centred running mean over about a twelfth of a stage, never across stages: no lag, shorter at the ends."""
        smooth = numpy.empty_like(self.values)
        for stage in numpy.unique(self.stages):
            own = numpy.flatnonzero(self.stages == stage)
            reach = max(1, len(own) // 24)
            for position, index in enumerate(own):
                smooth[index] = self.values[own[max(0, position - reach) : position + reach + 1]].mean()
        return smooth


@dataclass(frozen=True)
class RunCurves:
    """The records of metrics.jsonl and the stages in them, in order of appearance."""

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
        """Metric names that `pattern` (a regular expression) matches fully, in order of appearance."""
        found: dict[str, None] = {}
        for record in self.records:
            for name in record:
                if name not in found and re.fullmatch(pattern, name):
                    found[name] = None
        return list(found)

    def series(self, name: str) -> Series:
        """One metric; nulls are left out, and of several values at one step of a stage the last counts."""
        order = {stage.name: number for number, stage in enumerate(self.stages)}
        points = {
            (order[record["stage"]], record["global_step"]): record[name]
            for record in self.records
            if record.get(name) is not None
        }
        places = sorted(points)
        return Series(
            numpy.array([step for _, step in places], dtype=float),
            numpy.array([points[place] for place in places], dtype=float),
            numpy.array([stage for stage, _ in places], dtype=int),
        )

    def present(self, names: Iterable[str]) -> dict[str, Series]:
        """The series of those names that have any value."""
        found = {name: self.series(name) for name in names}
        return {name: series for name, series in found.items() if len(series)}
