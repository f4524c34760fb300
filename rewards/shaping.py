"""Rewards for a completion's length (in tokens), repetition and language, whatever its answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sail_rl.completion import completion_text, split_thought
from sail_rl.contracts import RIGHT

from .answer import math_answer
from .verify.chinese import is_chinese


def soft_overlong(completion_ids: Sequence[Sequence[int]], *, max_tokens: int, cache_tokens: int) -> list[float]:
    """0 up to max_tokens - cache_tokens, then a linear fall to -1 at max_tokens (DAPO, arXiv 2503.14476, eq. 13)."""
    if not 0 < cache_tokens <= max_tokens:
        raise ValueError(f"cache_tokens is {cache_tokens}: give 1 to max_tokens, {max_tokens}")
    start = max_tokens - cache_tokens
    return [-min(1.0, max(0.0, (len(ids) - start) / cache_tokens)) for ids in completion_ids]


class Cosine:
    """The reward `math_answer` scaled by length (arXiv 2502.03373, section 3 and appendix C.1).

    The score is `v(0) + (v(max) - v(0)) (1 - cos(π length / max_tokens)) / 2`. By default, short right answers gain
    more than long ones, and short wrong answers lose more.

    Args:
        max_tokens: the length from which on the score stays at v(max).
        right: the scores of a right answer at length 0 and at max_tokens.
        wrong: the scores of a wrong answer at length 0 and at max_tokens.
    """

    def __init__(
        self, max_tokens: int, *, right: tuple[float, float] = (1.0, 0.5), wrong: tuple[float, float] = (-1.0, -0.5)
    ) -> None:
        if max_tokens < 1:
            raise ValueError(f"max_tokens is {max_tokens}: give the longest completion in tokens")
        self._max_tokens, self._right, self._wrong = max_tokens, right, wrong

    def __call__(self, completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[float]:
        """Score completions."""
        scores = []
        for ids, correct in zip(completion_ids, math_answer(**columns), strict=True):
            near, far = self._right if correct > RIGHT else self._wrong
            progress = min(1.0, len(ids) / self._max_tokens)
            scores.append(near + (far - near) * (1 - math.cos(math.pi * progress)) / 2)
        return scores

    def close(self) -> None:
        """Stop the verification processes."""
        math_answer.close()


def repetition(completion_ids: Sequence[Sequence[int]], *, size: int = 20) -> list[float]:
    """Minus the share of repeated n-grams of `size` tokens: 0 without repetition, close to -1 for a loop."""
    return [-repeated_share(ids, size) for ids in completion_ids]


def repeated_share(ids: Sequence[int], size: int) -> float:
    """The share of a sequence's n-grams that occurred before; 0 if the sequence is shorter than one n-gram."""
    grams = len(ids) - size + 1
    if grams < 1:
        return 0.0
    return 1 - len({tuple(ids[start : start + size]) for start in range(grams)}) / grams


def same_language(completions: Sequence[Any], prompts: Sequence[Any]) -> list[float]:
    """The share of the completion's letters that are in the question's script, Chinese or not (DeepSeek-R1, 2.3.2).

    A question that contains any Chinese character is Chinese. The score is 1 for a completion without letters.
    """
    return [
        _script_share(completion_text(completion), chinese=is_chinese(completion_text(_user_turn(prompt))))
        for completion, prompt in zip(completions, prompts, strict=True)
    ]


def _script_share(text: str, *, chinese: bool) -> float:
    parsed = split_thought(text)
    words = " ".join(part for part in (parsed.thought, parsed.answer) if part)
    characters = [character for character in words.replace("\\boxed", "") if character.isalpha()]
    if not characters:
        return 1.0
    han = sum(map(is_chinese, characters)) / len(characters)
    return han if chinese else 1 - han


def _user_turn(prompt: Any) -> Any:
    if isinstance(prompt, str):
        return prompt
    return [message for message in prompt if message["role"] == "user"]
