"""A custom reward for the quickstart, as you would write your own: is what the thought says it sees really there?"""

import re


def reading(completions, digits, **columns):
    """Share of the four digits that the thought reads out correctly ("The digits are 3 5 8 1."), 0 to 1."""
    scores = []
    for completion, expected in zip(completions, digits, strict=True):
        text = completion[0]["content"]
        match = re.search(r"The digits are ((?:\d ?)*)", text)
        read = [int(digit) for digit in match.group(1).split()] if match else []
        right = sum(seen == there for seen, there in zip(read, expected, strict=False))
        scores.append(right / len(expected) if len(read) == len(expected) else 0.0)
    return scores


HARD = ("sum", "count")


def decision(completions, source, **columns):
    """1 where a hard question was thought about or an easy one wasn't, else 0."""
    thought = ["</think>" in completion[0]["content"] for completion in completions]
    return [float(thinks == (kind in HARD)) for thinks, kind in zip(thought, source, strict=True)]


def shape(completions, **columns):
    """1 for one box, with or without a thought before it, else 0."""
    pattern = r"(<think>[^<]+</think>)?\\boxed\{[^{}]+\}"
    return [float(re.fullmatch(pattern, completion[0]["content"].strip()) is not None) for completion in completions]
