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
    r"(?:^|(?<=[\s.。:：,，*]))(?:####\s*|(?:\*\*)?(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:final |correct )?"
    r"answer\b(?: to (?:the|this) (?:question|problem))?(?:\*\*)?\s*(?:is\b\s*[:：]?|[:：])(?:\*\*)?\s*"
    r"|(?:所以)?(?:最终)?答案(?:是|为|[:：])\s*[:：]?\s*)(?P<answer>\S[^\n]*?)\s*$",
    re.IGNORECASE,
)
"""Where the last line says what the answer is, to its end."""
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
    if re.search(r"</?answer>|<\|(?:begin|end)_of_solution\|>", rest):
        return "an answer that isn't closed"
    if thoughts:
        thought = next(group for group in (thoughts[0]["thought"], thoughts[0]["other"]) if group is not None).strip()
        answer = rest if boxed(rest) else _said(rest) or _boxed_whole(rest, wrapped=bool(wrapped))
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
    """Text without tags: what comes before the last line that says the answer, or before its words, is the thought."""
    lines = text.splitlines()
    for number in range(len(lines) - 1, -1, -1):
        line = lines[number]
        match = _SAID.search(line)
        if boxed(line):
            # A display of its own, as in \[ \boxed{7} \], is all answer.
            first = number - (number > 0 and lines[number - 1].strip() in ("\\[", "$$"))
            start = match.start() if match else _sentence_start(line) if first == number else 0
            return _joined(lines[:first], line[:start] if first == number else ""), "\n".join(
                [*lines[first:number], line[start:]]
            ).strip() + ("\n" + lines[number + 1] if first < number and number + 1 < len(lines) else "")
        if match and (answer := _said(line)):
            return _joined(lines[:number], line[: match.start()]), answer
    return text, ""


def _joined(lines: list[str], rest: str) -> str:
    return "\n".join([*lines, rest]).strip().rstrip(",，")


def _sentence_start(line: str) -> int:
    """Where the sentence with the box begins, if something stands before it; a line of one sentence is split there."""
    box = line.find("\\boxed")
    marks = [mark for mark in (". ", "。", ", so ", ": ") if mark in line[:box]]
    return max((line.rfind(mark, 0, box) + len(mark) for mark in marks), default=0)


def _said(text: str) -> str:
    """What the last words of a text say that the answer is, boxed; empty if they don't."""
    said = _SAID.search(text)
    return _box(said["answer"]) if said else ""


def _boxed_whole(text: str, *, wrapped: bool) -> str:
    """A whole short text as the answer: from answer tags a phrase, otherwise a value of one to four tokens."""
    short = "\n" not in text and len(tokens_of(text)) <= (12 if wrapped else 4)
    return _box(text) if short else ""


def _box(answer: str) -> str:
    answer = re.sub(r"^(?:\*\*|\$)+|(?:\*\*|\$)+$", "", answer.strip().rstrip(".。")).strip()
    return f"\\boxed{{{answer}}}" if re.search(r"\w", answer) else ""
