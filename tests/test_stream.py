"""Stream packing: full micro-batches of uncut samples, bounded waiting, balanced visual tokens, exact resumption."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from launching import finish_ranks
from test_run import steps
from training import recipe_of, train, weights_of

from sail_rl.config.loading import load_recipe
from sail_rl.data.dataset import Rows
from sail_rl.data.digits import build_digits
from sail_rl.data.encoding import Encoder
from sail_rl.data.order import RowStream
from sail_rl.data.stream import Size, StreamPacker, deal, fill, imbalance
from sail_rl.models import MODEL_DISTRIBUTION
from sail_rl.trainer.batches import StepBatch
from sail_rl.trainer.sft import StreamedBatches


def long_tail(count: int, seed: int) -> list[Size]:
    """Sizes as in a mix of text, pictures and documents of many tiles: a few are as long as a row."""
    chance = random.Random(seed)
    sizes = []
    for _ in range(count):
        text = min(8000, int(chance.lognormvariate(5.3, 1.1)) + 20)
        tiles = chance.choices([0, 1, 2, 4, 10, 24, 60], [25, 25, 15, 15, 12, 7, 1])[0]
        tokens = min(16384, text + 256 * tiles)
        sizes.append((tokens, min(256 * tiles, tokens - 20)))
    return sizes


def packer(sizes: list[Size], *, seed: int = 0, **changes: Any) -> StreamPacker:
    options = {"pack_length": 16384, "micro_batches": 64, "buffer": 256, "world_size": 8} | changes
    return StreamPacker(RowStream(sizes, 1, seed), sizes.__getitem__, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(30))
def test_a_row_is_as_full_as_any_set_with_the_first_sample_makes_it(seed: int) -> None:
    chance = random.Random(seed)
    sizes = [(chance.randint(1, 40), 0) for _ in range(9)]
    room = chance.randint(sizes[0][0], 100)
    sums = [
        sizes[0][0] + sum(sizes[place][0] for place in others)
        for count in range(9)
        for others in itertools.combinations(range(1, 9), count)
    ]
    chosen = fill(sizes, room=room)
    assert chosen[0] == 0
    assert chosen == sorted(set(chosen))
    assert sum(sizes[index][0] for index in chosen) == max(total for total in sums if total <= room)


def test_among_equally_full_sets_one_with_the_buffer_s_share_of_visual_tokens_is_chosen() -> None:
    assert fill([(10, 0), (10, 10), (10, 10), (10, 0), (10, 0)], room=20) == [0, 3]  # 8 of 20 would be the share
    assert fill([(10, 0), (10, 5), (10, 10), (10, 0), (10, 0)], room=20) == [0, 1]


class TestAStream:
    def test_uses_every_sample_whole_and_once_a_pass(self) -> None:
        sizes = long_tail(3000, seed=1)
        stream = packer(sizes)
        used: Counter[int] = Counter()
        while stream.position < 6000:
            shares, _ = stream.step()
            for numbers in itertools.chain(*shares):
                used.update(numbers)
                assert sum(sizes[number][0] for number in numbers) <= 16384
        waiting = Counter(number for number, _ in stream.waiting)
        assert sum(used.values()) + len(stream.waiting) == stream.position
        assert all(used[number] + waiting[number] in (2, 3) for number in range(3000)), "two or three passes"

    def test_lets_no_sample_wait_for_more_steps_than_the_buffer_holds_samples(self) -> None:
        sizes = long_tail(5000, seed=2)
        sizes[100] = (16384, 16000)  # needs its own micro-batch
        stream = packer(sizes, micro_batches=1, world_size=1, buffer=64)
        entered: dict[int, int] = {}
        for step in range(600):
            ((numbers,),), _ = stream.step()
            for number in numbers:
                assert step - entered.pop(number, step) <= 64
            for number, _ in stream.waiting:
                entered.setdefault(number, step)

    @pytest.mark.parametrize(("world_size", "micro_batches", "allowed"), [(1, 4, 0.0), (2, 8, 0.05), (8, 64, 0.05)])
    def test_fills_micro_batches_and_balances_visual_tokens(
        self, world_size: int, micro_batches: int, allowed: float
    ) -> None:
        stream = packer(long_tail(20000, seed=3), world_size=world_size, micro_batches=micro_batches)
        found = [stream.step()[1] for _ in range(20)]
        assert min(metrics["packing/fill"] for metrics in found) >= 0.98
        assert sum(metrics["packing/visual_imbalance"] for metrics in found) / 20 <= allowed

    def test_goes_on_from_its_state_as_if_it_hadn_t_stopped(self) -> None:
        sizes = long_tail(500, seed=4)
        straight, stopped, resumed = packer(sizes), packer(sizes), packer(sizes)
        for _ in range(3):
            assert straight.step() == stopped.step()
        resumed.load_state(json.loads(json.dumps(stopped.state())))
        for _ in range(3):
            assert straight.step() == resumed.step()

    def test_depends_on_its_seed(self) -> None:
        sizes = long_tail(500, seed=4)
        assert packer(sizes).step() == packer(sizes).step()
        assert packer(sizes).step() != packer(sizes, seed=1).step()


def test_micro_batches_of_similar_visual_tokens_are_dealt_at_the_same_time() -> None:
    shares = deal([0, 9, 4, 8, 1, 5], ranks=2)
    assert shares == [[1, 2, 4], [3, 5, 0]] or shares == [[1, 2, 0], [3, 5, 4]]
    assert imbalance([[9, 4, 1], [8, 5, 0]]) == pytest.approx((9 + 5 + 1) / 13.5 - 1)
    assert imbalance([[0], [0]]) == 0


class Once:
    """A batch source of one step."""

    def __init__(self, batch: StepBatch) -> None:
        self.distribution = MODEL_DISTRIBUTION
        self.batch = batch

    def batches(self, trainer: Any, *, start_step: int) -> Iterator[StepBatch]:
        yield self.batch


class Silent:
    def record(self, metrics: dict[str, float]) -> None:
        self.metrics = metrics


def test_a_packed_step_trains_like_its_samples_one_by_one(
    tiny_dir: Callable[..., Path], encoder: Encoder, tmp_path: Path
) -> None:
    rows = Rows(build_digits(tmp_path, seed=0, sft_rows=40, rl_rows=4, heldout_rows=4, direct_rows=4)["sft"])
    stream = StreamPacker(
        RowStream(rows, 1, 0),
        measure=lambda number: encoder.size(rows.metadata(number), completion=True),
        pack_length=200,
        micro_batches=2,
        buffer=40,
    )
    batch = next(iter(StreamedBatches(stream, encoder, rank=0).batches(Silent(), start_step=0)))  # type: ignore[arg-type]
    assert batch.layout is not None
    assert len(batch.layout) == 2
    assert all(180 < sum(len(batch.samples[index]) for index in indices) <= 200 for indices in batch.layout)
    alone = StepBatch(batch.samples, batch.loss_denominator, [[index] for index in range(len(batch.samples))])
    recipe = recipe_of(tmp_path / "a", path=tiny_dir())
    packed, unpacked = (train(recipe, tiny_dir(), source=Once(given)) for given in (batch, alone))
    assert packed.state.log_history[0]["loss"] == pytest.approx(unpacked.state.log_history[0]["loss"], abs=1e-6)
    assert packed.state.log_history[0]["grad_norm"] == pytest.approx(
        unpacked.state.log_history[0]["grad_norm"], rel=1e-5
    )
    for name, tensor in weights_of(packed).items():
        torch.testing.assert_close(tensor, weights_of(unpacked)[name], atol=1e-3, rtol=0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages.longcot_sft.packing={micro_batches: 4}"], "give either batch_size .* or packing"),
        (["stages.longcot_sft.batch_size=null"], "give either batch_size .* or packing"),
        (
            [
                "stages.longcot_sft.packing={micro_batches: 4}",
                "stages.longcot_sft.batch_size=null",
                "stages.longcot_sft.pack_length=100",
            ],
            "pack_length 100 is below model.max_length 256.*set it to 256 or more",
        ),
    ],
)
def test_a_step_has_one_size_and_micro_batches_hold_any_sample(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(Path("recipes/quickstart.yaml"), ["model.max_length=256", *overrides])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_packed_run_is_the_same_on_two_ranks_and_after_a_kill(tmp_path: Path) -> None:
    tree = {
        "extends": str(Path("recipes/quickstart.yaml").resolve()),
        "model": {"max_length": 256},
        "stages": {"rlvr": None, "longcot_sft": {"batch_size": None, "packing": {"micro_batches": 4, "buffer": 32}}},
    }
    tree["stages"]["longcot_sft"] |= {"pack_length": 512, "steps": 4, "save_every": 2}  # type: ignore[index]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    settings = ["data.kwargs={sft_rows: 64, rl_rows: 4, heldout_rows: 8}", "evaluation.max_tokens=8"]

    def packed(folder: Path, ranks: int = 1) -> dict[tuple[str, int], dict[str, Any]]:
        finish_ranks(["-m", "sail_rl", "run", tmp_path / "recipe.yaml", f"output_dir={folder}", *settings], ranks=ranks)
        return steps(folder)

    whole, two = packed(tmp_path / "one"), packed(tmp_path / "two", ranks=2)
    for name in ("summary.json", "stages/longcot_sft/result.json", "stages/longcot_sft/checkpoint-4", "wandb_run_id"):
        victim = tmp_path / "one" / name
        shutil.rmtree(victim) if victim.is_dir() else victim.unlink(missing_ok=True)
    resumed = packed(tmp_path / "one")
    for place, record in whole.items():
        for name in {"loss", "grad_norm", "packing/fill", "packing/samples", "train/tokens"} & record.keys():
            assert record[name] == pytest.approx(two[place][name], rel=1e-5), (place, name)
            assert record[name] == resumed[place][name], (place, name)
    assert all(record["packing/fill"] > 0.98 for (_, step), record in whole.items() if step)
