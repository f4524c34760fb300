"""Judges against a real vLLM server: an untrained model gives verdicts, as structured output leaves it no choice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from conftest import picture

from rewards.judge import AnswerJudge, ThinkJudge, WhenToThinkJudge
from sail_rl.endpoint.errors import JudgeRefusedError

PROMPT = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is the sum?"}]}]
COMPLETIONS = ["<think>1 and 2 make 3</think>\\boxed{3}", "<think>1 and 2 make 4</think>\\boxed{4}", "\\boxed{5}"]


@pytest.fixture
def address(real_server: str) -> str:
    return f"{real_server}/v1"


def judged(judge: Any) -> list[float | None]:
    columns: dict[str, Any] = {"images": [[picture(0)], [picture(1)], [picture(2)]], "answer": ["3"] * 3}
    return asyncio.run(judge(completions=COMPLETIONS, prompts=[PROMPT] * 3, **columns))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "possible", "calls"),
    [
        (AnswerJudge, {0.0, 1.0}, 3),
        (ThinkJudge, {0.0, 1 / 3, 2 / 3, 1.0}, 2),
        (WhenToThinkJudge, {0.0, 1.0}, 3),
    ],
)
def test_every_verdict_is_in_range_and_tokens_are_counted(
    address: str, tmp_path: Path, kind: type, possible: set[float], calls: int
) -> None:
    settings: dict[str, Any] = {"base_url": address, "model": "tiny", "cache": tmp_path / "cache", "max_tokens": 256}
    judge = kind(**settings, temperature=1.0, prompt_price=1.0, completion_price=1.0)
    scores = judged(judge)
    assert {score for score in scores if score is not None} <= possible
    assert [score is None for score in scores] == [False, False, kind is ThinkJudge]
    assert sum(verdict is not None for verdict in judge.verdicts) == calls
    metrics = judge.metrics()
    assert (metrics["calls"] - metrics["retries"], metrics["failures"]) == (calls, 0)
    assert metrics["prompt_tokens"] > 100 * calls
    assert calls <= metrics["completion_tokens"] <= 256 * metrics["calls"]
    assert metrics["cost"] == pytest.approx((metrics["prompt_tokens"] + metrics["completion_tokens"]) / 1e6)
    assert judged(kind(**settings, temperature=1.0)) == scores  # from the cache: at temperature 1 it would vary


@pytest.mark.slow
def test_a_model_that_is_not_served_is_said(address: str) -> None:
    with pytest.raises(JudgeRefusedError, match=r"status 404: .*other.*; check the model's name or base_url"):
        judged(AnswerJudge(base_url=address, model="other"))
