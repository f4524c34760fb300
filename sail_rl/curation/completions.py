r"""Rewrites completions into one format, `<think>…</think>` and `\boxed{}`, and drops redundant answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from sail_rl.completion import THINK_END, THINK_START

from .outcome import Outcome, Row, each
from .reading import read, tokens_of


def unify(rows: Iterable[Row]) -> Outcome:
    r"""Rewrite every completion as `<think>\nthought\n</think>\n\n…\boxed{answer}`.

    It recognises thoughts in the tags of common models, answers in `<answer>` or after phrases such as "the answer is"
    and "####", and text without tags whose last line states the answer. It drops rows without a thought or an answer,
    and rows whose thought is ambiguous: unclosed tags, or two thoughts.
    """

    def change(row: Row) -> Row | str:
        gold = row.get("answer")
        found = read(row.get("completion") or "", gold=None if gold is None else str(gold))
        return row | {"completion": written(*found)} if isinstance(found, tuple) else found

    return each(rows, change)


def written(thought: str, answer: str) -> str:
    """A completion of this thought and this answer."""
    return f"{THINK_START}\n{thought.strip()}\n{THINK_END}\n\n{answer.strip()}"


def drop_redundant(rows: Iterable[Row], *, limit: float = 0.6, least: int = 20) -> Outcome:
    """Drop rows whose answer repeats the thought.

    Args:
        rows: unified rows.
        limit: the highest allowed overlap, in [0, 1], see `overlap`.
        least: the length in tokens from which answers are checked; the thought may contain shorter ones.
    """

    def change(row: Row) -> Row | str:
        thought, _, answer = row["completion"].partition(THINK_END)
        tokens = tokens_of(answer)
        if len(tokens) >= least and overlap(tokens_of(thought), tokens) > limit:
            return "answer repeats the thought"
        return row

    return each(rows, change)


def overlap(thought: list[str], answer: list[str]) -> float:
    """The share of the answer's pairs of neighbouring tokens that also occur in the thought."""
    pairs, known = Counter(pairwise(answer)), Counter(pairwise(thought))
    return (pairs & known).total() / max(1, pairs.total())
