"""Sample traces: what the policy was asked, saw, thought and answered, and how each reward judged it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from sail_rl.contracts import Message, Prompt, Rollout, Scores

from .records import append_record


class TraceWriter:
    """Appends traces to `traces.jsonl`; images go once, by content, to `trace_images/`."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / "traces.jsonl"
        self.images = run_dir / "trace_images"

    def write(
        self,
        stage: str,
        step: int,
        prompts: Sequence[Prompt],
        rollouts: Sequence[Rollout],
        scores: Scores,
        *,
        limit: int,
    ) -> list[int]:
        """Write `limit` rollouts spread over the batch; returns their indices."""
        chosen = sorted({round(i * (len(rollouts) - 1) / max(limit - 1, 1)) for i in range(limit)})
        for index in chosen:
            prompt, rollout = prompts[index], rollouts[index]
            record = {
                "stage": stage,
                "step": step,
                "prompt_id": prompt.id,
                "sample": rollout.sample,
                "question": question(prompt.messages),
                "answer": prompt.columns.get("answer"),
                "completion": rollout.text,
                "stop_reason": rollout.stop_reason,
                "tokens": len(rollout.token_ids),
                "weights_version": rollout.weights_version,
                "total": scores.total[index],
                "rewards": {name: values[index] for name, values in scores.parts.items()},
                "images": [self._save(image) for image in prompt.images],
            }
            append_record(self.path, record)
        return chosen

    def _save(self, image: Image.Image) -> str:
        name = hashlib.sha256(image.tobytes() + str(image.size).encode()).hexdigest()[:16] + ".png"
        if not (self.images / name).exists():
            self.images.mkdir(exist_ok=True)
            image.save(self.images / name)
        return f"{self.images.name}/{name}"


def question(messages: Sequence[Message]) -> str:
    """Text of the last user message."""
    content: Any = next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part["type"] == "text")
