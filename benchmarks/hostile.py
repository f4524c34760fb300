"""Completions of a degenerate policy: one token repeated thousands of times, in its box and around it."""

from __future__ import annotations

import random

Case = tuple[str, str]  # gold answer, completion
LENGTHS = 4096, 16_384  # tokens
TOKENS = {
    "digits": "7",
    "numbers": "12 ",
    "wrappers": "\\text{",
    "powers": "x^",
    "towers": "9^",
    "braces": "{",
    "brackets": "(",
    "sized brackets": "\\left(",
    "boxes": "\\boxed{",
    "fractions": "\\frac",
    "nested fractions": "\\frac{1}{",
    "commas": ",",
    "items": "1,",
    "roots": "\\sqrt",
    "characters": "的",
    "numerals": "十",
    "spaces": " ",
    "lines": "\n",
    "emoji": "😀",
    "equations": "x=",
    "signs": "--1",
    "plus-minus": "\\pm",
    "alternatives": "1 or ",
    "percents": "%",
    "factorials": "!",
    "units": " cm",
    "options": "\nA. ",
    "letters": "(A) ",
    "numbered": "(1) ",
    "thoughts": "<think>",
    "ends of thoughts": "</think>",
    "reversed items": "",  # not a token: a set of as many items, which the gold answer has in the other order
}
PLACES = "closed box", "open box", "thought", "answer"


def repeated(kind: str, length: int, place: str, gold: str) -> Case:
    """A gold answer, and a completion with one of TOKENS `length` times at one of PLACES."""
    token = TOKENS[kind]
    text = token * length
    if not token:
        numbers = [str(number) for number in range(length)]
        gold, text = (f"\\{{{','.join(items)}\\}}" for items in (numbers, numbers[::-1]))
    match place:
        case "closed box":
            return gold, f"<think>so</think>The answer is $\\boxed{{{text}}}$."
        case "open box":
            return gold, f"<think>so</think>The answer is $\\boxed{{{text}"
        case "thought":
            return gold, f"<think>{text}</think>The answer is $\\boxed{{1}}$."
    return gold, f"<think>so</think>{text}The answer is $\\boxed{{1}}$."


def attack(count: int, seed: int, lengths: tuple[int, ...] = LENGTHS) -> list[Case]:
    """`count` completions that go through all kinds, lengths and places in a random order."""
    every = [(kind, length, place) for length in lengths for kind in TOKENS for place in PLACES]
    rng = random.Random(seed)
    rng.shuffle(every)
    return [repeated(*every[number % len(every)], gold=str(rng.randint(1, 999))) for number in range(count)]
