"""Compares our reward, TRL's accuracy_reward and math-verify with tests/answers.jsonl, in a Markdown table.

    python benchmarks/rewards_accuracy.py

TRL's None, for gold answers that it can't parse, counts as a disagreement, and has its own column. TRL and math-verify
get the gold answer between dollars.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from pathlib import Path
from typing import Any

from math_verify import parse, verify
from trl.rewards import accuracy_reward

from rewards.answer import Answer

CASES = [json.loads(line) for line in Path("tests/answers.jsonl").read_text().splitlines()]
COLUMNS = ("answer_type", "options", "tolerance")


def ours(reward: Answer, case: dict[str, Any]) -> float | None:
    columns = {name: [case.get(name)] for name in COLUMNS}
    return reward([case["completion"]], [case["gold"]], prefilled=case.get("prefilled", False), **columns)[0]


def trl(case: dict[str, Any]) -> float | None:
    message = [{"role": "assistant", "content": case["completion"]}]
    return accuracy_reward([message], [f"${gold_text(case)}$"])[0]


def math_verify(case: dict[str, Any]) -> float | None:
    gold = parse(f"${gold_text(case)}$")
    return float(verify(gold, parse(case["completion"]))) if gold else None


def gold_text(case: dict[str, Any]) -> str:
    gold = case["gold"]
    return ", ".join(map(str, gold)) if isinstance(gold, list) else str(gold)


def main() -> None:
    logging.disable(logging.WARNING)
    reward = Answer()
    right: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0, 0])
    for case in CASES:
        row = right[case["category"]]
        row[0] += 1
        third = trl(case)
        for column, score in ((1, ours(reward, case)), (2, third), (3, math_verify(case))):
            row[column] += score is not None and abs(score - case["expected"]) < 1e-6
        row[4] += third is None
    reward.close()
    print("| category | cases | ours | TRL | TRL returned None | math-verify |\n|---|---|---|---|---|---|")
    for category, (cases, own, trls, plain, nothing) in right.items():
        print(f"| {category} | {cases} | {own} | {trls} | {nothing} | {plain} |")
    cases, own, trls, plain, nothing = (sum(row[column] for row in right.values()) for column in range(5))
    print(f"| **all** | {cases} | **{own / cases:.1%}** | {trls / cases:.1%} | {nothing} | {plain / cases:.1%} |")


if __name__ == "__main__":
    main()
