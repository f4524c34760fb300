r"""Completions: one form for all, `<think>…</think>` and `\boxed{}`; thoughts that say more than their answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from sail_rl.completion import THINK_END, THINK_START

from .outcome import Outcome, Row, each
from .reading import read, tokens_of


def unify(rows: Iterable[Row]) -> Outcome:
    r"""Bring every completion into the form `<think>\nthought\n</think>\n\n…\boxed{answer}`.

    Known are thoughts in the tags that models use, answers in `<answer>` or after "the answer is", "####" and the like,
    and text without tags, whose last line says the answer. A row without thought or answer goes, and so does one of
    which it isn't clear what is thought: open tags, or two thoughts.
    """

    def change(row: Row) -> Row | str:
        gold = row.get("answer")
        found = read(row.get("completion") or "", gold=None if gold is None else str(gold))
        return row | {"completion": written(*found)} if isinstance(found, tuple) else found

    return each(rows, change)


def written(thought: str, answer: str) -> str:
    """A completion of these two."""
    return f"{THINK_START}\n{thought.strip()}\n{THINK_END}\n\n{answer.strip()}"


def drop_redundant(rows: Iterable[Row], *, limit: float = 0.6, least: int = 20) -> Outcome:
    """Drop rows whose answer repeats the thought.

    Args:
        rows: unified ones.
        limit: highest overlap, in [0, 1], see `overlap`.
        least: tokens of an answer from which on it is looked at: short ones are in the thought by right.
    """

    def change(row: Row) -> Row | str:
        thought, _, answer = row["completion"].partition(THINK_END)
        tokens = tokens_of(answer)
        if len(tokens) >= least and overlap(tokens_of(thought), tokens) > limit:
            return "answer repeats the thought"
        return row

    return each(rows, change)


def overlap(thought: list[str], answer: list[str]) -> float:
    """The share of the answer's pairs of neighbouring tokens that the thought has, too."""
    pairs, known = Counter(pairwise(answer)), Counter(pairwise(thought))
    return (pairs & known).total() / max(1, pairs.total())
