"""AdaLRS: the search by hand, and in the trainer, where a roll-back gives back weights and optimiser to the bit."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import picture, question
from transformers import TrainerCallback

from sail_rl.config.loading import load_recipe
from sail_rl.contracts import Rollout
from sail_rl.data.encoding import Encoder
from sail_rl.maths.adalrs import LineSearch, descent
from sail_rl.maths.losses import cross_entropy
from sail_rl.models import MODEL_DISTRIBUTION
from sail_rl.models.loading import load_model
from sail_rl.stages.arguments import training_arguments
from sail_rl.trainer.batches import Learner, StepBatch
from sail_rl.trainer.distributed import join_process_group
from sail_rl.trainer.line_search import LineSearchCallback
from sail_rl.trainer.nonfinite import NonFiniteStepMonitor
from sail_rl.trainer.trainer import Trainer
from sail_rl.trainer.weights import gathered_weights


def window(fall: float, start: float = 5.0, size: int = 4) -> list[float]:
    """Losses that fall by `fall` a step, with a little noise."""
    return [start - fall * step + 0.001 * (-1) ** step for step in range(size)]


def feed(search: LineSearch, losses: Sequence[float | None]) -> str:
    decisions = [search.observe(loss, remaining=100) for loss in losses]
    assert set(decisions[:-1]) <= {"continue"}
    return decisions[-1]


def test_descent_is_the_slope_of_the_least_squares_line_and_its_error() -> None:
    velocity, error = descent([3.0, 2.0, 1.0, 0.0])
    assert velocity == pytest.approx(1.0)
    assert error == pytest.approx(0.0, abs=1e-9)
    # y = 0, 1, 0: slope 0; residuals -1/3, 2/3, -1/3; variance 2/3 over 1 degree of freedom, sum of squares of x is 2
    assert descent([0.0, 1.0, 0.0]) == pytest.approx((0.0, (2 / 3 / 2) ** 0.5))


def test_a_faster_descent_keeps_the_higher_rate_and_tries_on() -> None:
    search = LineSearch(window=4, alpha=2.0, beta=2.0, decay=0.9)
    assert feed(search, window(0.1)) == "try"
    assert search.rate == 2.0
    assert feed(search, window(0.2)) == "keep"
    assert search.scale == 2.0
    assert search.rate == pytest.approx(2.0 * 1.8)  # the next trial: alpha' = 0.9 * 2


def test_a_slower_descent_rolls_back_and_lowers_the_rate() -> None:
    search = LineSearch(window=4, alpha=2.0, beta=2.0, decay=0.9)
    feed(search, window(0.1))
    assert feed(search, window(-0.3)) == "roll back"
    assert search.rate == search.scale == 0.5
    assert feed(search, window(0.1)) == "try"
    assert search.rate == pytest.approx(0.5 * 1.8)


def test_no_clear_difference_returns_to_the_rate_before() -> None:
    search = LineSearch(window=4)
    feed(search, window(0.1))
    assert feed(search, window(0.1)) == "return"
    assert search.rate == 1.0


def test_the_search_ends_when_its_steps_have_shrunk_to_nothing() -> None:
    search = LineSearch(window=3, alpha=1.5, decay=0.5)
    for _ in range(40):
        search.observe(1.0, remaining=100)
    assert search.trials == 1, "0.5 * 1.5 is below 1"
    assert search.rate == 1.0


def test_a_step_that_is_not_finite_leaves_a_gap_where_a_rate_is_measured() -> None:
    """The slope of the other steps in their places is 0.1, so a trial of the same slope changes nothing."""
    search = LineSearch(window=4)
    assert feed(search, [5.0, math.nan, 4.8, 4.7]) == "try"
    assert search.measured == pytest.approx((0.1, 0.0), abs=1e-9)
    assert feed(search, window(0.1)) == "return"


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_trial_with_a_step_that_is_not_finite_is_rolled_back_at_once(wrong: float) -> None:
    search = LineSearch(window=5)
    feed(search, window(0.1, size=5))
    assert feed(search, [4.5, wrong]) == "roll back"
    assert (search.rate, search.trial, search.trials) == (0.5, None, 1)
    assert feed(search, [4.4, 4.2, 4.0]) == "try", "the window's other three steps measured the new rate"
    assert search.measured == pytest.approx((0.2, 0.0), abs=1e-9)
    assert search.rate == pytest.approx(0.5 * 1.8)


@pytest.mark.parametrize("position", range(4))
def test_windows_end_where_they_would_have_ended_whatever_a_trial_meets(position: int) -> None:
    """Checkpoints fall there, and none may fall inside a trial."""
    search = LineSearch(window=4)
    feed(search, window(0.1))
    for step in range(4):
        search.observe(math.nan if step == position else 4.0, remaining=100)
    assert search.trial is None or position == 0, "three good steps after the first measure the new rate"
    for step in range(4, 40):
        began = search.trial is not None
        search.observe(4.0 - 0.1 * step, remaining=100)
        assert (search.trial is not None) == began or (step + 1) % 4 == 0


def test_a_step_without_an_update_is_left_out_instead_of_counting_as_a_loss_of_zero() -> None:
    search = LineSearch(window=4)
    assert feed(search, [5.0, None, 4.8, 4.7]) == "try"
    assert search.measured == pytest.approx((0.1, 0.0), abs=1e-9)
    assert feed(search, [None, 4.5, 4.2, 3.9]) == "keep", "0.3 is faster than 0.1"
    assert search.measured == pytest.approx((0.3, 0.0), abs=1e-9)


def test_a_window_with_fewer_than_three_losses_judges_nothing() -> None:
    search = LineSearch(window=4)
    assert feed(search, [5.0, math.nan, None, 4.7]) == "continue"
    assert (search.trial, search.measured, search.losses) == (None, None, [])
    assert feed(search, window(0.1)) == "try"
    assert feed(search, [None, None, 4.5, 9.0]) == "return"
    assert search.rate == 1.0


@pytest.mark.parametrize("steps", range(3, 40))
@pytest.mark.parametrize("falls", [0.1, 0.2, -0.3])
def test_no_run_ends_inside_a_trial(steps: int, falls: float) -> None:
    """Each trial's loss falls faster than the one before, as fast, or rises."""
    search, start = LineSearch(window=3), 100.0
    for step in range(1, steps + 1):
        fall = 0.1 if search.trial is None else (falls * step if falls > 0.1 else falls)
        start -= fall
        search.observe(start, remaining=steps - step)
    assert search.trial is None


