r"""Completions: one form for all, `<think>…</think>` and `\boxed{}`; thoughts that say more than their answers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import pairwise

from .outcome import Outcome, Row, each

Boxed = Callable[[str], str | None]
r"""From an answer's text to what its last `\boxed{…}` holds."""

_THOUGHT = re.compile(
    r"<(?P<tag>think|thinking|thought|reasoning|reason)>(?P<thought>.*?)</(?P=tag)>"
    r"|<\|begin_of_thought\|>(?P<other>.*?)<\|end_of_thought\|>",
    re.DOTALL,
)
_WRAPPED = re.compile(r"<answer>(.*?)</answer>|<\|begin_of_solution\|>(.*?)(?:<\|end_of_solution\|>|$)", re.DOTALL)
_SAID = re.compile(
    r"(?:^|(?<=[\s.。:]))(?:####|(?:\*\*)?(?:so,? |thus,? |therefore,? )?(?:the )?(?:final |correct )?answer(?:\*\*)?"
    r"(?:\s+is)?\s*[::]?(?:\*\*)?|(?:所以)?(?:最终)?答案(?:是|为)?\s*[::]?)\s*(?P<answer>[^\n]+?)\s*$",
    re.IGNORECASE,
)
_TOKEN = re.compile(r"[\u3400-\u9fff]|\w+|[^\w\s]")


def unify(rows: Iterable[Row], *, boxed: Boxed) -> Outcome:
    r"""Bring every completion into the form `<think>\nthought\n</think>\n\n…\boxed{answer}`.

    Known are thoughts in the tags that models use, answers in `<answer>` or after "the answer is", "####" and the like,
    and text without tags, whose last line says the answer. A row without thought or answer goes, and so does one of
    which it isn't clear what is thought: open tags, or two thoughts.
    """

    def change(row: Row) -> Row | str:
        found = read(row.get("completion") or "", boxed=boxed)
        return row | {"completion": written(*found)} if isinstance(found, tuple) else found

    return each(rows, change)


def read(completion: str, *, boxed: Boxed) -> tuple[str, str] | str:
    r"""Thought and answer (its text, with one `\boxed{}` at least), or the reason why they can't be told."""
    thoughts = list(_THOUGHT.finditer(completion))
    if len(thoughts) > 1:
        return "two thoughts"
    rest = _THOUGHT.sub("", completion).strip()
    if re.search(r"</?(?:think|thinking|thought|reasoning|reason)>|<\|(?:begin|end)_of_thought\|>", rest):
        return "a thought that isn't closed"
    if wrapped := _WRAPPED.search(rest):
        rest = next(group for group in wrapped.groups() if group is not None).strip()
    if thoughts:
        thought = next(group for group in (thoughts[0]["thought"], thoughts[0]["other"]) if group is not None).strip()
        answer = rest if boxed(rest) else _boxed_answer(rest, whole=True)
    else:
        thought, answer = _without_tags(rest, boxed)
    if not thought:
        return "no thought"
    if not answer:
        return "no answer"
    return thought, answer


def written(thought: str, answer: str) -> str:
    """A completion of these two."""
    return f"<think>\n{thought.strip()}\n</think>\n\n{answer.strip()}"


def drop_redundant(rows: Iterable[Row], *, limit: float = 0.6, least: int = 20) -> Outcome:
    """Drop rows whose answer repeats the thought.

    Args:
        rows: unified ones.
        limit: highest overlap, in [0, 1], see `overlap`.
        least: tokens of an answer from which on it is looked at: short ones are in the thought by right.
    """

    def change(row: Row) -> Row | str:
        thought, _, answer = row["completion"].partition("</think>")
        tokens = tokens_of(answer)
        if len(tokens) >= least and overlap(tokens_of(thought), tokens) > limit:
            return "answer repeats the thought"
        return row

    return each(rows, change)


def overlap(thought: list[str], answer: list[str]) -> float:
    """The share of the answer's pairs of neighbouring tokens that the thought has, too."""
    pairs, known = Counter(pairwise(answer)), Counter(pairwise(thought))
    return (pairs & known).total() / max(1, pairs.total())


def tokens_of(text: str) -> list[str]:
    """Words, single Chinese characters and signs: what a length or an overlap is counted in, whatever the tokenizer."""
    return _TOKEN.findall(text.casefold())


def _without_tags(text: str, boxed: Boxed) -> tuple[str, str]:
    """Text without tags: what comes before the last line that says the answer is the thought."""
    lines = text.splitlines()
    for number in range(len(lines) - 1, -1, -1):
        if boxed(lines[number]):
            return "\n".join(lines[:number]).strip(), lines[number].strip()
        if answer := _boxed_answer(lines[number], whole=False):
            start = _SAID.search(lines[number]).start()  # type: ignore[union-attr]
            return "\n".join([*lines[:number], lines[number][:start]]).strip(), answer
    return text, ""


def _boxed_answer(text: str, *, whole: bool) -> str:
    """What an answer's text says, boxed; `whole`: all of it, if it is short and doesn't say where the answer is."""
    said = _SAID.search(text)
    answer = said["answer"] if said else text if whole and "\n" not in text and len(tokens_of(text)) <= 12 else ""
    answer = re.sub(r"^(?:\*\*|\$)+|(?:\*\*|\$)+$", "", answer.strip().rstrip(".。")).strip()
    return f"\\boxed{{{answer}}}" if answer else ""
