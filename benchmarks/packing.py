"""Measures packing: useful tokens, balance of visual tokens over ranks, and training speed against padded batches.

    python benchmarks/packing.py [--rounds 3]

The first table uses the sizes of a long-tail mix (text, pictures of a few tiles, documents of dozens of tiles). The
second times forward and backward passes of a tiny SAIL-VL2 over the same texts of long-tail lengths: padded to the
longest of a batch as TRL's SFTTrainer does by default, packed batch by batch, and stream-packed, in turns.
"""

from __future__ import annotations

import argparse
import itertools
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch
from transformers import AutoProcessor

from sail_rl.data.encoding import Encoder, Sample
from sail_rl.data.order import RowStream
from sail_rl.data.packing import collate, first_fit_layout
from sail_rl.data.stream import Size, StreamPacker, imbalance
from sail_rl.models.loading import load_model
from sail_rl.models.tiny import build_tiny

ROW, RANKS, ROWS = 16384, 8, 64


def long_tail(count: int, chance: random.Random) -> list[Size]:
    """(tokens, visual tokens) of a mix in which a few samples fill a row."""
    sizes = []
    for _ in range(count):
        text = min(8000, int(chance.lognormvariate(5.3, 1.1)) + 20)
        tiles = chance.choices([0, 1, 2, 4, 10, 24, 60], [25, 25, 15, 15, 12, 7, 1])[0]
        tokens = min(ROW, text + 256 * tiles)
        sizes.append((tokens, min(256 * tiles, tokens - 20)))
    return sizes


def useful_share(sizes: Sequence[Size], rows: Sequence[Sequence[int]], *, padded: bool) -> float:
    """The samples' share of the rows' tokens; if `padded`, each sample is as long as the longest of its row."""
    used = sum(sizes[number][0] for row in rows for number in row)
    room = sum(max(sizes[n][0] for n in row) * len(row) for row in rows) if padded else ROW * len(rows)
    return used / room


def shares() -> None:
    """Print useful tokens and balance of four methods that fill rows for 8 ranks."""
    sizes = long_tail(20000, random.Random(0))
    batch = 512
    print(f"{len(sizes)} samples, rows of {ROW} tokens, {RANKS} ranks\n")
    print("| method | useful tokens | extra time of vision towers |\n|---|---|---|")

    def visual(rows: Sequence[Sequence[int]]) -> list[int]:
        return [sum(sizes[number][1] for number in row) for row in rows]

    def waiting(rows: Sequence[Sequence[int]]) -> float:
        """The imbalance if rows are dealt in turn, as by a plain sampler."""
        whole = visual(rows)[: len(rows) // RANKS * RANKS]
        return imbalance([whole[rank::RANKS] for rank in range(RANKS)])

    def show(way: str, useful: float, extra: float) -> None:
        print(f"| {way} | {useful:.1%} | {extra:.1%} |")

    padded = [list(range(start, start + 8)) for start in range(0, len(sizes) - 7, 8)]
    show("padded batches of 8", useful_share(sizes, padded, padded=True), waiting(padded))
    first_fit = [
        [start + index for index in row]
        for start in range(0, len(sizes) - batch + 1, batch)
        for row in first_fit_layout([tokens for tokens, _ in sizes[start : start + batch]], pack_length=ROW)
    ]
    show(f"first fit within batches of {batch}", useful_share(sizes, first_fit, padded=False), waiting(first_fit))
    packer = StreamPacker(RowStream(sizes, 1, 0), sizes.__getitem__, ROW, ROWS, 256, RANKS)  # type: ignore[arg-type]
    start, steps = time.perf_counter(), [packer.step() for _ in range(30)]
    spent = time.perf_counter() - start
    rows = [row for step, _ in steps for row in itertools.chain(*step)]
    show("stream, dealt in turn", useful_share(sizes, rows, padded=False), waiting(rows))
    balance = sum(metrics["packing/visual_imbalance"] for _, metrics in steps) / len(steps)
    show("stream, dealt by visual tokens (sail-rl)", useful_share(sizes, rows, padded=False), balance)
    print(f"\nfilling a micro-batch takes {1000 * spent / len(rows):.2f} ms\n")


def speed(rounds: int) -> None:
    """Print useful tokens per second of training passes on a tiny model, for three methods."""
    chance, pack_length, batch = random.Random(0), 1024, 16
    with tempfile.TemporaryDirectory() as folder:
        build_tiny(Path(folder), ["the sum of three and four is seven"], llm="qwen3", seed=0)
        model, processor = load_model(Path(folder)), AutoProcessor.from_pretrained(folder)
    filler = Encoder(processor, max_length=pack_length).filler()
    lengths = [min(pack_length, int(chance.lognormvariate(4.3, 1.0)) + 8) for _ in range(256)]
    samples = [Sample(torch.randint(20, 200, (length,)), 4) for length in lengths]
    stream = RowStream(samples, 1, 0)  # type: ignore[arg-type]
    packer = StreamPacker(stream, lambda number: (lengths[number], 0), pack_length, 16, 128)
    streamed = [row for (step,), _ in (packer.step(),) for row in step]
    ways: dict[str, tuple[Callable[[list[int]], torch.Tensor], list[list[int]]]] = {
        f"padded batches of {batch}": (
            lambda row: _padded_loss(model, [samples[number] for number in row]),
            [list(range(start, start + batch)) for start in range(0, len(samples), batch)],
        ),
        "packed batch by batch": (
            lambda row: _packed_loss(model, [samples[number] for number in row], filler),
            [
                [start + index for index in row]
                for start in range(0, len(samples), 4 * batch)
                for row in first_fit_layout(lengths[start : start + 4 * batch], pack_length=pack_length)
            ],
        ),
        "stream-packed": (lambda row: _packed_loss(model, [samples[n] for n in row], filler), streamed),
    }
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, (loss, rows) in ways.items():
            start = time.perf_counter()
            for row in rows:
                loss(row).backward()
            speeds[way].append(sum(lengths[n] for row in rows for n in row) / (time.perf_counter() - start))
    print(f"| training passes, {torch.get_num_threads()} threads | useful tokens/s | ratio |\n|---|---|---|")
    base = median(next(iter(speeds.values())))
    for way, found in speeds.items():
        print(f"| {way} | {median(found):,.0f} | {median(found) / base:.2f}x |")


def _padded_loss(model: torch.nn.Module, samples: Sequence[Sample]) -> torch.Tensor:
    """The loss of a plain trainer, with right padding, an attention mask and logits of all positions."""
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad([sample.input_ids for sample in samples], batch_first=True)
    mask = pad([torch.ones_like(sample.input_ids) for sample in samples], batch_first=True)
    labels = pad([sample.input_ids for sample in samples], batch_first=True, padding_value=-100)
    labels[:, :4] = -100
    loss: torch.Tensor = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    return loss


def _packed_loss(model: torch.nn.Module, samples: Sequence[Sample], filler: Sample) -> torch.Tensor:
    scores = model(**collate(samples, filler=filler).model_inputs(torch.device("cpu")))
    return -scores.logprobs.mean()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    shares()
    speed(options.rounds)
