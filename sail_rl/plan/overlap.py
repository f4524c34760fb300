"""Counts held-out rows that training data has, too: the same question about the same pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from PIL import Image

from sail_rl.config import Recipe
from sail_rl.curation.prompts import normalised, question_of
from sail_rl.data.dataset import Rows
from sail_rl.data.images import content_of
from sail_rl.data.mixture import sources_of


@dataclass(frozen=True, slots=True)
class Overlap:
    """How many of the `rows` of a held-out dataset a training dataset has, too."""

    heldout: str
    training: str
    rows: int
    shared: int

    def __str__(self) -> str:
        return (
            f"data {self.heldout}: {self.shared} of {self.rows} held-out rows are in {self.training}, too (the same "
            "question and pictures)"
        )


def overlaps(recipe: Recipe, datasets: Mapping[str, Rows]) -> list[Overlap]:
    """The overlap of each held-out dataset with each dataset that a stage trains on, of those that are here.

    Questions are compared without case, spacing and punctuation; pictures and videos by the bytes of their files, so
    pictures that were saved anew differ. Curation's `decontaminate` compares how they look.
    """
    sources = [name for stage in recipe.training for name in sources_of(recipe.data.mixtures, stage.data)]
    trained = list(dict.fromkeys(recipe.origin(name) for name in sources))
    used = {*recipe.evaluation.sets, *trained} & datasets.keys()
    questions = {name: _questions(datasets[name]) for name in used}
    found = []
    for heldout, training in product(recipe.evaluation.sets, trained):
        if {heldout, training} <= used:
            common = set(questions[heldout]) & set(questions[training])  # only these rows' pictures are read
            known = set(_contents(datasets[training], questions[training], common))
            shared = sum(content in known for content in _contents(datasets[heldout], questions[heldout], common))
            found.append(Overlap(heldout, training, len(datasets[heldout]), shared))
    return found


def _questions(rows: Rows) -> list[str]:
    return [normalised(question_of(rows.raw(index)["prompt"])) for index in range(len(rows))]


def _contents(rows: Rows, questions: list[str], common: set[str]) -> Iterator[bytes]:
    """The hashes of the rows with a common question: of the question and of all pictures, in order."""
    for index, question in enumerate(questions):
        if question in common:
            digest = hashlib.blake2b(question.encode())
            for source in _pictures(rows.raw(index)):
                digest.update(_content_hash(source, rows))
            yield digest.digest()


def _pictures(row: Mapping[str, Any]) -> list[Any]:
    """The row's undecoded images, frames or video."""
    given = [row.get("image"), *(row.get("images") or ())]
    video = row.get("video")
    return [source for source in (*given, *(video if isinstance(video, list) else [video])) if source is not None]


def _content_hash(source: Any, rows: Rows) -> bytes:
    if isinstance(source, Image.Image):
        return hashlib.blake2b(repr((source.mode, source.size)).encode() + source.tobytes()).digest()
    digest = hashlib.blake2b()
    with content_of(source, rows.root) as content:
        while chunk := content.read(2**20):
            digest.update(chunk)
    return digest.digest()
