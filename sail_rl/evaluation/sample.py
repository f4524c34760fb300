"""Offline sampling: writes n scored rollouts for each row of a dataset to Parquet files, and reports pass@k."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import AutoProcessor

from sail_rl.completion import THINK_END, final_answer
from sail_rl.config import RewardConfig
from sail_rl.config.result_settings import code_hashes
from sail_rl.contracts import RIGHT, Prompt, RolloutEngine, Sampling, Scorer
from sail_rl.data.broken import checked_pictures
from sail_rl.data.dataset import Rows
from sail_rl.data.encoding import Encoder
from sail_rl.files import atomic_write, content_hash, sampled_hash
from sail_rl.imports import code_file
from sail_rl.lock import locked
from sail_rl.maths.heldout import ACCURACY, source_of
from sail_rl.models.folder import ModelFolder, model_folder
from sail_rl.models.merging import check_adapter, load_engine
from sail_rl.plan.rewards import plain_scorer, warn_of_hidden
from sail_rl.records.store import RolloutStore, StoredRollout, read_rollouts
from sail_rl.run_dir import RunDir
from sail_rl.seeding import derive_seed

from .evaluate import ScoredCompletion, summarise

STAGE = "sample"


@dataclass(frozen=True, slots=True)
class SampleOptions:
    """The options of `sail-rl sample`; its `--help` describes them."""

    model: Path
    data: Path
    out: Path
    base: Path | None = None
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
    """Sample the rows that have no stored rollouts yet, and return the metrics of all rows, see `summary`.

    Rows are sampled in batches. A batch's file is complete or absent, so the same command resumes after a kill. A
    prompt's seed depends only on its id, so results don't depend on where a run was stopped.
    """
    _check_numbers(options)
    folder = model_folder(options.model, base=options.base)
    if folder.adapter:
        check_adapter(folder.adapter)
    rows = checked_pictures(Rows(options.data))
    warn_of_hidden(rows)
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out {options.out} is a file; give a folder, which may be new")
    options.out.mkdir(parents=True, exist_ok=True)
    with locked(RunDir(options.out).lock, of=options.out):
        _check_options(options, folder)
        return _sample(rows, options, folder)


def _sample(rows: Rows, options: SampleOptions, folder: ModelFolder) -> dict[str, float]:
    store = RolloutStore(options.out, max_gib=1e6)
    done = _batches_done(options.out)
    batches = [
        range(start, min(start + options.batch_size, len(rows))) for start in range(0, len(rows), options.batch_size)
    ]
    missing = [number for number in range(len(batches)) if number not in done]
    if missing:
        encoder = Encoder(AutoProcessor.from_pretrained(folder.model), max_length=options.max_length)
        engine = load_engine(options.engine, folder, max_length=options.max_length, dtype=options.dtype)
        scorer = _scorer(options)
        try:
            for number in _progress(missing, options.out, total=len(batches)):
                prompts = [encoder.prompt(rows[index]) for index in batches[number]]
                _sample_batch(number, prompts, options, engine, scorer, store)
        finally:
            scorer.close()
            engine.close()
    sources = {row["id"]: source_of(row) for row in map(rows.metadata, range(len(rows)))}
    return summary(read_rollouts(options.out, stage=STAGE), sources)


def summary(rollouts: Sequence[StoredRollout], sources: Mapping[str, str | None]) -> dict[str, float]:
    """`evaluate.summarise` of stored rollouts; a rollout is right if its total, called `reward`, is above RIGHT.

    Args:
        rollouts: as `read_rollouts` gives them.
        sources: each row's source by its id.
    """
    completions = [
        ScoredCompletion(
            dataset="",
            prompt=stored.rollout.prompt_id,
            source=sources.get(stored.rollout.prompt_id),
            answer=final_answer(stored.rollout.text),
            thought=THINK_END in stored.rollout.text,
            length=len(stored.rollout.token_ids),
            scores={ACCURACY: float(stored.total > RIGHT), "reward": stored.total},
        )
        for stored in rollouts
    ]
    return {"rollouts": float(len(completions))} | summarise(completions)


def _check_numbers(options: SampleOptions) -> None:
    for name in ("n", "batch_size", "max_tokens", "max_length"):
        if (value := getattr(options, name)) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; give at least 1")
    if options.max_tokens >= options.max_length:
        raise ValueError(
            f"--max-tokens {options.max_tokens} leaves no room for a prompt in --max-length {options.max_length}; "
            "lower the one, or raise the other"
        )
    if not 0 <= options.temperature < math.inf:
        raise ValueError(f"--temperature is {options.temperature:g}; give a number of at least 0")


def _check_options(options: SampleOptions, folder: ModelFolder) -> None:
    """Store the options; refuse a folder whose rollouts were sampled with other options."""
    path = options.out / "options.json"
    own = json.loads(json.dumps(asdict(options) | {"out": None}, default=str))
    # The contents count, not the places.
    own["data"], own["model"] = content_hash(options.data), sampled_hash(options.model)
    own["base"] = sampled_hash(folder.model) if folder.adapter else None
    own["rewards"] = [Path(reward).name if code_file(reward) else reward for reward in options.rewards]
    own["code"] = [list(found) for found in code_hashes(list(options.rewards))]
    if path.exists() and (before := json.loads(path.read_text())) != own:
        differing = [name for name in own if own[name] != before.get(name)]
        raise ValueError(f"{options.out} holds rollouts of another {', '.join(differing)}; give another --out")
    atomic_write(path, json.dumps(own, indent=2) + "\n")


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


def _scorer(options: SampleOptions) -> Scorer:
    share = 1 / len(options.rewards)
    names = [path.rsplit(":", 1)[-1] for path in options.rewards]
    rewards = {name: RewardConfig(path=path, weight=share) for name, path in zip(names, options.rewards, strict=True)}
    return plain_scorer(rewards)


def _batches_done(out: Path) -> set[int]:
    try:
        return {stored.step for stored in read_rollouts(out, stage=STAGE)}
    except ValueError:
        return set()


def _progress(missing: Sequence[int], out: Path, *, total: int) -> Iterator[int]:
    """Yield the missing batches; show a progress bar with tokens per second and the remaining time."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"), TimeRemainingColumn())
    with Progress(TextColumn("sampling"), *columns) as bar:
        task = bar.add_task("sampling", total=total, completed=total - len(missing), speed="")
        for number in missing:
            start = time.perf_counter()
            yield number
            tokens = sum(len(r.rollout.token_ids) for r in read_rollouts(out, stage=STAGE, step=number))
            bar.update(task, advance=1, speed=f"{tokens / (time.perf_counter() - start):,.0f} tokens/s")
