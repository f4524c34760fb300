"""Grounding: intersection over union (IoU) of boxes `[x1, y1, x2, y2]`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from scipy.optimize import linear_sum_assignment

Box = tuple[float, float, float, float]
_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_POINTS = re.compile(rf"[\[(<]{_NUMBER},{_NUMBER}[\])]?\s*,\s*[\[(]?{_NUMBER},{_NUMBER}[\])>]")
_BARE = re.compile(rf"{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}")
THRESHOLD = 0.5


def iou(left: Box, right: Box) -> float:
    """Intersection over union of two boxes; 0 if they have no area."""
    width = min(left[2], right[2]) - max(left[0], right[0])
    height = min(left[3], right[3]) - max(left[1], right[1])
    common = max(0.0, width) * max(0.0, height)
    total = _area(left) + _area(right) - common
    return common / total if total > 0 else 0.0


def boxes_in(text: str) -> list[Box]:
    """All boxes in a text, `[1, 2, 30, 40]` or `(1,2),(30,40)`, that have an area; four bare numbers are one, too."""
    text = f"[{text}]" if _BARE.fullmatch(text) else text
    found = [tuple(map(float, match.groups())) for match in _POINTS.finditer(text)]
    return [box for box in found if _area(box) > 0]  # type: ignore[arg-type, misc]


def check(gold: Any, row: Mapping[str, Any]) -> None:
    """Raise ValueError for a gold answer without a box."""
    if not _gold_boxes(gold):
        raise ValueError(f"the gold answer {gold!r} has no box [x1, y1, x2, y2] with x1 < x2 and y1 < y2")


def score(gold: Any, given: str, row: Mapping[str, Any]) -> float:
    """1 if the mean IoU is at least the row's `iou_threshold` (0.5 by default), else 0."""
    threshold = row.get("iou_threshold")
    return float(score_overlap(gold, given, row) >= (THRESHOLD if threshold is None else threshold))


def score_overlap(gold: Any, given: str, row: Mapping[str, Any]) -> float:
    """Mean IoU of the best one-to-one assignment; missing and extra boxes count as 0."""
    right, answer = _gold_boxes(gold), boxes_in(given)
    if not answer:
        return 0.0
    overlaps = [[iou(a, b) for b in answer] for a in right]
    rows, columns = linear_sum_assignment(overlaps, maximize=True)
    return sum(overlaps[i][j] for i, j in zip(rows, columns, strict=True)) / max(len(right), len(answer))


def _gold_boxes(gold: Any) -> list[Box]:
    return boxes_in(str(_lists(gold)))


def _lists(gold: Any) -> Any:
    return [_lists(part) for part in gold] if isinstance(gold, Sequence) and not isinstance(gold, str) else gold


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])