class Seen(TrainerCallback):
    """The weights that an evaluation at the end of each step would see."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer, self.weights = trainer, {}

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.weights = {name: tensor.detach().clone() for name, tensor in gathered_weights(self.trainer.model)}


class OneBatch:
    distribution = MODEL_DISTRIBUTION

    def __init__(self, batch: StepBatch) -> None:
        self.batch = batch

    def batches(self, learner: Learner, *, start_step: int) -> Iterator[StepBatch]:
        for _ in count(start_step):
            yield self.batch


class Scripted(LineSearch):
    """Rolls back after a given step; remembers before step 2's."""

    def observe(self, loss: float, *, remaining: int) -> Any:
        self.losses.append(loss)
        if len(self.losses) == 2:
            self.trial = 50.0
            return "try"
        if len(self.losses) == 4:
            self.trial, self.scale = None, 0.5
            return "roll back"
        return "continue"


@pytest.mark.parametrize("zero_stage", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_rolling_back_undoes_the_trial_s_steps_to_the_bit(
    zero_stage: int, tiny_dir: Any, encoder: Encoder, tmp_path: Path
) -> None:
    """Two steps, a trial of two more at 50 times the rate, rolled back, two at half: as if the trial had not been."""

    def train(steps: int, search: LineSearch | None, rates: list[float]) -> dict[str, torch.Tensor]:
        join_process_group()
        recipe = load_recipe(
            Path("recipes/quickstart.yaml"),
            [
                f"deepspeed.zero_stage={zero_stage}",
                "deepspeed.zero_options={stage3_param_persistence_threshold: 0}",
                f"stages.longcot_sft.steps={steps}",
                "stages.longcot_sft.optimizer.warmup_steps=0",
                "stages.longcot_sft.optimizer.schedule=constant",
            ],
        )
        args = training_arguments(recipe, recipe.stages[0], tmp_path)
        args.save_strategy = "no"
        rollout = Rollout("p", 0, [30, 40, 50], [0.0] * 3, "", "stop", 1)
        samples = encoder.rollout_samples(question(encoder, "p", [picture(0)]), [rollout])
        trainer = Trainer(
            load_model(tiny_dir()),
            args,
            source=OneBatch(StepBatch.token_mean(samples)),
            loss=cross_entropy,
            encoder=encoder,
            pack_length=1024,
            monitor=NonFiniteStepMonitor(tmp_path),
        )
        if search:
            trainer.add_callback(LineSearchCallback(search, trainer, tmp_path / "adalrs"))
        seen = Seen(trainer)
        trainer.add_callback(seen)
        trainer.train()
        rates += [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
        rates += trainer.lr_scheduler.get_last_lr()[:1]
        saved = {name: tensor.detach().clone() for name, tensor in gathered_weights(trainer.model)}
        assert all(torch.equal(saved[name], seen.weights[name]) for name in saved), "what is saved was evaluated"
        return saved

    rates: list[float] = []
    searched = train(4, Scripted(window=3), rates)
    plain = train(2, None, [])
    assert all(torch.equal(searched[name], plain[name]) for name in plain)
    assert rates == pytest.approx([1e-3, 1e-3, 0.05, 0.05, 5e-4])
    assert not (tmp_path / "adalrs").exists()


class NotFiniteIn(OneBatch):
    """The weights of these steps' tokens, counted from 1, are NaN; a step in `empty` has no samples."""

    def __init__(self, batch: StepBatch, *steps: int, empty: int = 0) -> None:
        super().__init__(batch)
        self.steps, self.empty = steps, empty

    def batches(self, learner: Learner, *, start_step: int) -> Iterator[StepBatch]:
        weights = [sample.token_fields.weights for sample in self.batch.samples]
        for step in count(start_step + 1):
            for sample, weight in zip(self.batch.samples, weights, strict=True):
                sample.token_fields.weights = weight * (math.nan if step in self.steps else 1.0)
            yield StepBatch([], 0.0) if step == self.empty else self.batch


class AllSeen(Seen):
    """The weights and losses that the search saw after each step."""

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        super().on_step_end(*args, **kwargs)
        self.all = [*getattr(self, "all", []), self.weights]


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_the_trainer_rolls_a_trial_back_at_its_first_step_that_is_not_finite(
    zero_stage: int, tiny_dir: Any, encoder: Encoder, tmp_path: Path
) -> None:
    """Steps 1 to 4, of which one is empty, measure; step 5 is a trial's and moves the weights; step 6 is NaN."""
    join_process_group()
    overrides = [f"deepspeed.zero_stage={zero_stage}", "stages.longcot_sft.steps=8"]
    recipe = load_recipe(Path("recipes/quickstart.yaml"), [*overrides, "stages.longcot_sft.optimizer.warmup_steps=0"])
    args = training_arguments(recipe, recipe.stages[0], tmp_path)
    args.save_strategy = "no"
    rollout = Rollout("p", 0, [30, 40, 50], [0.0] * 3, "", "stop", 1)
    batch = StepBatch.token_mean(encoder.rollout_samples(question(encoder, "p", [picture(0)]), [rollout]))
    trainer = Trainer(
        load_model(tiny_dir()),
        args,
        source=NotFiniteIn(batch, 6, empty=2),
        loss=cross_entropy,
        encoder=encoder,
        pack_length=1024,
        monitor=NonFiniteStepMonitor(tmp_path),
    )
    search = LineSearch(window=4)
    seen = AllSeen(trainer)
    trainer.add_callback(LineSearchCallback(search, trainer, tmp_path / "adalrs"))
    trainer.add_callback(seen)
    trainer.train()

    def moved(first: int, second: int) -> bool:
        """Whether the weights after two steps differ."""
        before, after = seen.all[first - 1], seen.all[second - 1]
        return any(not torch.equal(before[name], after[name]) for name in before)

    assert not moved(1, 2), "empty"
    assert moved(4, 5), "the trial's first step"
    assert not moved(4, 6), "rolled back"
    assert moved(6, 7), "and trained on"
    assert (search.scale, search.trial, search.trials) == (0.5, None, 1)
    assert [entry.get("train/rate_scale") for entry in trainer.state.log_history[:8]] == [
        *(None, None, None, 2.0),
        *(None, 0.5, None, None),
    ]
