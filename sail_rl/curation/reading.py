r"""Splits a completion in any common format into its thought and its answer."""

from __future__ import annotations

import re

from sail_rl.completion import THINK_END, THINK_START, final_answer

_THOUGHT = re.compile(
    r"<(?P<tag>think|thinking|thought|reasoning|reason)>(?P<thought>.*?)</(?P=tag)>"
    r"|<\|begin_of_thought\|>(?P<other>.*?)<\|end_of_thought\|>",
    re.DOTALL,
)
_OPEN_THOUGHT = re.compile(r"</?(?:think|thinking|thought|reasoning|reason)>|<\|(?:begin|end)_of_thought\|>")
_WRAPPED = re.compile(r"<answer>(.*?)</answer>|<\|begin_of_solution\|>(.*?)(?:<\|end_of_solution\|>|$)", re.DOTALL)
_OPEN_ANSWER = re.compile(r"</?answer>|<\|(?:begin|end)_of_solution\|>")
_SECTIONS = re.compile(r"(?P<thought>.*)<CONCLUSION>(?P<answer>.*?)</CONCLUSION>\s*", re.DOTALL)
"""LLaVA-CoT (arXiv 2411.10440), whose sections SUMMARY, CAPTION and REASONING form the thought."""
_HEADING = re.compile(
    r"^(?:#{1,6}[ \t]*+|\*\*)(?:final[ \t]++)?answer[ \t]*+:?(?:\*\*)?[ \t]*+:?[ \t]*+\n++",
    re.IGNORECASE | re.MULTILINE,
)
_SAID = re.compile(
    r"(?:^|(?<=[\s.。:：,，*]))(?:####\s*|(?:\*\*)?(?:(?:so|thus|hence|therefore),? )?(?:the )?(?:final |correct )?"
    r"answer\b(?: to (?:the|this) (?:question|problem))?(?:\*\*)?\s*(?:is\b\s*[:：]?|[:：])(?:\*\*)?\s*"
    r"|(?:(?:所以|因此|故|综上)[,，]?)?(?:正确|最终)?答案(?:是|为|[:：])\s*[:：]?\s*|故选[:：]?\s*)(?P<answer>\S[^\n]*?)\s*$",
    re.IGNORECASE,
)
"""The phrase by which the last line states the answer, and the rest of that line."""
_CLAUSE_END = re.compile(r"[,，;；](?!\d)|。|(?<![A-Z][a-z])\.(?:\s|$)|\s(?:because|since|which|as)\s")
_IS_NUMBER = re.compile(r"[-+]?[\d.,/]+")
_TOKEN = re.compile(r"[\u3400-\u9fff]|\w+|[^\w\s]")
LONGEST = 8
"""Longest answer in tokens that is extracted from a sentence."""


def read(completion: str, *, gold: str | None = None) -> tuple[str, str] | str:
    r"""The thought and the answer's text, with at least one `\boxed{}`, or the reason why they can't be separated.

    Args:
        completion: text with thought tags, or text without tags whose last line states the answer.
        gold: the row's answer; it tells which part of a sentence such as "the answer is 5 because …" is the answer.
    """
    text = _HEADING.sub("Answer: ", completion)
    if sections := _SECTIONS.fullmatch(text):
        reasoning = re.sub(r"</?(?:SUMMARY|CAPTION|REASONING)>", "", sections["thought"]).strip()
        return _whole(reasoning, _answer(sections["answer"].strip(), gold, longest=12))
    found = list(_THOUGHT.finditer(text))
    if len(found) > 1:
        return "two thoughts"
    rest = _THOUGHT.sub("", text).strip()
    thought = next((group for group in found[0].group("thought", "other") if group is not None), "") if found else None
    if thought is None and rest.count(THINK_END) == 1 and THINK_START not in rest:  # the template opened the thought
        thought, _, rest = (part.strip() for part in rest.partition(THINK_END))
    if _OPEN_THOUGHT.search(rest):
        return "a thought that isn't closed"
    if wrapped := _WRAPPED.search(rest):
        rest = next(group for group in wrapped.groups() if group is not None).strip()
    if _OPEN_ANSWER.search(rest):
        return "an answer that isn't closed"
    if thought is None:
        return _whole(*_without_tags(rest, gold))
    return _whole(thought.strip(), _answer(rest, gold, longest=12 if wrapped else 4))


