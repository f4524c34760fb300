"""Rewards that recipes name: functions in the styles of TRL, open-r1, verl and EasyR1, factories and classes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from test_rewards_compose import batch

from rewards.adapters import EasyR1, Verl
from rewards.combine.compose import Composition
from sail_rl.config import RewardConfig
from sail_rl.contracts import RewardTerm
from sail_rl.plan.rewards import make_terms

VERL = '''
import asyncio, re

def math_dapo(solution_str, ground_truth, strict=False, pause_tokens=None):
    """A mapping, with the score from -1 to 1."""
    right = solution_str[-300:].strip().endswith(ground_truth)
    return {"score": 1.0 if right else -1.0, "acc": right, "pred": solution_str}

def gsm8k(solution_str, ground_truth, method="strict", format_score=0.0, score=1.0):
    found = re.search(r"#### (-?[0-9]+)", solution_str)
    return 0 if found is None else score if found[1] == ground_truth else format_score

def geo3k(predict_str: str, ground_truth: str, use_boxed: bool = True, format_score: float = 0.1) -> float:
    return (1 - format_score) * (ground_truth in predict_str) + format_score * ("<think>" in predict_str)

def math_reward(solution_str, ground_truth) -> float:
    return float(ground_truth in solution_str)

def prime_math(model_output: str, ground_truth: str):
    return ground_truth in model_output, "Step 2:" in model_output, model_output

def dispatch(data_source, solution_str, ground_truth, extra_info=None, sandbox_url=None, **kwargs):
    assert extra_info["index"] >= 0 and not kwargs
    return {"openai/gsm8k": gsm8k, "math": math_reward}[data_source](solution_str, ground_truth)

def no_columns(data_source, solution_str, ground_truth, extra_info):
    return float(data_source is None and extra_info == {})

def batched(data_sources, solution_strs, ground_truths, extra_infos, bonus=0.0):
    return [{"score": bonus + (gold in text)} for text, gold in zip(solution_strs, ground_truths, strict=True)]

def weighted(data_source, solution_str, ground_truth, extra_info=None, weight=1.0):
    return {"score": weight * (ground_truth in solution_str)}

running = most = 0

async def judged(data_source, solution_str, ground_truth, extra_info):
    global running, most
    running += 1
    most = max(most, running)
    await asyncio.sleep(0.01)
    running -= 1
    if solution_str == "bad":
        raise KeyError("bad reply")
    return {"score": float(ground_truth in solution_str)}

def with_router(solution_str, ground_truth, reward_router_address):
    return float(reward_router_address == "here")

def undecorated(function):
    return lambda *arguments, **keywords: function(*arguments, **keywords)

wrapped = undecorated(no_columns)

def late(solution_str, ground_truth):
    return 1.0

late.call_order = 5.0

def one_fails(solution_str, ground_truth):
    return 1 / (solution_str != "bad")
'''
EASYR1 = """
REWARD_NAME = "mine"

def batched(reward_inputs, format_weight=0.1):
    return [
        {"overall": r["response_length"] + format_weight, "accuracy": float(r["response"] == r["ground_truth"])}
        for r in reward_inputs
    ]

def sequential(reward_input, format_weight=0.1):
    return {"overall": float(reward_input["response"] == reward_input["ground_truth"]) - format_weight, "format": 1.0}

async def awaited(reward_input):
    return {"overall": float(reward_input["response_length"])}

def needy(reward_inputs, max_response_length):
    return [{"overall": 0.0}]
"""
TRL = """
import functools

def plain(completions, answer, **kwargs):
    return [float(gold in completion[0]["content"]) for completion, gold in zip(completions, answer, strict=True)]

def make_short(limit=3, scale=1.0):
    def short(completion_ids, **kwargs):
        return [scale * (len(ids) <= limit) for ids in completion_ids]
    return short

def make_named(limit):
    return functools.partial(plain)

def make_number(limit=3):
    return limit

def make_broken(limit=3):
    table = {}
    return table[limit]

