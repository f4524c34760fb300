"""Guided chain of thought: a rollout engine writes thoughts, given the answers that they must lead to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from transformers import AutoProcessor

from sail_rl.completion import THINK_END, THINK_START, final_answer
from sail_rl.config.curation import GuidedCoT
from sail_rl.contracts import Sampling
from sail_rl.data.encoding import Encoder
from sail_rl.files import sampled_hash, short_hash
from sail_rl.messages import as_messages, as_parts, image_count
from sail_rl.models.folder import ModelFolder, check_model_folder
from sail_rl.models.merging import load_engine
from sail_rl.records.jsonl import append_jsonl, read_jsonl

from .prompts import normalised

REQUEST = (
    "\n\nThe reference answer is: {answer}\nReason step by step from what is to be seen to this answer, as if you "
    "didn't know it, inside <think> and </think>. Then give it in \\boxed{{}}."
)


class EngineWriter:
    """Writes thoughts with a rollout engine, and saves them in a file, so that a kill loses at most one batch.

    Args:
        config: the model, the engine and the sampling settings.
        notes: the JSON-lines file (key, thought).
        seed: the sampling seed.
    """

    def __init__(self, config: GuidedCoT, notes: Path, *, seed: int) -> None:
        assert config.model is not None
        check_model_folder(config.model)
        self.notes = notes
        self._settings = [config.model_dump(mode="json", exclude={"model"}), sampled_hash(config.model), seed]
        self._written = {record["key"]: record["thought"] for record in read_jsonl(notes)} if notes.exists() else {}
        self._encoder = Encoder(AutoProcessor.from_pretrained(config.model), max_length=config.max_length)
        folder = ModelFolder(config.model)
        self._engine = load_engine(config.engine, folder, max_length=config.max_length, dtype=config.dtype)
        self._sampling = Sampling(1, config.max_tokens, config.temperature, seed)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._engine.close()

    def think(self, rows: Sequence[Mapping[str, Any]]) -> list[str | None]:
        """A thought for each row; None if it doesn't end, has a control token, or leads to another answer."""
        keys = [self._key(row) for row in rows]
        missing = [(key, row) for key, row in zip(keys, rows, strict=True) if key not in self._written]
        prompts = [self._encoder.prompt(self._guided(row)) for _, row in missing]
        groups = self._engine.generate(prompts, self._sampling) if prompts else []
        for (key, row), (rollout,) in zip(missing, groups, strict=True):
            clean = not rollout.control_tokens
            self._written[key] = self._thought(rollout.text, str(row["answer"])) if clean else None
            append_jsonl(self.notes, {"key": key, "thought": self._written[key]})
        return [self._written[key] for key in keys]

    def _key(self, row: Mapping[str, Any]) -> str:
        """The hash of everything that a thought depends on."""
        pictures = [hashlib.sha256(picture.tobytes()).hexdigest() for picture in row["images"]]
        return short_hash([self._settings, row["id"], row["prompt"], row["answer"], pictures])

    def _guided(self, row: Mapping[str, Any]) -> dict[str, Any]:
        request = REQUEST.format(answer=row["answer"])
        prompt = as_messages(row["prompt"])
        last = max(number for number, message in enumerate(prompt) if message["role"] == "user")
        asked = [_appended(m, request) if number == last else m for number, m in enumerate(prompt)]
        if row["images"] and not image_count(asked):
            parts = [{"type": "image"} for _ in row["images"]]
            asked[last] = asked[last] | {"content": [*parts, *as_parts(asked[last]["content"])]}
        return {**row, "prompt": asked}

    def _thought(self, text: str, answer: str) -> str | None:
        thought, end, rest = text.partition(THINK_END)
        said = final_answer(rest) if end else None
        if not end or (said is not None and normalised(said) != normalised(answer)):
            return None
        return thought.lstrip().removeprefix(THINK_START).strip() or None


def _appended(message: Mapping[str, Any], text: str) -> dict[str, Any]:
    return {**message, "content": [*as_parts(message["content"]), {"type": "text", "text": text}]}