def tokens_of(text: str) -> list[str]:
    """Words, single Chinese characters and signs; lengths and overlaps count these, independently of a tokenizer."""
    return _TOKEN.findall(text.casefold())


def _whole(thought: str, answer: str) -> tuple[str, str] | str:
    if not thought:
        return "no thought"
    return (thought, answer) if answer else "no answer"


def _answer(text: str, gold: str | None, *, longest: int) -> str:
    """The answer after a thought: the text with its box, the answer that it states, or all of it if it is short."""
    if final_answer(text):
        return text
    if said := _said(text, gold):
        return said
    short = "\n" not in text and len(tokens_of(text)) <= longest
    return _box(text, gold) if short else ""


def _without_tags(text: str, gold: str | None) -> tuple[str, str]:
    """Text without tags: the thought is everything before the statement of the answer."""
    lines = text.splitlines()
    for number in range(len(lines) - 1, -1, -1):
        line, match = lines[number], _SAID.search(lines[number])
        if final_answer(line):
            if number and lines[number - 1].strip() in ("\\[", "$$"):  # the box is displayed mathematics
                return _joined(lines[: number - 1]), "\n".join(lines[number - 1 : number + 2]).strip()
            start = match.start() if match else _sentence_start(line)
            return _joined([*lines[:number], line[:start]]), line[start:].strip()
        if match and (answer := _said(line, gold)):
            return _joined([*lines[:number], line[: match.start()]]), answer
    return text, ""


def _joined(lines: list[str]) -> str:
    return "\n".join(lines).strip().rstrip(",，")


def _sentence_start(line: str) -> int:
    """The start of the phrase that contains the box, in a line that also contains reasoning."""
    box = line.find("\\boxed")
    marks = [mark for mark in (". ", "。", ", so ", ": ") if mark in line[:box]]
    return max((line.rfind(mark, 0, box) + len(mark) for mark in marks), default=0)


def _said(text: str, gold: str | None) -> str:
    """The answer that the end of a text states, boxed; empty if it states none."""
    said = _SAID.search(text)
    return _box(said["answer"], gold) if said else ""


def _box(answer: str, gold: str | None) -> str:
    """A stated answer, boxed: the gold answer if the text starts with it, else its first clause if that is short."""
    answer = re.sub(r"^(?:\*\*|\$)+|(?:\*\*|\$)+$", "", answer.strip().rstrip(".。")).strip()
    expected = (gold or "").strip().strip("$")
    if expected and answer.startswith(expected) and _ends(answer[len(expected) :], expected):
        return f"\\boxed{{{expected}}}"
    clause = _clause(answer)
    return f"\\boxed{{{clause}}}" if re.search(r"\w", clause) and len(tokens_of(clause)) <= LONGEST else ""


def _ends(rest: str, gold: str) -> bool:
    """True if the text after the gold answer ends it: nothing, a clause, an option's text or a Chinese unit."""
    if not rest.strip() or _CLAUSE_END.match(rest):
        return True
    if re.fullmatch(r"[A-H]", gold):
        return bool(re.match(r"[.)\]:：、]", rest))
    return bool(_IS_NUMBER.fullmatch(gold) and re.match(r"[\u3400-\u9fff]", rest))


def _clause(text: str) -> str:
    """The text before the first clause end outside brackets."""
    for end in _CLAUSE_END.finditer(text):
        before = text[: end.start()]
        if all(before.count(left) <= before.count(right) for left, right in ("()", "[]", "{}")):
            return before.strip()
    return text.strip()
