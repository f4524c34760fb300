"""`sail-rl data curate`: runs a curation recipe's steps and records counts, and a reason for each dropped row."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import imagehash

from sail_rl.config.curation import (
    BalanceLengths,
    CaptionQuality,
    CurationRecipe,
    Decontaminate,
    Dedupe,
    DistillAnswers,
    FreeForm,
    GuidedCoT,
    Redundancy,
    Step,
    StripPrompts,
    Unify,
)
from sail_rl.config.sections import SourceConfig
from sail_rl.data.broken import checked_pictures
from sail_rl.data.dataset import Rows
from sail_rl.data.hub import fetched
from sail_rl.data.saving import save_rows
from sail_rl.files import atomic_write
from sail_rl.lock import locked_output

from .choices import by_rule, free_form
from .completions import drop_redundant, unify
from .curator import Curator
from .duplicates import Hashes, decontaminate, dedupe
from .guided import EngineWriter
from .judged import caption_quality, distill_answers, guide
from .lengths import balance_lengths
from .outcome import Outcome, Row
from .prompts import HINTS, question_of, strip_prompts

logger = logging.getLogger(__name__)
CHUNK = 256
"""Number of rows whose pictures are in memory at once."""
PICTURES = ("images", "video")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StepCounts:
    """The row counts of one step."""

    step: str
    rows_in: int
    rows_out: int
    changed: int
    dropped: dict[str, int]


def curate(recipe: CurationRecipe) -> list[StepCounts]:
    """Run the steps, and write `.dropped.jsonl` (id, step, reason), `.counts.json` and, when both are there, `out`.

    Raises:
        ValueError: for unusable data, or if a step drops all remaining rows.
    """
    with locked_output(recipe.out):
        return _curate(recipe)


def _curate(recipe: CurationRecipe) -> list[StepCounts]:
    work = _Curation(recipe)
    rows, dropped, counts = work.rows, [], []
    for step in recipe.steps:
        outcome = work.run(step, rows)
        counts.append(StepCounts(step.kind, len(rows), len(outcome.rows), outcome.changed, outcome.reasons))
        dropped += [{"id": name, "step": step.kind, "reason": reason} for name, reason in outcome.dropped]
        logger.info("%s: %d rows in, %d out, %d changed", step.kind, len(rows), len(outcome.rows), outcome.changed)
        rows = outcome.rows
        if not rows:
            raise ValueError(
                f"step {step.kind} drops all remaining rows: {outcome.reasons}; loosen the step or remove it"
            )
    columns = [name for name in dict.fromkeys(name for row in rows for name in row) if name != "index"]
    empty = {name for name in columns if all(row.get(name) is None for row in rows)}
    values = {name: [row.get(name) for row in rows] for name in columns if name not in empty}
    atomic_write(recipe.out.with_suffix(".dropped.jsonl"), "".join(json.dumps(entry) + "\n" for entry in dropped))
    atomic_write(recipe.out.with_suffix(".counts.json"), json.dumps([_as_json(c) for c in counts], indent=2) + "\n")
    save_rows(recipe.out, work.source, [row["index"] for row in rows], values, without=empty)
    return counts


class _Curation:
    """A curation recipe with its datasets and its judge, which are opened when needed."""

    def __init__(self, recipe: CurationRecipe) -> None:
        self.recipe = recipe
        self._opened: dict[str, Rows] = {}
        self.source = self._open(recipe.data)
        self.rows = [
            {name: value for name, value in self.source.raw(index).items() if name not in PICTURES} | {"index": index}
            for index in range(len(self.source))
        ]
        self._hashes: dict[int, Hashes] = {}

    def run(self, step: Step, rows: list[Row]) -> Outcome:
        """Run one step."""
        match step:
            case StripPrompts():
                return strip_prompts(rows, hints=HINTS if step.hints is None else step.hints)
            case Unify():
                return unify(rows)
            case Dedupe():
                return dedupe(rows, look=self._look, distance=step.distance)
            case Decontaminate():
                known = [entry for data in step.against for entry in _questions(self._open(data))]
                return decontaminate(
                    rows, known, look=self._look, distance=step.distance, pictures_alone=step.pictures_alone
                )
            case Redundancy():
                return drop_redundant(rows, limit=step.limit, least=step.least)
            case BalanceLengths():
                return balance_lengths(rows, edges=step.edges, most=step.most, seed=self.recipe.seed)
            case FreeForm():
                rewrite = self._asking(self.curator.free_form) if step.judge else by_rule
                return free_form(rows, rewrite=rewrite, drop_others=step.drop_others)
            case DistillAnswers():
                return distill_answers(rows, self._asking(self.curator.shorten), longest=step.longest)
            case CaptionQuality():
                return caption_quality(rows, self._asking(self.curator.rate), least=step.least)
            case GuidedCoT():
                return self._guide(step, rows)

    def _open(self, given: Path | SourceConfig) -> Rows:
        source = SourceConfig(path=given) if isinstance(given, Path) else given
        key = source.model_dump_json()
        if key not in self._opened:
            path = source.path or fetched(self.recipe.out.parent, "hub", **source.on_hub)
            frames = self.recipe.video_frames
            rows = Rows(path, video_frames=frames, columns=source.columns, root=source.root, keep_broken=True)
            listed = self.recipe.out.with_suffix(f".{path.stem}.broken.jsonl")
            self._opened[key] = checked_pictures(rows, dropped=listed if self.recipe.broken == "drop" else None)
        return self._opened[key]

    @cached_property
    def curator(self) -> Curator:
        """The judge that the steps ask; it caches verdicts beside `out` unless the recipe names a file."""
        assert self.recipe.judge is not None
        cache = self.recipe.out.with_suffix(".judge.sqlite")
        judge = self.recipe.judge
        return Curator(judge if "cache" in judge.model_fields_set else judge.model_copy(update={"cache": cache}))

    def _guide(self, step: GuidedCoT, rows: list[Row]) -> Outcome:
        if step.model is None:
            return guide(rows, self._asking(self.curator.think), again=step.again)
        notes = self.recipe.out.with_suffix(".thoughts.jsonl")
        with EngineWriter(step, notes, seed=self.recipe.seed) as writer:
            return guide(rows, self._asking(writer.think), again=step.again)

    def _asking(self, ask: Callable[[list[Row]], list[T]]) -> Callable[[Sequence[Row]], list[T]]:
        """`ask` for any number of rows, in chunks whose pictures fit in memory."""

        def asked(rows: Sequence[Row]) -> list[T]:
            found: list[T] = []
            for start in range(0, len(rows), CHUNK):
                chunk = [row | {"images": self._pictures(row)} for row in rows[start : start + CHUNK]]
                found += ask(chunk)
            return found

        return asked

    def _pictures(self, row: Row) -> list[Any]:
        source = self.source[row["index"]]
        return list(source["images"] or source["video"] or ())

    def _look(self, row: Row) -> Hashes:
        index = row["index"]
        if index not in self._hashes:
            self._hashes[index] = tuple(map(picture_hash, self._pictures(row)))
        return self._hashes[index]


def picture_hash(picture: Any) -> int:
    """A 64-bit perceptual hash (imagehash's phash), equal or close for pictures that look alike."""
    return int(str(imagehash.phash(picture)), 16)


def _questions(rows: Rows) -> Iterator[tuple[str, Hashes]]:
    for index in range(len(rows)):
        row = rows[index]
        yield question_of(row["prompt"]), tuple(map(picture_hash, row["images"] or row["video"] or ()))


def _as_json(counts: StepCounts) -> dict[str, Any]:
    return {"step": counts.step, "in": counts.rows_in, "out": counts.rows_out, "changed": counts.changed,
            "dropped": counts.dropped}  # fmt: skip
