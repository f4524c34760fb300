"""Pictures are decoded and processed once, ahead of need, and everything else stays as it was."""

from __future__ import annotations

import copy
import json
import pickle
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import picture, question

from rollouts.hf import HFEngine
from rollouts.vllm_engine import VLLMEngine
from sail_rl.contracts import RolloutEngine, Sampling, Scores
from sail_rl.data.dataset import Rows
from sail_rl.data.encoding import Encoder, Sample
from sail_rl.data.order import RowStream
from sail_rl.data.prefetch import Prefetcher
from sail_rl.data.stream import StreamPacker
from sail_rl.models.images import SailVLImageProcessor
from sail_rl.models.loading import load_model
from sail_rl.trainer.batches import StepBatch
from sail_rl.trainer.own_samples import own_samples
from sail_rl.trainer.prompt_ledger import PromptLedger
from sail_rl.trainer.sampling import GroupSampler
from sail_rl.trainer.sft import StreamedBatches, SupervisedBatches
from sail_rl.trainer.stopwatch import Stopwatch

WAIT = 60
"""Seconds; no test waits for them unless it fails."""

# The threads


def test_items_are_those_of_load_whether_announced_or_not() -> None:
    with Prefetcher(lambda key: key * key, ahead=3) as squares:
        squares.prefetch(range(20))
        assert [squares.get(key) for key in (7, 0, 1, 2, 30, *range(3, 7), *range(8, 20), 7)] == [
            *(49, 0, 1, 4, 900),
            *[key * key for key in [*range(3, 7), *range(8, 20)]],
            49,
        ]


def test_announced_items_are_loaded_once_each() -> None:
    loaded: list[int] = []
    with Prefetcher(loaded.append, ahead=100) as items:
        items.prefetch(range(50))
        items.prefetch(range(50))
        for key in range(50):
            items.get(key)
    assert sorted(loaded) == list(range(50))


def test_at_most_so_many_items_wait_in_memory() -> None:
    free = threading.Semaphore(0)
    started: list[int] = []

    def load(key: int) -> int:
        started.append(key)
        free.release()
        return key

    with Prefetcher(load, ahead=4, threads=2) as items:
        items.prefetch(range(10))
        assert all(free.acquire(timeout=WAIT) for _ in range(4))
        assert not free.acquire(timeout=0.2)
        assert items.get(9) == 9, "an item that isn't begun is loaded at once"
        assert free.acquire(timeout=WAIT)
        assert items.get(0) == 0
        assert free.acquire(timeout=WAIT), "a place has become free"
        assert sorted(started) == [0, 1, 2, 3, 4, 9]


def test_an_error_is_raised_where_the_item_is_asked_for_and_names_its_source() -> None:
    def load(key: int) -> int:
        if key == 1:
            raise ValueError("data.jsonl, row 1: image 'a.jpg' can't be decoded")
        if key == 2:
            raise MemoryError("no more")
        return key

    with Prefetcher(load, describe=lambda key: f"data.jsonl, row {key}") as items:
        for _ in range(2):  # announced, then not
            assert items.get(0) == 0
            with pytest.raises(ValueError, match=r"^data.jsonl, row 1: image 'a.jpg' can't be decoded$"):
                items.get(1)
            with pytest.raises(RuntimeError, match=r"^data.jsonl, row 2: MemoryError\('no more'\)$"):
                items.get(2)
            items.prefetch(range(3))


def test_a_stuck_item_is_named_and_does_not_hold_up_the_others() -> None:
    stuck, begun = threading.Event(), threading.Event()

    def load(key: int) -> int:
        if key == 0:
            begun.set()
            stuck.wait(WAIT)
        return key

    with Prefetcher(load, describe=lambda key: f"data.jsonl, row {key}", threads=2, seconds=0.05) as items:
        items.prefetch([0])
        assert begun.wait(WAIT)
        assert items.get(1) == 1
        with pytest.raises(RuntimeError, match=r"data.jsonl, row 0: not loaded within 0.05 s; check the disk"):
            items.get(0)
        stuck.set()


def test_closing_ends_the_threads() -> None:
    items = Prefetcher(str)
    items.prefetch(range(3))
    items.close()
    for thread in items._threads:
        thread.join(WAIT)
        assert not thread.is_alive()
    assert all(thread.daemon for thread in items._threads), "a process can end while a file is stuck"


