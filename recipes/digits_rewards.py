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
