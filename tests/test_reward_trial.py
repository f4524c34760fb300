"""`sail-rl reward test`: scores in input order, what looks wrong, and errors that name file and row."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet
from rich.console import Console

from sail_rl.cli.main import main
from sail_rl.cli.reward_report import histogram, print_test
from sail_rl.contracts import RewardCall
from sail_rl.evaluation.reward_examples import read_examples
from sail_rl.evaluation.reward_trial import agreement, call_statistics

RIGHT, WRONG = "<think>2 and 2</think>\\boxed{4}", "<think>2 and 2</think>\\boxed{5}"
ROWS: list[dict[str, Any]] = [
    {"prompt": "2+2?", "completion": RIGHT, "answer": "4", "expected": 1},
    {"prompt": [{"role": "user", "content": "2+2?"}], "completion": WRONG, "answer": "4", "expected": 0},
    {"prompt": "2+2?", "completion": [{"role": "assistant", "content": RIGHT}], "answer": "4", "expected": 0},
    {"prompt": "half?", "completion": "no box", "answer": "1/2", "expected": None},
]
CUSTOM = """
import sys, numpy, torch
def moody(completions, answer, **_):
    if any(gold == "raise" for gold in answer):
        raise KeyError("moody")
    return [None if gold == "none" else 1.0 for gold in answer]
def tokens(completion_ids):
    return [float(len(ids)) for ids in completion_ids]
def by_length(completions):
    return [len(completion[0]["content"]) / 100 for completion in completions]
def leaving(completions):
    if any(completion[0]["content"] == "go" for completion in completions):
        sys.exit(3)
    return [1.0 for _ in completions]
def array(completions):
    return numpy.array([0.5, 1.0], dtype=numpy.float32)
def scalars(completions):
    return [numpy.float32(0.5), numpy.array([1])]
def tensor(completions):
    return torch.tensor([0.5, 1.0], dtype=torch.bfloat16, requires_grad=True)
def tensors(completions):
    return (torch.tensor(0.5), torch.tensor([1]))
def flags(completions):
    return [numpy.bool_(False), numpy.bool_(True)]
def one(completions):
    return numpy.array(0.5)
def matrix(completions):
    return numpy.array([[0.5, 1.0]] * 2)
class Limit:
    def __init__(self, limit):
        self.limit = limit
