"""Offline sampling: n scored rollouts for each row of a dataset, in Parquet, resumable; pass@k at the end."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import AutoProcessor

from sail_rl.config import RewardConfig
from sail_rl.contracts import Prompt, RolloutEngine, Sampling, Scorer
from sail_rl.data.dataset import Rows
from sail_rl.data.encoding import Encoder
from sail_rl.imports import resolve
from sail_rl.maths.passk import pass_at_k
from sail_rl.models.loading import load_model
from sail_rl.reporting.store import RolloutStore, read_rollouts
from sail_rl.seeding import derive_seed

from .scoring import plain_scorer

STAGE = "sample"


@dataclass(frozen=True, slots=True)
class SampleOptions:
    """What to sample: see `sail-rl sample --help`."""

    model: Path
    data: Path
    out: Path
    n: int = 8
    rewards: tuple[str, ...] = ("rewards.answer:math_answer",)
    engine: str = "rollouts.vllm_engine:VLLMEngine"
    dtype: str = "float32"
    max_length: int = 1024
    max_tokens: int = 256
    temperature: float = 1.0
    seed: int = 0
    batch_size: int = 64


def sample(options: SampleOptions) -> dict[str, float]:
    """Sample what isn't there yet and return mean reward and pass@k over all rows.

    Rows are sampled in batches; a batch's file is whole or absent, so the same command goes on after a kill. A prompt's
    seed depends on its id alone: results don't depend on where a run was stopped.
    """
    rows = Rows(options.data)
    store = RolloutStore(options.out, max_gib=1e6)
    done = _batches_done(options.out)
    batches = [
        range(start, min(start + options.batch_size, len(rows))) for start in range(0, len(rows), options.batch_size)
    ]
    missing = [number for number in range(len(batches)) if number not in done]
    if missing:
        encoder = Encoder(AutoProcessor.from_pretrained(options.model), max_length=options.max_length)
        engine, scorer = _engine(options), _scorer(options)
        try:
            for number in _progress(missing, store, total=len(batches)):
                prompts = [encoder.prompt(rows[index]) for index in batches[number]]
                _sample_batch(number, prompts, options, engine, scorer, store)
        finally:
            scorer.close()
            engine.close()
    return summary(read_rollouts(options.out, stage=STAGE), options.n)


def summary(rollouts: Sequence[dict[str, Any]], n: int) -> dict[str, float]:
    """Mean total, mean length and pass@k for k = 1, 2, 4, … n; a rollout is right when its total is above 0.5."""
    right: dict[str, list[bool]] = defaultdict(list)
    for rollout in rollouts:
        right[rollout["prompt_id"]].append(rollout["total"] > 0.5)
    metrics = {
        "rollouts": float(len(rollouts)),
        "reward": sum(rollout["total"] for rollout in rollouts) / len(rollouts),
        "tokens": sum(len(rollout["token_ids"]) for rollout in rollouts) / len(rollouts),
    }
    for k in sorted({2**power for power in range(n.bit_length()) if 2**power <= n} | {n}):
        chances = [pass_at_k(sum(group), len(group), k) for group in right.values()]
        metrics[f"pass@{k}"] = sum(chances) / len(chances)
    return metrics


def _sample_batch(
    number: int,
    prompts: list[Prompt],
    options: SampleOptions,
    engine: RolloutEngine,
    scorer: Scorer,
    store: RolloutStore,
) -> None:
    sampling = Sampling(options.n, options.max_tokens, options.temperature, derive_seed(options.seed, "sample"))
    if options.temperature == 0:
        sampling = replace(sampling, samples_per_prompt=1)
    groups = engine.generate(prompts, sampling)
    repeated = [prompt for prompt, group in zip(prompts, groups, strict=True) for _ in group]
    rollouts = [rollout for group in groups for rollout in group]
    store.write(STAGE, number, repeated, rollouts, scorer(repeated, rollouts))


def _engine(options: SampleOptions) -> RolloutEngine:
    engine: RolloutEngine = resolve(options.engine)(
        options.model, max_model_len=options.max_length, dtype=options.dtype
    )
    engine.push_weights(1, load_model(options.model, dtype=getattr(torch, options.dtype)).named_parameters())
    return engine


def _scorer(options: SampleOptions) -> Scorer:
    share = 1 / len(options.rewards)
    names = [path.rsplit(":", 1)[-1] for path in options.rewards]
    rewards = {name: RewardConfig(path=path, weight=share) for name, path in zip(names, options.rewards, strict=True)}
    return plain_scorer(rewards)


def _batches_done(out: Path) -> set[int]:
    try:
        return {rollout["step"] for rollout in read_rollouts(out, stage=STAGE)}
    except ValueError:
        return set()


def _progress(missing: Sequence[int], store: RolloutStore, *, total: int) -> Iterator[int]:
    """The batches to do, with a bar that shows tokens a second and the time that is left."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"), TimeRemainingColumn())
    with Progress(TextColumn("sampling"), *columns) as bar:
        task = bar.add_task("sampling", total=total, completed=total - len(missing), speed="")
        for number in missing:
            start = time.perf_counter()
            yield number
            tokens = sum(len(r["token_ids"]) for r in read_rollouts(store.folder.parent, stage=STAGE, step=number))
            bar.update(task, advance=1, speed=f"{tokens / (time.perf_counter() - start):,.0f} tokens/s")
