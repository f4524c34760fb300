"""Writes traces, a few rollouts of each step with question, images, text and rewards, and selects extremes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from sail_rl.contracts import Message, Prompt, Rollout, Scores
from sail_rl.files import atomic_path
from sail_rl.messages import texts_of
from sail_rl.pictures import as_rgb
from sail_rl.run_dir import RunDir

from .jsonl import Record, append_jsonl, finite


class TraceWriter:
    """Appends traces to `run_dir`/traces.jsonl, and saves each distinct image once, under the hash of its content."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    def write(
        self, stage: str, step: int, prompts: Sequence[Prompt], rollouts: Sequence[Rollout], scores: Scores, limit: int
    ) -> list[Record]:
        """Write up to `limit` of the step's rollouts (rollout `i` answers prompt `i`) and return their records.

        The traces alternate between high and low rewards, so that averages over them are meaningless.
        """
        records = []
        for index in extremes(scores.total, limit, groups=[prompt.id for prompt in prompts]):
            prompt, rollout = prompts[index], rollouts[index]
            answer = prompt.columns.get("answer")
            record = {
                "stage": stage,
                "step": step,
                "prompt_id": prompt.id,
                "sample": rollout.sample,
                "question": question_text(prompt.messages),
                "images": [self._save(image) for image in prompt.images],
                "answer": None if answer is None else str(answer),
                "completion": rollout.text,
                "stop_reason": rollout.stop_reason,
                "tokens": len(rollout.token_ids),
                "weights_version": rollout.weights_version,
                "total": scores.total[index],
                "rewards": {name: values[index] for name, values in scores.parts.items()},
            }
            append_jsonl(RunDir(self.run_dir).traces, record)
            records.append(finite(record))
        return records

    def _save(self, image: Image.Image) -> str:
        """Save the image unless its file exists; returns its path relative to the run's folder."""
        content = f"{image.mode} {image.size} ".encode() + image.tobytes()
        path = RunDir(self.run_dir).trace_images / f"{hashlib.sha256(content).hexdigest()[:24]}.png"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            with atomic_path(path) as partial:
                as_rgb(image).save(partial, format="PNG")
        return str(path.relative_to(self.run_dir))


def question_text(messages: Sequence[Message]) -> str:
    """The text of the last user message; empty without one."""
    for message in reversed(messages):
        if message["role"] == "user":
            return "\n".join(texts_of([message]))
    return ""


def side_by_side(paths: Sequence[Path], *, height: int = 384) -> Image.Image | None:
    """The pictures at `paths` joined into one, at most `height` pixels high, for one W&B cell; None without paths."""
    pictures = []
    for path in paths:
        with Image.open(path) as file:
            scale = min(1.0, height / file.height)
            size = (max(1, round(file.width * scale)), max(1, round(file.height * scale)))
            pictures.append(as_rgb(file).resize(size))
    if not pictures:
        return None
    row = Image.new("RGB", (sum(p.width for p in pictures), max(p.height for p in pictures)), "white")
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width
    return row


def extremes(totals: Sequence[float], limit: int, *, groups: Sequence[str]) -> list[int]:
    """Indices of up to `limit` rollouts, with high and low totals in turn; groups repeat only after all others."""
    rest = sorted(range(len(totals)), key=lambda index: totals[index], reverse=True)
    chosen: list[int] = []
    used: set[str] = set()
    while rest and len(chosen) < limit:
        candidates = rest if len(chosen) % 2 == 0 else rest[::-1]
        index = next((index for index in candidates if groups[index] not in used), None)
        if index is None:
            used.clear()
            index = candidates[0]
        used.add(groups[index])
        chosen.append(index)
        rest.remove(index)
    return chosen
