r"""Compares our reward, math-verify and TRL's accuracy_reward on a table of answers, in a Markdown table.

    python benchmarks/rewards_accuracy.py [--cases FILE] [--failures]

A row of the table is a JSON object with `gold` (or `answer`), `completion` (or `pred`, an answer without its box),
`expected`, and optionally `category` and the columns that our verifiers read. The default table is tests/answers.jsonl
with tests/answers_open.jsonl.

A false positive is a wrong answer (expected 0) that gets a score; a false negative is a right answer that doesn't get
its expected score. Both are shares of the wrong and of the right answers. None, which TRL and math-verify return for a
gold answer that they can't read, is in neither and has its own column. TRL and math-verify get the gold answer between
dollars, and see no `answer_type`, options or tolerance. They score 0 where they take longer than 5 s.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from math_verify import parse, verify
from trl.rewards import accuracy_reward

from rewards.answer import Answer
from rewards.process.handle import Target
from rewards.process.pool import WorkerPool

TABLES = [Path("tests/answers.jsonl"), Path("tests/answers_open.jsonl")]
COLUMNS = ("answer_type", "options", "tolerance", "iou_threshold")
LIMIT_S = 5.0
MEMORY_BYTES = 64 * 1024**3  # of address space: TRL imports torch


@dataclass
class Counts:
    """The rows of one category and one judge: right and wrong answers, and the judge's errors."""

    right: int = 0
    wrong: int = 0
    false_positives: int = 0
    false_negatives: int = 0
    none: int = 0

    def add(self, expected: float, score: float | None) -> None:
        self.right += expected > 0
        self.wrong += expected == 0
        if score is None:
            self.none += 1
        elif expected == 0:
            self.false_positives += score > 1e-6
        else:
            self.false_negatives += abs(score - expected) > 1e-6

    def rates(self) -> tuple[str, str, str]:
        return _share(self.false_positives, self.wrong), _share(self.false_negatives, self.right), str(self.none)


def read(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Return the rows of the tables, each with `gold`, `completion`, `expected` and `category`."""
    return [_row(json.loads(line)) for path in paths if path.exists() for line in path.read_text().splitlines() if line]


def _row(raw: dict[str, Any]) -> dict[str, Any]:
    gold = raw["gold"] if "gold" in raw else raw["answer"]
    completion = raw["completion"] if "completion" in raw else _boxed(str(raw["pred"]))
    return {"category": "all rows", "expected": 1, **raw, "gold": gold, "completion": completion}


def _boxed(prediction: str) -> str:
    return prediction if r"\boxed" in prediction else rf"\boxed{{{prediction.strip().strip('$')}}}"


def ours(rows: list[dict[str, Any]]) -> list[float]:
    """Return our scores of all rows, from one call."""
    reward = Answer()
    try:
        columns = {name: [row.get(name) for row in rows] for name in COLUMNS}
        prefilled = [row.get("prefilled", False) for row in rows]
        completions, golds = [row["completion"] for row in rows], [row["gold"] for row in rows]
        return reward(completions, golds, prefilled=prefilled, **columns)
    finally:
        reward.close()


def theirs(rows: list[dict[str, Any]]) -> dict[str, list[float | None]]:
    """Return the scores of math-verify and of TRL, from killable processes; 0 where one takes too long."""
    pool = WorkerPool(
        Target(f"{__file__}:score_by"),
        timeout_s=LIMIT_S,
        batch_timeout_s=3600.0,
        workers=os.cpu_count() or 2,
        memory_bytes=MEMORY_BYTES,
    )
    try:
        results = pool.run([(judge, _gold_in_dollars(row), row["completion"]) for judge in JUDGES for row in rows])
    finally:
        pool.close()
    scores = [result.value if result.status == "ok" else 0.0 for result in results]
    return {judge: scores[place * len(rows) : (place + 1) * len(rows)] for place, judge in enumerate(JUDGES)}


def score_by(judge: str, gold: str, completion: str) -> float | None:
    """Return the score of one judge; this runs in the worker processes."""
    logging.disable(logging.WARNING)
    return JUDGES[judge](gold, completion)


def math_verify(gold: str, completion: str) -> float | None:
    parsed = parse(gold)
    return float(verify(parsed, parse(completion))) if parsed else None


def trl(gold: str, completion: str) -> float | None:
    return accuracy_reward([[{"role": "assistant", "content": completion}]], [gold])[0]


JUDGES = {"math-verify": math_verify, "TRL": trl}


def _gold_in_dollars(row: dict[str, Any]) -> str:
    gold = row["gold"]
    text = ", ".join(map(str, gold)) if isinstance(gold, list) else str(gold)
    return text if "$" in text.replace(r"\$", "") else f"${text}$"


def table(rows: list[dict[str, Any]], scores: dict[str, Sequence[Any]]) -> Iterator[str]:
    """Yield the lines of the Markdown table."""
    counts: dict[str, dict[str, Counts]] = defaultdict(lambda: {judge: Counts() for judge in scores})
    for index, row in enumerate(rows):
        for judge, column in scores.items():
            for category in (row["category"], "**all**"):
                counts[category][judge].add(row["expected"], column[index])
    yield "| category | wrong | right |" + "".join(f" {judge}: FP | FN | None |" for judge in scores)
    yield "|---|---|---|" + "---|---|---|" * len(scores)
    for category in [*(name for name in counts if name != "**all**"), "**all**"]:
        first = next(iter(counts[category].values()))
        cells = [cell for judge in scores for cell in counts[category][judge].rates()]
        yield f"| {category} | {first.wrong} | {first.right} | {' | '.join(cells)} |"


def failures(rows: list[dict[str, Any]], scores: Sequence[float]) -> Iterator[str]:
    """Yield a line for each row that our reward gets wrong, with its score."""
    for row, score in zip(rows, scores, strict=True):
        if abs(score - row["expected"]) > 1e-6:
            yield json.dumps({"score": float(score), **row}, ensure_ascii=False)


def _share(part: int, whole: int) -> str:
    return f"{part} ({part / whole:.1%})" if whole else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, action="append", help="a JSONL table (several are joined)")
    parser.add_argument("--failures", action="store_true", help="print only the rows that our reward gets wrong")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    rows = read(arguments.cases or TABLES)
    scores: dict[str, Sequence[Any]] = {"ours": ours(rows)}
    if arguments.failures:
        lines = failures(rows, scores["ours"])
    else:
        scores |= theirs(rows)
        lines = table(rows, scores)
    for line in lines:
        print(line)


if __name__ == "__main__":
    main()