# Processing ahead


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The pixels of every image that is really processed from now on."""
    processed: list[bytes] = []
    really = SailVLImageProcessor._preprocess

    def counting(self: Any, images: Any, **options: Any) -> Any:
        processed.extend(image.tobytes() for image in images)
        return really(self, images, **options)

    monkeypatch.setattr(SailVLImageProcessor, "_preprocess", counting)
    return processed


def test_processed_images_give_the_same_bits(encoder: Encoder, counted: list[bytes]) -> None:
    sizes = [(56, 56), (90, 31), (200, 100)]
    plain = encoder.prompt_inputs(question(encoder, "p", [picture(n, *size) for n, size in enumerate(sizes)]))
    images = [picture(n, *size) for n, size in enumerate(sizes)]
    for image in images:
        encoder.processor.image_processor.process_ahead(image)
    counted.clear()
    for chosen in (images, images[1:2]):
        ids, inputs = encoder.prompt_inputs(question(encoder, "p", chosen))
        if chosen is images:
            assert torch.equal(ids, plain[0])
            assert inputs.keys() == plain[1].keys()
            assert all(torch.equal(inputs[name], plain[1][name]) for name in inputs)
            assert all(inputs[name].dtype == plain[1][name].dtype for name in inputs)
    assert not counted, "nothing was processed again"


def test_only_the_same_image_with_the_same_options_is_taken(encoder: Encoder, counted: list[bytes]) -> None:
    processor, image = encoder.processor.image_processor, picture(0, 200, 100)
    processor.process_ahead(image)
    counted.clear()
    tiles = len(processor(image, max_patches=1)["pixel_values"])
    assert tiles < len(processor(image)["pixel_values"])
    assert len(counted) == 1, "other options are processed anew"
    processor([image, picture(1)])
    assert len(counted) == 3, "a mixed list, too"
    for other in (
        image.copy(),
        pickle.loads(pickle.dumps(image)),
        image.rotate(180),
        copy.copy(image).crop((0, 0, 9, 9)),
    ):
        counted.clear()
        processor(other)
        assert len(counted) == 1


# Reinforcement learning


def dataset(folder: Path, rows: int) -> Rows:
    """Questions with one or two pictures each, all different."""
    lines = []
    for number in range(rows):
        names = [f"{number}-{n}.png" for n in range(1 + number % 2)]
        for n, name in enumerate(names):
            picture(1_000 * n + number, 90, 56).save(folder / name)
        lines.append(json.dumps({"prompt": "Sum?", "images": names, "completion": f"{number}", "answer": "1"}))
    (folder / "data.jsonl").write_text("\n".join(lines))
    return Rows(folder / "data.jsonl")


class EvenRows:
    """Only the rollouts of even rows differ in their rewards."""

    def __call__(self, prompts: Any, rollouts: Any) -> Scores:
        total = [float(r.sample) if int(p.id) % 2 == 0 else 1.0 for p, r in zip(prompts, rollouts, strict=True)]
        return Scores(total, {"part": total})

    def metrics(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        pass


def learner() -> Any:
    return SimpleNamespace(
        step=0,
        stopwatch=Stopwatch(),
        push_weights=lambda engine: None,
        weights_version=1,
        record=lambda metrics: None,
    )


def steps(engine: RolloutEngine, encoder: Encoder, rows: Rows, count: int) -> Iterator[list[Sample]]:
    """The samples of each step of dynamic sampling: the rounds of a step, then what is trained on."""
    stream = RowStream(rows, 4, seed=0)
    sampler = GroupSampler(
        ledger=PromptLedger(4, stream.stretch, max_rounds=6, dynamic=True),
        stream=stream,
        encoder=encoder,
        engine=engine,
        sampling=Sampling(2, 2),
        scorer=EvenRows(),
        observer=lambda *_: None,
    )
    for _ in range(count):
        groups = sampler.collect(learner())
        (own,) = own_samples(groups, [range(len(groups))], sampler)
        yield [each.sample for each in own]
    sampler.close()


@pytest.mark.parametrize("kind", ["transformers", "vLLM"])
def test_a_picture_is_processed_once_for_sampling_and_training(
    kind: str,
    tiny_dir: Callable[..., Path],
    vllm_engine_at: Callable[..., VLLMEngine],
    encoder: Encoder,
    tmp_path: Path,
    counted: list[bytes],
) -> None:
    engine: Any = HFEngine(tiny_dir()) if kind == "transformers" else vllm_engine_at(tiny_dir())
    engine.push_weights(1, load_model(tiny_dir()).named_parameters())
    rows = dataset(tmp_path, 64)
    counted.clear()
    samples = [sample for step in steps(engine, encoder, rows, 1) for sample in step]
    times = Counter(counted)
    assert len(times) >= 12, "several rounds of four prompts"
    assert set(times.values()) == {1}
    assert len({sample.pixel_values.data_ptr() for sample in samples if sample.pixel_values is not None}) == 4, (
        "the samples of a group share their pixels"
    )


def test_processing_ahead_changes_no_sample(tiny_dir: Callable[..., Path], encoder: Encoder, tmp_path: Path) -> None:
    engine, rows = HFEngine(tiny_dir()), dataset(tmp_path, 64)
    engine.push_weights(1, load_model(tiny_dir()).named_parameters())
    for step in steps(engine, encoder, rows, 3):
        assert len(step) == 8
        for sample in step:
            row = next(number for number in range(64) if sample_of(encoder, rows, number, sample))
            assert row % 2 == 0, "only rows with a signal"


def sample_of(encoder: Encoder, rows: Rows, number: int, sample: Sample) -> bool:
    """Whether a sample's pixels are exactly those of this row."""
    pixels = encoder.prompt_inputs(encoder.prompt(rows[number]))[1]["pixel_values"]
    return sample.pixel_values is not None and torch.equal(pixels, sample.pixel_values)


