"""The instructions of the three judges, and reading replacements from a file."""

from __future__ import annotations

from pathlib import Path

from sail_rl.paths import expanded

ANSWER = """\
You grade answers. Compare the answer with the reference answer to the same question. It is right if it means the \
same: other wording, spelling, notation, order of a set, an equal number or unit, or more detail that doesn't \
contradict the reference are fine. It is wrong if it says something else, leaves out a part that the question asks \
for, hedges between several answers, or gives no answer. Trust the reference even where you would answer otherwise: \
don't solve the question."""

THINK = """\
You examine the reasoning that led to an answer. Give three verdicts, each on its own merits:
1. Logical coherence: does every step follow from what comes before it, without contradiction, circle or unexplained \
jump?
2. Factual grounding: are the statements true? Check them against the images first, then against the text of the \
question, then against general knowledge. A detail that the images don't show is made up, however likely it is.
3. Answer consistency: is the final answer the one that the reasoning arrives at? The answer may be wrong and still \
consistent.
Reasoning that only repeats the answer, or talks about its own quality, is neither coherent nor grounded."""

WHEN_TO_THINK = """\
You decide whether a question should be thought about, step by step, before it is answered. It should if it takes \
several steps: calculation, proof, comparing or combining several facts, planning, or reading a diagram and then \
reasoning about it. It should not if a look at the image or one known fact is enough: naming, reading out text, a \
visible colour, count or place, small talk. Judge what the question takes, not how it is worded."""


def read_template(path: str | Path) -> str:
    """Read instructions that replace a judge's own; requests still add the data rule and the verdict's format.

    Raises:
        ValueError: if the file can't be read or is empty.
    """
    try:
        text = expanded(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"template {path}: {error}; give a text file (UTF-8) with the judge's instructions") from error
    if not text:
        raise ValueError(f"template {path} is empty; write the judge's instructions into it")
    return text
