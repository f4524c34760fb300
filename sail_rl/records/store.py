"""Stores all rollouts of a run in Parquet files: `rollouts/STAGE/step-NNNNNN-rank-R-K.parquet`."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from sail_rl.contracts import Prompt, Rollout, Scores
from sail_rl.files import atomic_path
from sail_rl.run_dir import RunDir

logger = logging.getLogger(__name__)
SHARD = re.compile(r"step-(\d+)-rank-(\d+)-(\d+)\.parquet")
SCHEMA = pyarrow.schema(
    [
        ("stage", pyarrow.string()),
        ("step", pyarrow.int64()),
        ("prompt_id", pyarrow.string()),  # id of the row in the stage's dataset, which has the images
        ("sample", pyarrow.int64()),
        ("prompt", pyarrow.string()),
        ("answer", pyarrow.string()),
        ("completion", pyarrow.string()),
        ("token_ids", pyarrow.list_(pyarrow.int32())),
        ("logprobs", pyarrow.list_(pyarrow.float32())),
        ("stop_reason", pyarrow.string()),
        ("weights_version", pyarrow.int64()),
        ("earlier", pyarrow.list_(pyarrow.int64())),  # weight versions of the first tokens, where they are older
        ("control_tokens", pyarrow.int64()),  # sampled before the end of the turn
        ("total", pyarrow.float64()),
        ("rewards", pyarrow.list_(pyarrow.struct([("name", pyarrow.string()), ("value", pyarrow.float64())]))),
    ]
)


@dataclass(frozen=True, slots=True)
class StoredRollout:
    """A rollout of one step of a stage, with its scores.

    `prompt` is the rendered text, `answer` the gold answer as text. `rewards` holds every reward and every part of the
    total by name; NaN means that the rollout has no such score.
    """

    stage: str
    step: int
    prompt: str
    answer: str | None
    rollout: Rollout
    total: float
    rewards: dict[str, float]

    def to_row(self) -> dict[str, Any]:
        """The row of a Parquet file, see SCHEMA."""
        rollout = self.rollout
        return {
            "stage": self.stage,
            "step": self.step,
            "prompt_id": rollout.prompt_id,
            "sample": rollout.sample,
            "prompt": self.prompt,
            "answer": self.answer,
            "completion": rollout.text,
            "token_ids": rollout.token_ids,
            "logprobs": rollout.logprobs,
            "stop_reason": rollout.stop_reason,
            "weights_version": rollout.weights_version,
            "earlier": rollout.earlier,
            "control_tokens": rollout.control_tokens,
            "total": self.total,
            "rewards": [{"name": name, "value": value} for name, value in self.rewards.items()],
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> StoredRollout:
        """The inverse of `to_row`."""
        names = ("prompt_id", "sample", "token_ids", "logprobs", "stop_reason", "weights_version", "earlier")
        rollout = Rollout(text=row["completion"], **{name: row[name] for name in (*names, "control_tokens")})
        rewards = {part["name"]: part["value"] for part in row["rewards"]}
        return cls(row["stage"], row["step"], row["prompt"], row["answer"], rollout, row["total"], rewards)


class RolloutStore:
    """Writes one rank's rollouts, one file for each round of sampling; a kill leaves only complete files.

    Args:
        run_dir: the run's folder.
        rank: this process's number.
        max_gib: this rank's limit in GiB. Above it the oldest files are deleted; a warning says so once.
    """

    def __init__(self, run_dir: Path, *, rank: int = 0, max_gib: float = 4.0) -> None:
        self.folder = RunDir(run_dir).rollouts
        self.rank = rank
        self.max_bytes = int(max_gib * 2**30)
        self._warned = False

    def write(
        self, stage: str, step: int, prompts: Sequence[Prompt], rollouts: Sequence[Rollout], scores: Scores
    ) -> Path:
        """Write the rollouts of one round; rollout `i` answers prompt `i`."""
        rows = []
        for index, (prompt, rollout) in enumerate(zip(prompts, rollouts, strict=True)):
            answer = prompt.columns.get("answer")
            rewards = {name: values[index] for name, values in scores.parts.items()}
            gold = None if answer is None else str(answer)
            stored = StoredRollout(stage, step, prompt.text, gold, rollout, scores.total[index], rewards)
            rows.append(stored.to_row())
        folder = self.folder / stage
        folder.mkdir(parents=True, exist_ok=True)
        name = f"step-{step:06d}-rank-{self.rank}"
        path = folder / f"{name}-{len(list(folder.glob(f'{name}-*.parquet')))}.parquet"
        with atomic_path(path) as partial:
            parquet.write_table(pyarrow.Table.from_pylist(rows, schema=SCHEMA), partial, compression="zstd")
        self._shrink()
        return path

    def rollback(self, stage: str, step: int, *, ranks: int = 1) -> None:
        """Delete this rank's part of what `stage` wrote after `step`, because those steps will run again.

        Every one of the job's `ranks` calls it. An earlier job may have had more.
        """
        for path, written, rank in _shards(self.folder / stage):
            if written > step and rank % ranks == self.rank:
                path.unlink()

    def _shrink(self) -> None:
        own = [path for path, _, rank in _shards(self.folder) if rank == self.rank]
        own.sort(key=lambda path: path.stat().st_mtime)
        size = sum(path.stat().st_size for path in own)
        while size > self.max_bytes and len(own) > 1:
            if not self._warned:
                logger.warning("%s exceeds its size limit; from now on, the oldest rollouts are deleted", self.folder)
                self._warned = True
            size -= own[0].stat().st_size
            own.pop(0).unlink()


def read_rollouts(run_dir: Path, *, stage: str | None = None, step: int | None = None) -> list[StoredRollout]:
    """The stored rollouts of a run, or of one stage or step, in order of stage, step and rank.

    Raises:
        ValueError: if there are none; names the stored steps and stages.
    """
    found = _shards(RunDir(run_dir).rollouts)
    shards = sorted(found, key=lambda shard: (shard[0].parent.name, shard[1], shard[0].name))
    chosen = [path for path, written, _ in shards if stage in (None, path.parent.name) and step in (None, written)]
    if not chosen:
        stored = sorted({(path.parent.name, written) for path, written, _ in shards})
        stages = ", ".join({name for name, _ in stored})
        known = f"; it has steps {stored[0][1]} to {stored[-1][1]} of {stages}" if stored else ""
        raise ValueError(f"{run_dir} has no rollouts of stage {stage or 'any'}, step {step or 'any'}{known}")
    tables = (parquet.read_table(path, schema=SCHEMA) for path in chosen)
    return [StoredRollout.from_row(row) for table in tables for row in table.to_pylist()]


def _shards(folder: Path) -> list[tuple[Path, int, int]]:
    """The path, step and rank of every file below `folder`."""
    found = [(path, SHARD.fullmatch(path.name)) for path in folder.rglob("*.parquet")]
    return [(path, int(match[1]), int(match[2])) for path, match in found if match]
