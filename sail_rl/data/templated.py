"""Recognises texts that are already rendered with a chat template, which would be rendered twice."""

from __future__ import annotations

import re

START = re.compile(
    r"\s*(?:<s>|<bos>|<\|begin_of_text\|>|<\|endoftext\|>)?\s*"
    r"(?:<\|im_start\|>\s*(?:system|user|assistant)\b|<\|start_header_id\|>|<start_of_turn>|<\|(?:system|user)\|>|\[INST\])"
)
TURN = re.compile(
    r"<\|im_end\|>|<\|im_start\|>assistant|<\|eot_id\|>|<\|start_header_id\|>assistant|<end_of_turn>|<start_of_turn>model"
    r"|<\|assistant\|>|\[/INST\]"
)


def refuse_templated(text: str, column: str) -> None:
    """Raise ValueError for a text that begins with the start of a turn and also has a turn's end, or an answer's start.

    Args:
        text: a prompt's or a completion's text.
        column: its name, for the message.
    """
    start = START.match(text)
    if start and TURN.search(text, start.end()):
        raise ValueError(
            f"{column!r} is already rendered with a chat template (it begins {text[:60]!r}); give the plain texts, or "
            "the conversation as a list of messages, because the model's template is applied to them"
        )