class Limit:
    def __init__(self, limit, *, scale=1.0):
        self.limit, self.scale = limit, scale
    def __call__(self, completions, **kwargs):
        return [self.scale * (len(completion[0]["content"]) < self.limit) for completion in completions]

class VerlLike:
    def __call__(self, solution_str, ground_truth):
        return float(solution_str == ground_truth)

def mixed(completions, solution_str, ground_truth):
    return 1.0

def unknown(response, ground_truth):
    return 1.0

def open_ended(**columns):
    return [1.0 for _ in columns["completions"]]

async def later(completions, **kwargs):
    return [0.5 for _ in completions]

number = 3
"""


@pytest.fixture(scope="module")
def styles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("styles")
    for name, text in (("verl", VERL), ("easyr1", EASYR1), ("trl", TRL)):
        (folder / f"{name}.py").write_text(text)
    return folder


def totals(path: str, *texts: str, kwargs: dict[str, Any] | None = None, **columns: Any) -> list[float]:
    """The scores of completions by a reward that a recipe names."""
    terms = make_terms({"mine": RewardConfig(path=path, kwargs=kwargs or {})})
    return Composition(terms)(*batch(*texts, **columns)).total


@pytest.mark.parametrize(
    ("name", "kwargs", "texts", "expected"),
    [
        ("math_dapo", {}, ("so 7", "so 8"), [1.0, -1.0]),
        ("gsm8k", {}, ("#### 7", "#### 8", "7"), [1.0, 0.0, 0.0]),
        ("gsm8k", {"format_score": 0.25, "score": 2}, ("#### 7", "#### 8", "7"), [2.0, 0.25, 0.0]),
        ("geo3k", {}, ("<think>7", "7"), [1.0, 0.9]),
        ("math_reward", {}, ("7", "8"), [1.0, 0.0]),
        ("prime_math", {}, ("7", "8"), [1.0, 0.0]),
        ("no_columns", {}, ("7",), [1.0]),
        ("batched", {"bonus": 0.5}, ("7", "8"), [1.5, 0.5]),
        ("judged", {}, ("7", "8", "7"), [1.0, 0.0, 1.0]),
        ("with_router", {"reward_router_address": "here"}, ("7",), [1.0]),
    ],
)
@pytest.mark.parametrize("adapter", [False, True])
def test_functions_of_verl_are_named_with_or_without_the_adapter(
    adapter: bool, name: str, kwargs: dict[str, Any], texts: tuple[str, ...], expected: list[float], styles: Path
) -> None:
    path = f"{styles}/verl.py:{name}"
    named = ("rewards.adapters:Verl", kwargs | {"path": path}) if adapter else (path, kwargs)
    assert totals(named[0], *texts, kwargs=named[1], answer=["7"] * len(texts)) == pytest.approx(expected)


def test_a_function_whose_decorator_hides_its_parameters_needs_the_adapter(styles: Path) -> None:
    kwargs = {"path": f"{styles}/verl.py:wrapped"}
    assert totals("rewards.adapters:Verl", "7", kwargs=kwargs, answer=["7"]) == [1.0]


def test_hooks_of_an_adapted_function_count(styles: Path) -> None:
    assert make_terms({"mine": RewardConfig(path=f"{styles}/verl.py:late")})[0].call_order == 5.0


def test_columns_of_verl_reach_the_function(styles: Path) -> None:
    columns = {"answer": ["7", "7"], "data_source": ["openai/gsm8k", "math"], "extra_info": [{"index": 0}] * 2}
    assert totals(f"{styles}/verl.py:dispatch", "#### 7", "x7", **columns) == [1.0, 1.0]
    reward = Composition([RewardTerm("r", Verl(f"{styles}/verl.py:weighted", weight=2.0))])
    assert reward(*batch("it is 7", "it is 8", **columns)).total == [2.0, 0.0]


def test_async_functions_of_verl_run_at_once_and_fail_alone(styles: Path) -> None:
    path = f"{styles}/verl.py:judged"
    terms = make_terms({"mine": RewardConfig(path=path, on_error="zero")})
    scores = Composition(terms)(*batch("7", "bad", "7", answer=["7"] * 3))
    assert scores.total == [1.0, 0.0, 1.0]
    assert [call.status for call in scores.calls["mine"]] == ["ok", "error", "ok"]
    assert scores.calls["mine"][1].message.startswith("KeyError: 'bad reply' (")
    assert sys.modules[terms[0].function.func.__module__].most == 3  # type: ignore[attr-defined]


def test_one_failure_of_a_function_of_verl_costs_no_other_completion_its_score(styles: Path) -> None:
    terms = make_terms({"mine": RewardConfig(path=f"{styles}/verl.py:one_fails", on_error="none", on_none="zero")})
    scores = Composition(terms)(*batch("a", "bad", "b", answer=["7"] * 3))
    assert [call.status for call in scores.calls["mine"]] == ["ok", "error", "ok"]


@pytest.mark.parametrize(
    ("name", "kwargs", "expected"),
    [
        ("batched", {"format_weight": 0.2}, [1.2, 1.2]),
        ("sequential", {}, [0.9, -0.1]),
        ("sequential", {"format_weight": 0.5}, [0.5, -0.5]),
        ("awaited", {}, [1.0, 1.0]),
    ],
)
@pytest.mark.parametrize("adapter", [False, True])
def test_functions_of_easyr1_get_one_mapping_or_a_list(
    adapter: bool, name: str, kwargs: dict[str, Any], expected: list[float], styles: Path
) -> None:
    path = f"{styles}/easyr1.py:{name}"
    named = ("rewards.adapters:EasyR1", kwargs | {"path": path}) if adapter else (path, kwargs)
    assert totals(named[0], "7", "8", kwargs=named[1], answer=["7", "7"]) == pytest.approx(expected)


@pytest.mark.parametrize(("kind", "expected"), [("batch", [1.0, 1.0]), ("sequential", [2.0, 2.0])])
def test_the_reward_type_of_the_module_decides_as_in_easyr1(kind: str, expected: list[float], tmp_path: Path) -> None:
    (tmp_path / f"{kind}.py").write_text(
        f"REWARD_TYPE = {kind!r}\n"
        "def score(inputs):\n"
        "    if isinstance(inputs, dict):\n"
        "        return {'overall': 2.0}\n"
        "    return [{'overall': 1.0} for _ in inputs]\n"
    )
    assert totals(f"{tmp_path}/{kind}.py:score", "7", "8", answer=["7", "7"]) == expected


def test_another_metric_of_easyr1_may_be_the_score(styles: Path) -> None:
    path = f"{styles}/easyr1.py:batched"
    reward = Composition([RewardTerm("r", EasyR1(path, metric="accuracy"))])
    assert reward(*batch("7", "8", answer=["7", "7"])).total == [1.0, 0.0]
    with pytest.raises(RuntimeError, match=r"returned \['accuracy', 'overall'\], without 'score'"):
        Composition([RewardTerm("r", EasyR1(path, metric="score"))])(*batch("7", answer=["7"]))


@pytest.mark.parametrize(
    ("name", "kwargs", "expected"),
    [
        ("plain", {}, [1.0, 0.0]),
        ("make_short", {}, [1.0, 1.0]),
        ("make_short", {"limit": 0, "scale": 2.0}, [0.0, 0.0]),
        ("make_named", {"limit": 1}, [1.0, 0.0]),
        ("Limit", {"limit": 2}, [1.0, 1.0]),
        ("VerlLike", {}, [1.0, 0.0]),
        ("open_ended", {}, [1.0, 1.0]),
        ("later", {}, [0.5, 0.5]),
    ],
)
def test_functions_of_trl_factories_and_classes(
    name: str, kwargs: dict[str, Any], expected: list[float], styles: Path
) -> None:
    assert totals(f"{styles}/trl.py:{name}", "7", "8", kwargs=kwargs, answer=["7", "7"]) == expected


def test_rewards_of_trl_itself_work_as_they_are() -> None:
    """By hand: a completion of one word has length 1, in the last 2 of 2 tokens: (2 - 2 - 1) / 2 = -0.5."""
    thought = "<think>\nt\n</think>\n\\boxed{7}"
    assert totals("trl.rewards:think_format_reward", thought, "x") == [1.0, 0.0]
    assert totals("trl.rewards:accuracy_reward", "\\boxed{7}", "\\boxed{8}", solution=["$7$"] * 2) == [1.0, 0.0]
    assert totals("trl.rewards:accuracy_reward", "\\boxed{7}", "\\boxed{8}", answer=["7", "7"]) == [1.0, 0.0]
    assert totals("trl.rewards:reasoning_accuracy_reward", thought, "x", solution=["$7$"] * 2) == [1.0, 0.0]
    both = {"answer": ["8"], "solution": ["$7$"]}
    assert totals("trl.rewards:accuracy_reward", "\\boxed{7}", **both) == [1.0]
    kwargs = {"max_completion_len": 2, "soft_punish_cache": 2}
    assert totals("trl.rewards:get_soft_overlong_punishment", "x", kwargs=kwargs) == [-0.5]
    assert totals("trl.rewards:get_repetition_penalty_reward", "x", kwargs={"ngram_size": 2}) == [0.0]


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("trl:mixed", {}, r"trl.py:mixed: the parameters are \(completions, solution_str, ground_truth\), which mix"),
        ("trl:unknown", {}, r"the parameters are \(response, ground_truth\), so it gets no completion; a reward takes"),
        ("trl:number", {}, "trl.py:number is a int, not a function"),
        ("trl:make_number", {}, "make_number makes a int, not a function"),
        ("trl:make_named", {}, r"parameters are \(limit\), so it gets no completion; .* \(without a value: limit\)"),
        ("trl:make_broken", {}, r"make_broken can't be made: KeyError: 3 \(.*trl.py, line \d+: return table\[limit\]"),
        ("trl:make_short", {"most": 1}, "make_short has no parameter most; it has limit, scale"),
        ("trl:Limit", {}, "Limit: missing a required argument: 'limit'; give it as one of the reward's `kwargs`"),
        ("trl:Limit", {"limit": 1, "size": 2}, "Limit has no parameter size; it has limit, scale"),
        ("verl:gsm8k", {"methods": "x"}, "gsm8k has no parameter methods"),
        ("verl:with_router", {}, "with_router: it needs reward_router_address; give them as the reward's `kwargs`"),
        ("easyr1:needy", {}, "needy: it needs max_response_length"),
    ],
)
def test_what_can_t_be_a_reward_is_refused_before_a_run(
    name: str, kwargs: dict[str, Any], message: str, styles: Path
) -> None:
    file, _, function = name.partition(":")
    with pytest.raises(ValueError, match=rf"(?s)reward 'mine': .*{message}"):
        make_terms({"mine": RewardConfig(path=f"{styles}/{file}.py:{function}", kwargs=kwargs)})


@pytest.mark.parametrize("adapter", ["Verl", "EasyR1"])
def test_an_adapter_of_something_else_says_which_parameters_it_reads(adapter: str, styles: Path) -> None:
    with pytest.raises(ValueError, match=r"the parameters are \(response, ground_truth\); a function of"):
        make_terms({"m": RewardConfig(path=f"rewards.adapters:{adapter}", kwargs={"path": f"{styles}/trl.py:unknown"})})


def test_isolated_functions_have_the_same_styles(styles: Path) -> None:
    for name, expected in (("verl.py:judged", [1.0, 0.0]), ("easyr1.py:sequential", [0.9, -0.1])):
        terms = make_terms({"mine": RewardConfig(path=f"{styles}/{name}", isolate=True)})
        scorer = Composition(terms)
        try:
            assert scorer(*batch("7", "8", answer=["7", "7"])).total == pytest.approx(expected)
        finally:
            scorer.close()
