"""The verdicts of the three judges."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sail_rl.endpoint.replies import Verdict


class AnswerVerdict(Verdict):
    """Whether a free-form answer is right."""

    correct: Literal[0, 1] = Field(description="1 if the answer means the same as the reference answer, else 0")


class ThinkVerdict(Verdict):
    """Whether a thought is sound: the three verdicts of SAIL-RL's thinking reward (arXiv 2511.02280)."""

    logical_coherence: Literal[0, 1] = Field(
        description="1 if every step follows from what comes before it, without contradiction or jump, else 0"
    )
    factual_grounding: Literal[0, 1] = Field(
        description="1 if no statement contradicts what the images show, then what the question says, then what is "
        "generally known, and nothing is made up, else 0"
    )
    answer_consistency: Literal[0, 1] = Field(
        description="1 if the final answer is the one that the reasoning arrives at, else 0"
    )

    @property
    def mean(self) -> float:
        """Mean of the three verdicts, in [0, 1]."""
        return (self.logical_coherence + self.factual_grounding + self.answer_consistency) / 3


class ComplexityVerdict(Verdict):
    """Whether a question needs thinking before it is answered."""

    needs_thinking: Literal[0, 1] = Field(
        description="1 if the question takes several steps of reasoning, 0 if a direct answer is enough"
    )