# Supervised fine-tuning


def same(one: StepBatch, samples: list[Sample]) -> bool:
    return len(one.samples) == len(samples) and all(
        torch.equal(a.input_ids, b.input_ids)
        and a.prompt_length == b.prompt_length
        and a.pixel_values is not None
        and b.pixel_values is not None
        and torch.equal(a.pixel_values, b.pixel_values)
        for a, b in zip(one.samples, samples, strict=True)
    )


@pytest.mark.parametrize("rows_count", [3, 32])
def test_batches_of_rows_are_those_of_the_order_from_any_step_on(
    rows_count: int, encoder: Encoder, tmp_path: Path, counted: list[bytes]
) -> None:
    """Also if a batch has a row twice: its samples are objects of their own."""
    rows = dataset(tmp_path, rows_count)
    stream = RowStream(rows, 4, seed=1)
    for start in (0, 2):
        source = SupervisedBatches(stream, encoder).batches(learner(), start_step=start)
        for step, batch in enumerate(islice(source, 4), start=start):
            assert same(batch, [encoder.sft_sample(row) for row in stream.batch(step)])
            assert len({id(sample) for sample in batch.samples}) == 4
        source.close()  # type: ignore[attr-defined]


def packer(rows: Rows, encoder: Encoder) -> StreamPacker:
    return StreamPacker(
        RowStream(rows, 1, 0),
        measure=lambda number: encoder.size(rows.metadata(number), completion=True),
        pack_length=100,
        micro_batches=2,
        buffer=8,
    )


def test_a_packed_stream_is_loaded_ahead_without_moving_on(encoder: Encoder, tmp_path: Path) -> None:
    rows = dataset(tmp_path, 32)
    straight = packer(rows, encoder)
    source_of = packer(rows, encoder)
    source = StreamedBatches(source_of, encoder, rank=0).batches(learner(), start_step=0)
    for batch in islice(source, 4):
        numbers = [number for own in straight.step()[0][0] for number in own]
        assert same(batch, [encoder.sft_sample(rows[number]) for number in numbers])
        assert source_of.state() == straight.state(), "a checkpoint now would resume at the next step"


def test_a_picture_that_breaks_after_the_check_is_named_with_file_and_row(encoder: Encoder, tmp_path: Path) -> None:
    rows = dataset(tmp_path, 8)
    broken = RowStream(rows, 4, seed=1).share(1)[2]
    (tmp_path / f"{broken}-0.png").write_bytes(b"no picture")
    source = SupervisedBatches(RowStream(rows, 4, seed=1), encoder).batches(learner(), start_step=0)
    next(source)
    with pytest.raises(ValueError, match=rf"data\.jsonl, row {broken}: image '{broken}-0\.png' can't be decoded"):
        next(source)