"""


def write(folder: Path, rows: list[Any]) -> Path:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "mine.py").write_text(CUSTOM)
    return path


def outcome(folder: Path, reward: str, rows: list[Any], *options: str, status: int = 0) -> dict[str, Any]:
    """What the command writes with --json; it exits with `status`."""
    data = write(folder, rows)
    reward = reward if ":" in reward or reward.endswith(".yaml") else f"{folder / 'mine.py'}:{reward}"
    assert main(["reward", "test", reward, str(data), "--json", str(folder / "out.json"), *options]) == status
    return json.loads((folder / "out.json").read_text())


def refused(folder: Path, capsys: pytest.CaptureFixture[str], reward: str, data: Path, *options: str) -> str:
    assert main(["reward", "test", reward, str(data), *options]) == 2
    return capsys.readouterr().err


def test_scores_are_in_input_order_and_compared_with_what_was_expected(tmp_path: Path) -> None:
    found = outcome(tmp_path, "rewards.answer:math_answer", ROWS)
    assert found["scores"] == [1.0, 0.0, 1.0, 0.0]
    assert found["mean"] == 0.5
    assert found["agreement"]["compared"] == 3
    assert found["agreement"]["agree"] == pytest.approx(2 / 3)
    assert found["agreement"]["differing"] == [2]
    assert found["agreement"]["confusion"] == {
        "right_as_right": 1,
        "right_as_wrong": 0,
        "wrong_as_right": 1,
        "wrong_as_wrong": 1,
    }
    assert found["warnings"] == []


def test_expected_scores_come_from_a_file_too(tmp_path: Path) -> None:
    for name, text in (
        ("a.json", '{"scores": [1, 0, 1, null]}'),
        ("a.jsonl", '{"expected": 1}\n{"score": 0}\n1\nnull\n'),
        ("a.txt", "1\n0\n1\n\n"),
    ):
        (tmp_path / name).write_text(text)
        found = outcome(tmp_path, "rewards.answer:math_answer", ROWS, "--against", str(tmp_path / name))
        assert (found["agreement"]["compared"], found["agreement"]["agree"]) == (3, 1.0), name


def test_an_expression_over_several_rewards_has_every_part(tmp_path: Path) -> None:
    options = ["--with", "format=rewards.format:think_boxed", "--expression", "0.9*math_answer*format+0.1*format"]
    found = outcome(tmp_path, "rewards.answer:math_answer", ROWS, *options)
    assert found["scores"] == pytest.approx([1.0, 0.1, 1.0, 0.0])
    assert list(found["parts"]) == ["math_answer", "format", "0.9*math_answer*format"]
    assert found["parts"]["format"] == [1.0, 1.0, 1.0, 0.0]


def test_the_rewards_of_a_recipe_are_tried_together(tmp_path: Path) -> None:
    rows = [{**row, "digits": [2, 2]} for row in ROWS]
    found = outcome(tmp_path, "recipes/quickstart.yaml", rows)
    assert set(found["parts"]) >= {"answer", "reading", "format"}
    assert found["parts"]["answer"] == [1.0, 0.0, 1.0, 0.0]


def test_a_reward_that_raises_or_says_none_costs_no_other_row_its_score(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completion": "c", "answer": answer} for answer in ("1", "raise", "none", "2")]
    found = outcome(tmp_path, "moody", rows, status=1)
    assert found["scores"] == [1.0, None, None, 1.0]
    assert found["status"]["moody"] == ["ok", "error", "none", "ok"]
    assert found["calls"]["moody"]["error"] == found["calls"]["moody"]["none"] == 0.25
    line = f'{tmp_path}/mine.py, line 5: raise KeyError("moody")'
    assert f"moody: failed for 1 of 4: data.jsonl, row 1: KeyError: 'moody' ({line})" in found["warnings"]


def test_a_reward_that_exits_fails_like_any_other_and_names_its_line(tmp_path: Path) -> None:
    found = outcome(tmp_path, "leaving", [{"prompt": "p", "completion": c} for c in ("stay", "go")], status=1)
    assert found["scores"] == [1.0, None]
    message = f"RuntimeError: called sys.exit(3) ({tmp_path}/mine.py, line 13: sys.exit(3))"
    assert found["messages"]["leaving"] == ["", message]


@pytest.mark.parametrize("reward", ["array", "scalars", "tensor", "tensors", "flags"])
def test_arrays_and_tensors_are_scores(reward: str, tmp_path: Path) -> None:
    found = outcome(tmp_path, reward, [{"prompt": "p", "completion": c} for c in ("a", "b")])
    assert found["scores"] == ([0.5, 1.0] if reward != "flags" else [0.0, 1.0])


def test_what_is_no_list_of_numbers_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path, [{"prompt": "p", "completion": "c"}] * 2)
    mine = f"{tmp_path / 'mine.py'}:"
    assert "returned array(0.5); it must return a list of 2 scores" in refused(tmp_path, capsys, mine + "one", data)
    assert "returned [0.5, 1.0] for prompt" in refused(tmp_path, capsys, mine + "matrix", data)
    assert "'Limit': " in (error := refused(tmp_path, capsys, mine + "Limit", data))
    assert "missing a required argument: 'limit'; give it as one of the reward's `kwargs`" in error
    (tmp_path / "exits.py").write_text("import sys\nsys.exit('no licence')\n")
    error = refused(tmp_path, capsys, f"{tmp_path / 'exits.py'}:reward", data)
    assert f"SystemExit: no licence ({tmp_path}/exits.py, line 2: sys.exit('no licence'))" in error


@pytest.mark.parametrize(
    ("rows", "reward", "warning"),
    [
        ([{"answer": "4", "completion": RIGHT}] * 2, "rewards.answer:math_answer", "constant: every score is 1"),
        ([{"answer": "none", "completion": "c"}] * 2, "moody", "moody: always None"),
        (
            [{"answer": "4", "completion": RIGHT[len("<think>") :]}],
            "rewards.answer:math_answer",
            "prefill: 1 completion(s) close a thought that they don't open",
        ),
        (
            [{"answer": "\\frac{1", "completion": WRONG}],
            "rewards.answer:math_answer",
            "math_answer: 1 gold answer(s) can't be used: data.jsonl, row 0: the gold answer",
        ),
        (
            [{"completion": "x" * length} for length in range(12)],
            "by_length",
            "length: the score's correlation with the completion's length is 1.00",
        ),
        ([{"completion": "a b c"}], "tokens", "the data has no `completion_ids`: words stood in for tokens"),
    ],
)
def test_what_looks_wrong_is_said(rows: list[dict[str, Any]], reward: str, warning: str, tmp_path: Path) -> None:
    found = outcome(tmp_path, reward, [{"prompt": "p", **row} for row in rows])
    assert any(text.startswith(warning) for text in found["warnings"]), found["warnings"]


def test_token_ids_of_the_data_reach_the_reward(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completion": "a", "completion_ids": [7] * length} for length in (3, 5)]
    found = outcome(tmp_path, "tokens", rows)
    assert found["scores"] == [3.0, 5.0]
    assert found["warnings"] == []


def test_parquet_is_read_as_jsonl_is(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completion": RIGHT, "answer": "4"}, {"prompt": "p", "completion": WRONG, "answer": "4"}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "data.parquet")
    from_parquet, from_jsonl = read_examples(tmp_path / "data.parquet"), read_examples(write(tmp_path, rows))
    assert from_parquet.rollouts[1].text == from_jsonl.rollouts[1].text
    assert from_parquet.prompts[0].columns == from_jsonl.prompts[0].columns == {"answer": "4"}


@pytest.mark.slow
def test_a_reward_that_hangs_is_cut_off_where_it_is_isolated(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ndef slow(completions):\n    time.sleep(60)\n")
    found = outcome(tmp_path, f"{tmp_path / 'slow.py'}:slow", [ROWS[0]], "--isolate", status=1)
    assert found["scores"] == [None]
    assert found["status"]["slow"] == ["timeout"]


def test_bad_input_is_refused_with_file_and_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    math = "rewards.answer:math_answer"
    assert "no such dataset file" in refused(tmp_path, capsys, math, tmp_path / "nothing.jsonl")
    empty = write(tmp_path, [])
    assert "the dataset has no rows" in refused(tmp_path, capsys, math, empty)
    assert "row 0: no column 'completion' among prompt" in refused(
        tmp_path, capsys, math, write(tmp_path, [{"prompt": "p"}])
    )
    broken = write(tmp_path, [ROWS[0]])
    broken.write_text(broken.read_text() + "{broken\n")
    assert "row 1 (line 2): not JSON" in refused(tmp_path, capsys, math, broken)
    odd = write(tmp_path, [ROWS[0], {"prompt": "p", "completion": 3}])
    assert "data.jsonl, row 1: completion is 3; give a text" in refused(tmp_path, capsys, math, odd)
    fine = write(tmp_path, [{"prompt": "p", "completion": "c"}])
    assert "needs answer, but the rows have" in refused(tmp_path, capsys, math, fine)
    assert "has no 'nothing'" in refused(tmp_path, capsys, f"{tmp_path / 'mine.py'}:nothing", fine)
    assert "no reward is called 'other'" in refused(tmp_path, capsys, math, fine, "--expression", "other")
    (tmp_path / "two.txt").write_text("1\n2\n")
    assert "has 2 expected scores for 1 completions" in refused(
        tmp_path, capsys, math, fine, "--against", str(tmp_path / "two.txt")
    )


def test_agreement_and_latencies_by_hand() -> None:
    assert agreement([1.0, None], [None, 1.0]) is None
    found = agreement([1.0, 0.0, 0.2], [1.0, 1.0, 0.2])
    assert found is not None
    assert found["agree"] == pytest.approx(2 / 3)
    assert found["differing"] == [1]
    calls = [RewardCall("ok", float(n)) for n in range(1, 101)] + [RewardCall("skipped")]
    times = call_statistics(calls)
    assert (times["ms_p50"], times["ms_p90"], times["ms_p99"], times["ms_max"]) == (50, 90, 99, 100)
    assert times["skipped"] == pytest.approx(1 / 101)


def test_few_values_have_a_bar_each_and_many_are_put_into_ten() -> None:
    assert [line.split()[0::2] for line in histogram([0.0, 1.0, 1.0])] == [["0", "1"], ["1", "2"]]
    bars = histogram([n / 99 for n in range(100)])
    assert len(bars) == 10
    assert [int(line.split()[-1]) for line in bars] == [10] * 10


def test_what_is_printed_shows_the_row_that_differs(tmp_path: Path) -> None:
    data = write(tmp_path, ROWS)
    assert main(["reward", "test", "rewards.answer:math_answer", str(data), "--show", "1"]) == 0
    from rewards.answer import math_answer
    from rewards.combine.compose import Composition
    from sail_rl.contracts import RewardTerm
    from sail_rl.evaluation.reward_trial import try_rewards

    terms, examples = [RewardTerm("answer", math_answer)], read_examples(data)
    text = io.StringIO()
    print_test(
        try_rewards(terms, Composition(terms), examples), examples, show=1, console=Console(file=text, width=120)
    )
    assert "row 2" in text.getvalue()
    assert "row 0" not in text.getvalue()
    assert "66.7% of 3 agree" in text.getvalue()


@pytest.mark.slow
def test_watching_runs_again_when_the_reward_is_saved_and_survives_its_mistakes(tmp_path: Path) -> None:
    data, reward, log = write(tmp_path, ROWS[:1]), tmp_path / "mine.py", tmp_path / "log"
    reward.write_text("def score(completions):\n    return [0.25]\n")
    command = [sys.executable, "-m", "sail_rl", "reward", "test", f"{reward}:score", str(data), "--watch"]

    def wait_for(text: str) -> None:
        deadline = time.monotonic() + 60
        while text not in (written := log.read_text(errors="replace")):  # it may end within a character
            assert process.poll() is None, written
            assert time.monotonic() < deadline, written
            time.sleep(0.1)

    with (
        log.open("w") as output,
        subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONUNBUFFERED": "1"}
        ) as process,
    ):
        try:
            wait_for("mean 0.25")
            reward.write_text("def score(completions:\n")
            wait_for("SyntaxError")
            reward.write_text("def score(completions):\n    return [0.75]\n")
            wait_for("mean 0.75")
        finally:
            process.kill()


def test_every_layout_that_a_dataset_may_have_can_be_scored(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": RIGHT}]
    rows = [
        {"messages": messages, "answer": "4"},
        {"question": "2+2?", "completion": WRONG, "solution": "<answer>4</answer>"},
        {"instruction": "2+2?", "output": RIGHT, "reward_model": {"ground_truth": "4"}},
    ]
    assert outcome(tmp_path, "rewards.answer:math_answer", rows)["scores"] == [1.0, 0.0, 1.0]


COLUMNS = [
    "self",
    "args",
    "kwargs",
    "columns",
    "completions",
    "prompts",
    "completion_ids",
    "prefilled",
    "images_sizes",
    "trainer_state",
    "log_extra",
    "log_metric",
    "environments",
    "step",
    "stage",
    "row",
    "rows",
    "name",
    "names",
    "gold",
    "label",
    "source",
    "weight",
    "total",
    "rewards",
    "rollouts",
    "sample",
    "text",
    "token_ids",
    "stop_reason",
    "prompt_id",
    "file_name",
    "function",
    "func",
    "term",
    "cls",
    "index",
    "class",
    "lambda",
    "",
    "a.b",
    "with space",
    "-",
    "*",
]


@pytest.mark.parametrize(
    "reward",
    ["rewards.answer:math_answer", "rewards.format:think_boxed", "rewards.shaping:same_language", "everything"],
)
def test_no_name_of_a_column_disturbs_a_reward(reward: str, tmp_path: Path) -> None:
    (tmp_path / "more.py").write_text("def everything(completions, **columns):\n    return [1.0] * len(completions)\n")
    path = f"{tmp_path / 'more.py'}:everything" if reward == "everything" else reward
    plain = [
        {"prompt": "2+2?", "completion": RIGHT, "answer": "4"},
        {"prompt": "2+2?", "completion": WRONG, "answer": "4"},
    ]
    expected = outcome(tmp_path, path, plain)["scores"]
    found = outcome(tmp_path, path, [row | dict.fromkeys(COLUMNS, "v") | {"completion_ids": None} for row in plain])
    assert found["scores"] == expected
    (said,) = [text for text in found["warnings"] if text.startswith("rewards don't get")]
    assert "self" in said
    assert "completions" in said
