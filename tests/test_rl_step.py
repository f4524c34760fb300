"""The RL step's parts: sharing out, dynamic sampling, what counts in the loss, GAE's token fields."""

from __future__ import annotations

import json
import logging
import math
import random
import tempfile
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import picture
from hypothesis import given
from hypothesis import strategies as st

from rollouts.hf import HFEngine
from sail_rl.contracts import Prompt, Rollout, Sampling, Scores
from sail_rl.data.balance import balanced_shares
from sail_rl.data.encoding import Encoder, Sample
from sail_rl.data.order import RowStream
from sail_rl.maths.aggregation import Aggregation
from sail_rl.maths.mismatch import MismatchLimits
from sail_rl.maths.token_fields import TokenFields
from sail_rl.models.loading import load_model
from sail_rl.trainer.annotate import Annotator
from sail_rl.trainer.estimators import (
    BatchAdvantages,
    BatchGroupAdvantages,
    CompletionAdvantages,
    CriticAdvantages,
    RolloutSample,
    explained_variance,
)
from sail_rl.trainer.exchange import HeldRollouts
from sail_rl.trainer.groups import Group, NumberedPrompt
from sail_rl.trainer.mismatch import LogprobMismatchError, check_mismatch
from sail_rl.trainer.prompt_ledger import PromptLedger
from sail_rl.trainer.rl import RolloutBatches
from sail_rl.trainer.rollout_bytes import from_bytes, to_bytes
from sail_rl.trainer.sampling import GroupSampler
from sail_rl.trainer.stopwatch import Stopwatch


def rollout(tokens: int, *, stop: str = "stop", version: int = 1) -> Rollout:
    return Rollout("p", 0, [5] * tokens, [-0.5] * tokens, "text", stop, version)  # type: ignore[arg-type]


def group(rewards: Sequence[float], lengths: Sequence[int] = (2, 2), **options: Any) -> Group:
    return grouped([rollout(length, **options) for length in lengths], rewards)


def grouped(rollouts: Sequence[Rollout], rewards: Sequence[float]) -> Group:
    return Group.of(NumberedPrompt(0, 0), rollouts, rewards, rank=0, size=(3, 1))


# Sharing out

SIZES = st.tuples(st.integers(1, 500), st.integers(0, 100))
GROUPS = st.lists(st.tuples(st.lists(SIZES, min_size=1, max_size=9), st.integers(0, 7)), max_size=30)


def loads_of(shares: list[list[tuple[int, int]]], sizes: Sequence[Sequence[tuple[int, int]]], kind: int) -> list[int]:
    return [sum(sizes[group][sample][kind] for group, sample in share) for share in shares]


@given(GROUPS, st.integers(1, 8))
def test_every_sample_goes_to_exactly_one_rank(groups: list[Any], ranks: int) -> None:
    sizes, homes = [each[0] for each in groups], [each[1] % ranks for each in groups]
    shares = balanced_shares(sizes, homes, ranks=ranks)
    assert len(shares) == ranks
    assert all(share == sorted(share) for share in shares)
    places = [(group, sample) for group, own in enumerate(sizes) for sample in range(len(own))]
    assert sorted(place for share in shares for place in share) == places


@given(GROUPS, st.integers(1, 8))
def test_ranks_have_equal_loads_up_to_one_sample(groups: list[Any], ranks: int) -> None:
    sizes, homes = [[(s[0], 0) for s in own] for own, _ in groups], [home % ranks for _, home in groups]
    loads = loads_of(balanced_shares(sizes, homes, ranks=ranks), sizes, 0)
    largest = max((size[0] for own in sizes for size in own), default=0)
    assert max(loads) <= 1.05 * (sum(loads) / ranks + largest)


@pytest.mark.parametrize("ranks", [2, 8, 32])
def test_few_groups_move_and_fewer_are_split(ranks: int) -> None:
    """Completions of 100 to 4,000 tokens for 8 groups a rank; dealt one by one, a rank had samples of most groups."""
    generator = random.Random(0)
    homes = [group // 8 for group in range(8 * ranks)]
    sizes = [[(600 + int(generator.lognormvariate(7, 0.6)), 256) for _ in range(8)] for _ in homes]
    shares = balanced_shares(sizes, homes, ranks=ranks)
    loads = loads_of(shares, sizes, 0)
    assert max(loads) < 1.05 * sum(loads) / ranks
    pieces = [(group, rank) for rank, share in enumerate(shares) for group in {group for group, _ in share}]
    assert sum(rank != homes[group] for group, rank in pieces) < 0.2 * len(sizes)
    assert len(pieces) < 1.2 * len(sizes)


def test_groups_stay_whole_where_they_were_sampled_if_that_is_balanced() -> None:
    sizes = [[(90 + 20 * sample, 64) for sample in range(2)]] * 12
    homes = [number % 4 for number in range(12)]
    shares = balanced_shares(sizes, homes, ranks=4)
    assert [{homes[group] for group, _ in share} for share in shares] == [{0}, {1}, {2}, {3}]


def test_a_rank_with_long_completions_hands_over_as_few_as_balance_needs() -> None:
    # Rank 0 sampled 8 groups of 8 x 120 tokens, rank 1 as many of 8 x 100: 7,680 and 6,400 tokens.
    sizes = [[(120, 0)] * 8] * 8 + [[(100, 0)] * 8] * 8
    homes = [0] * 8 + [1] * 8
    shares = balanced_shares(sizes, homes, ranks=2)
    assert loads_of(shares, sizes, 0) == [6_720, 7_360]
    moved = {place[0] for rank, share in enumerate(shares) for place in share if homes[place[0]] != rank}
    assert len(moved) == 1


def test_the_samples_of_one_group_are_spread_over_all_ranks() -> None:
    shares = balanced_shares([[(100, 10)] * 8], [3], ranks=8)
    assert [len(share) for share in shares] == [1] * 8


def test_tokens_and_visual_tokens_are_both_balanced() -> None:
    # Four long texts and four short questions with large images.
    sizes = [[(100, 0)]] * 4 + [[(60, 50)]] * 4
    for homes in ([0] * 8, [0, 1] * 4, [0] * 4 + [1] * 4):
        shares = balanced_shares(sizes, homes, ranks=2)
        assert loads_of(shares, sizes, 0) == [320, 320]
        assert loads_of(shares, sizes, 1) == [100, 100]


def test_a_long_tail_is_spread_evenly() -> None:
    sizes = [[(max(1, 2000 // (n + 1)), 0)] for n in range(200)]
    loads = loads_of(balanced_shares(sizes, [0] * 200, ranks=4), sizes, 0)
    assert max(loads) < 1.05 * sum(loads) / 4


# Dynamic sampling, with the real reference engine and a scorer that decides which prompts carry a signal


class ScriptedScorer:
    """Gives the samples of prompts in `useful` different rewards, and those of all others equal ones."""

    def __init__(self, useful: set[int]) -> None:
        self.useful = useful
        self.sampled: list[int] = []

    def __call__(self, prompts: Sequence[Prompt], rollouts: Sequence[Rollout]) -> Scores:
        self.sampled += [int(prompt.id) for prompt, r in zip(prompts, rollouts, strict=True) if r.sample == 0]
        total = [float(r.sample) if int(p.id) in self.useful else 1.0 for p, r in zip(prompts, rollouts, strict=True)]
        return Scores(total, {"part": total})

    def metrics(self) -> dict[str, float]:
        return {"reward/part/judge/calls": float(len(self.sampled))}

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def engine(tiny_dir: Callable[..., Path]) -> HFEngine:
    engine = HFEngine(tiny_dir())
    engine.push_weights(1, load_model(tiny_dir()).named_parameters())
    return engine


def sampler(engine: HFEngine, encoder: Encoder, useful: set[int], max_rounds: int | None) -> GroupSampler:
    rows = [{"id": str(n), "prompt": [{"role": "user", "content": f"{n}?"}], "images": []} for n in range(64)]
    stream = RowStream(rows, batch_size=4, seed=0)
    return GroupSampler(
        ledger=PromptLedger(4, stream.stretch, max_rounds=max_rounds or 1, dynamic=max_rounds is not None),
        stream=stream,
        encoder=encoder,
        engine=engine,
        sampling=Sampling(samples_per_prompt=2, max_tokens=1),
        scorer=ScriptedScorer(useful),
        observer=lambda *_: None,
    )


def collected(sampler: GroupSampler, learner: Any) -> list[tuple[Group, list[Rollout]]]:
    """A step's groups with their rollouts, which the sampler then no longer holds."""
    return [(group, sampler.held.pop(group.prompt.number)) for group in sampler.collect(learner)]


def trainer() -> Any:
    """What the sampler asks of a trainer: it holds metrics and pushes weights (the engine has them)."""
    metrics: dict[str, float] = {}
    return SimpleNamespace(
        step=0,
        stopwatch=Stopwatch(),
        push_weights=lambda engine: None,
        weights_version=1,
        record=metrics.update,
        metrics=metrics,
    )


def test_without_dynamic_sampling_every_group_is_used(engine: HFEngine, encoder: Encoder) -> None:
    plain = sampler(engine, encoder, {1, 2, 3}, None)
    groups = plain.collect(trainer())
    assert [group.row for group in groups] == plain.stream.indices(0)


@pytest.mark.parametrize(("groups", "calls"), [(1, [1, 1, 1, 1]), (3, [3, 1]), (8, [4])])
def test_groups_are_scored_as_they_finish(groups: int, calls: list[int], engine: HFEngine, encoder: Encoder) -> None:
    plain, record = sampler(engine, encoder, set(), None), trainer()
    whole = plain.scorer
    sizes: list[int] = []

    class Counting(ScriptedScorer):
        def __call__(self, prompts: Sequence[Prompt], rollouts: Sequence[Rollout]) -> Scores:
            sizes.append(len(rollouts) // 2)
            return whole(prompts, rollouts)

    plain.scorer, plain.groups_per_score = Counting(set()), groups
    assert [group.row for group in plain.collect(record)] == plain.stream.indices(0)
    assert sizes == calls
    assert "reward/part/judge/calls" in record.metrics


def test_groups_without_signal_are_replaced_and_surplus_is_kept(engine: HFEngine, encoder: Encoder) -> None:
    useful = set(range(0, 64, 2))
    dynamic, record = sampler(engine, encoder, useful, 4), trainer()
    used = [group.row for _ in range(6) for group in dynamic.collect(record)]
    order = [row for batch in range(dynamic.ledger.rounds) for row in dynamic.stream.indices(batch)]
    assert dynamic.scorer.sampled == order, "every prompt was sampled once, in order"  # type: ignore[attr-defined]
    good = [row for row in order if row in useful]
    assert used == good[: len(used)], "every group with a signal is used once, in order"
    assert [group.row for group in dynamic.ledger.surplus] == good[len(used) :]
    assert len(used) == 6 * 4
    assert record.metrics["sampling/used_fraction"] == 1
    assert record.metrics["sampling/surplus"] == len(dynamic.ledger.surplus)


def test_a_spent_budget_trains_on_what_there_is_and_says_so(
    engine: HFEngine, encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    stream = RowStream(range(64), batch_size=4, seed=0)  # type: ignore[arg-type]
    dynamic, record = sampler(engine, encoder, {stream.indices(1)[2]}, 3), trainer()
    with caplog.at_level(logging.WARNING):
        groups = dynamic.collect(record)
    assert [group.row for group in groups] == [stream.indices(1)[2]]
    assert "only 1 of 4 groups carry a signal after 3 round(s)" in caplog.text
    assert record.metrics["sampling/rounds"] == 3
    assert record.metrics["sampling/used_fraction"] == 0.25
    assert record.metrics["groups/zero_variance"] == 11 / 12
    assert sampler(engine, encoder, set(), 2).collect(record) == []


class WaitingEngine(HFEngine):
    """Counts its streams; each but the first waits until it is let go."""

    def __init__(self, model_dir: Path) -> None:
        super().__init__(model_dir)
        self.streams, self.second, self.go = 0, threading.Event(), threading.Event()

    def stream(self, prompts: Sequence[Prompt], sampling: Sampling) -> Generator[tuple[int, list[Rollout]]]:
        self.streams += 1
        if self.streams > 1:
            self.second.set()
            assert self.go.wait(60)
        yield from super().stream(prompts, sampling)


def test_the_next_batch_is_sampled_while_this_one_is_trained_on(
    tiny_dir: Callable[..., Path], encoder: Encoder
) -> None:
    waiting = WaitingEngine(tiny_dir())
    waiting.push_weights(1, load_model(tiny_dir()).named_parameters())
    ahead, record = sampler(waiting, encoder, set(), None), trainer()
    ahead.can_sample_ahead = lambda step: step == 0
    first = collected(ahead, record)
    assert record.metrics["rollout/staleness"] == 0
    assert waiting.second.wait(60), "the second batch is under way already"
    record.step, record.weights_version = 1, 2
    waiting.go.set()
    second = collected(ahead, record)
    assert record.metrics["rollout/staleness"] == 1
    assert waiting.streams == 2, "a third one isn't: step 1 is disturbed"
    assert {"time/generate", "time/generate_ahead", "time/score_ahead", "time/wait"} <= record.stopwatch.take().keys()
    plain, now = sampler(waiting, encoder, set(), None), trainer()
    assert [collected(plain, now), collected(plain, now)] == [first, second], "the same rollouts, but for the weights"
    ahead.close()


def test_an_error_in_what_is_sampled_ahead_ends_the_run(engine: HFEngine, encoder: Encoder) -> None:
    class FailsAtTheSecondBatch(ScriptedScorer):
        def __call__(self, prompts: Sequence[Prompt], rollouts: Sequence[Rollout]) -> Scores:
            if len(self.sampled) == 4:
                raise RuntimeError("the service is down")
            return super().__call__(prompts, rollouts)

    ahead = sampler(engine, encoder, set(), None)
    ahead.scorer, ahead.can_sample_ahead = FailsAtTheSecondBatch(set()), lambda step: True
    ahead.collect(trainer())
    with pytest.raises(RuntimeError, match="the service is down"):
        ahead.collect(trainer())


def rows_of(prompts: list[NumberedPrompt]) -> list[int]:
    return [prompt.row for prompt in prompts]


class Growing(HFEngine):
    """Continues partial rollouts; the rollouts of prompt n end after n % 7 + 1 + sample tokens."""

    def stream(self, prompts: Sequence[Prompt], sampling: Sampling) -> Generator[tuple[int, list[Rollout]]]:
        assert sampling.max_new_tokens_per_round
        for place, prompt in enumerate(prompts):
            begun = prompt.partial_rollouts or [Rollout(prompt.id, n, [], [], "", "unfinished", 0) for n in range(2)]
            yield place, [self.grown(rollout, sampling) for rollout in begun]

    def grown(self, rollout: Rollout, sampling: Sampling) -> Rollout:
        end, have = int(rollout.prompt_id) % 7 + 1 + rollout.sample, len(rollout.token_ids)
        length = min(end, have + (sampling.max_new_tokens_per_round or 0))
        return replace(
            rollout,
            token_ids=rollout.token_ids + list(range(have, length)),
            logprobs=rollout.logprobs + [-1.0] * (length - have),
            stop_reason="stop" if length == end else "unfinished",
            weights_version=self.version,
            earlier=rollout.token_versions,
        )


def growing(encoder: Encoder, version: int = 1) -> GroupSampler:
    partial = sampler(Growing.__new__(Growing), encoder, set(), None)
    partial.engine.version = version  # type: ignore[attr-defined]
    partial.sampling = replace(partial.sampling, max_tokens=8, max_new_tokens_per_round=3)
    partial.ledger.max_rounds = 3
    return partial


def test_partial_rollouts_are_continued_and_nothing_is_lost(encoder: Encoder) -> None:
    partial, record = growing(encoder), trainer()
    seen: list[tuple[Group, list[Rollout]]] = []
    for version in range(1, 9):
        partial.engine.version = record.weights_version = version  # type: ignore[attr-defined]
        groups = collected(partial, record)
        assert len(groups) == 4
        seen += groups
        for each, rollouts in groups:
            for sample, rollout in enumerate(rollouts):
                assert (rollout.sample, rollout.stop_reason) == (sample, "stop")
                assert rollout.token_ids == list(range(each.row % 7 + 1 + sample)), "every token once, in order"
                assert rollout.token_versions == sorted(rollout.token_versions)
        ages = [version - v for _, rollouts in groups for r in rollouts for v in r.token_versions]
        assert record.metrics["rollout/staleness"] == fmean(ages)
    assert any(r.earlier and r.earlier[0] < r.weights_version for _, rollouts in seen for r in rollouts)
    under_way = [group.row for group in partial.ledger.surplus] + rows_of(partial.ledger.carried[0])
    begun = partial.stream.stretch(0, partial.ledger.prompts_begun)
    assert sorted([group.row for group, _ in seen] + under_way) == sorted(begun), "every prompt was begun once"
    assert len(partial.ledger.carried[0]) <= 4


def test_the_observer_is_called_in_every_round_because_it_is_a_collective(encoder: Encoder) -> None:
    partial, rounds = growing(encoder), []
    partial.sampling = replace(partial.sampling, max_new_tokens_per_round=1)
    partial.ledger.max_rounds = 2
    partial.observer = lambda step, prompts, rollouts, scores: rounds.append(len(rollouts))
    partial.collect(trainer())
    assert len(rounds) == 2
    assert rounds[0] == 0, "no group is complete after a token"


def resume(sampler: GroupSampler, stopped: GroupSampler, folder: Path) -> None:
    """What a checkpoint of `stopped` gives to a new sampler."""
    sampler.ledger.load_state(json.loads(json.dumps(stopped.ledger.state())))
    stopped.held.save(folder / "held")
    sampler.load_held([folder / "held"])


def test_a_resumed_sampler_continues_partial_rollouts(encoder: Encoder, tmp_path: Path) -> None:
    straight, stopped = growing(encoder), growing(encoder)
    for _ in range(2):
        assert collected(straight, trainer()) == collected(stopped, trainer())
    assert stopped.ledger.carried[0], "the case is only interesting with partial ones"
    assert all(stopped.held[prompt.number] for prompt in stopped.ledger.carried[0])
    resumed = growing(encoder, version=1)
    resume(resumed, stopped, tmp_path)
    for _ in range(4):
        assert collected(resumed, trainer()) == collected(straight, trainer())


def test_a_resumed_sampler_gives_the_groups_of_an_uninterrupted_one(
    engine: HFEngine, encoder: Encoder, tmp_path: Path
) -> None:
    useful = set(range(0, 64, 2))
    straight, stopped = (sampler(engine, encoder, useful, 5) for _ in range(2))
    for _ in range(2):
        assert collected(straight, trainer()) == collected(stopped, trainer())
    resumed = sampler(engine, encoder, useful, 5)
    resume(resumed, stopped, tmp_path)
    assert resumed.ledger.surplus, "the case is only interesting with a surplus"
    assert resumed.held.keys() == {group.prompt.number for group in resumed.ledger.surplus}
    for _ in range(3):
        assert collected(resumed, trainer()) == collected(straight, trainer())


def test_rollouts_that_no_step_will_use_are_not_held(engine: HFEngine, encoder: Encoder) -> None:
    dynamic = sampler(engine, encoder, set(range(0, 64, 2)), 5)
    for _ in range(4):
        collected(dynamic, trainer())
        assert sorted(dynamic.held) == sorted(dynamic.ledger.numbers_waiting(0))


# The way of rollouts to other ranks and into checkpoints

TEXTS = st.text(max_size=5) | st.just("\ud800 half a pair")
TOKENS = st.lists(st.tuples(st.integers(0, 2**31 - 1), st.floats(allow_nan=False)), max_size=5)


@st.composite
def any_rollouts(draw: st.DrawFn) -> Rollout:
    tokens = draw(TOKENS)
    experts = draw(st.none() | st.tuples(st.integers(0, 5), st.integers(1, 3), st.integers(1, 3)))
    return Rollout(
        draw(TEXTS),
        draw(st.integers(0, 9)),
        [token for token, _ in tokens],
        [logprob for _, logprob in tokens],
        draw(TEXTS),
        draw(st.sampled_from(["stop", "length", "unfinished"])),
        draw(st.integers(0, 2**40)),
        list(range(draw(st.integers(0, len(tokens))))),
        control_tokens=draw(st.integers(0, 3)),
        routed_experts=None
        if experts is None
        else np.random.default_rng(0).integers(-1, 2**15 - 1, experts).astype(np.int16),
    )


@given(st.lists(any_rollouts(), max_size=3))
def test_rollouts_survive_as_bytes(rollouts: list[Rollout]) -> None:
    read = from_bytes(to_bytes(rollouts))
    assert read == rollouts
    for ours, theirs in zip(read, rollouts, strict=True):
        if theirs.routed_experts is None:
            assert ours.routed_experts is None
        else:
            assert ours.routed_experts is not None
            assert ours.routed_experts.dtype == np.int16
            assert np.array_equal(ours.routed_experts, theirs.routed_experts)


@given(st.dictionaries(st.integers(0, 2**40), st.lists(any_rollouts(), max_size=2), max_size=3))
def test_held_rollouts_survive_a_checkpoint(held: dict[int, list[Rollout]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        HeldRollouts(held).save(Path(folder) / "held")
        read = HeldRollouts({1: []})
        read.load([Path(folder) / "held"], held)
    assert read == held


# The mismatch of engine and trainer


def test_the_mismatch_is_recorded_and_beyond_a_limit_the_run_stops() -> None:
    learner = trainer()
    differences = [torch.tensor([0.0, 0.1]), torch.tensor([-0.2])]
    check_mismatch(learner, differences, MismatchLimits(mean=0.11, p99=0.21, kl=0.1))
    assert learner.metrics == {
        "mismatch/mean": pytest.approx(0.1),
        "mismatch/p99": pytest.approx(0.2),
        "mismatch/max": pytest.approx(0.2),
        "mismatch/kl": pytest.approx((math.expm1(0.1) - 0.1 + math.expm1(-0.2) + 0.2) / 2),
    }
    with pytest.raises(LogprobMismatchError, match=r"step 0: .* mean 0\.1 \(limit 0\.05\) nats"):
        check_mismatch(learner, differences, MismatchLimits(mean=0.05, p99=1.0, kl=1.0))
    check_mismatch(learner, [], MismatchLimits(mean=0.05, p99=1.0, kl=1.0))  # all rollouts were sampled ahead


# What counts in the loss


def batches(**settings: Any) -> RolloutBatches:
    defaults = {
        "sampler": None,
        "annotator": Annotator(),
        "estimator": CompletionAdvantages("grpo"),
        "aggregation": Aggregation("sequence_mean"),
        "mini_batches": 1,
        "epochs": 1,
        "skip_zero_advantage": True,
        "overlong_filtering": False,
        "critic_warmup": 0,
        "probe_rollouts": 1,
        "mismatch_limits": MismatchLimits(1.0, 1.0, 1.0),
    }
    return RolloutBatches(**(defaults | settings))  # type: ignore[arg-type]


def drawn(groups: Sequence[Group]) -> list[RolloutSample]:
    """Every rollout of the groups as a sample of a three-token prompt."""
    return [
        RolloutSample(
            position,
            index,
            Sample(
                torch.arange(3 + r.length),
                3,
                token_fields=TokenFields(rollout_logprobs=torch.full((r.length,), -0.5)),
            ),
        )
        for position, g in enumerate(groups)
        for index, r in enumerate(g.rollouts)
    ]


def test_a_group_without_signal_is_not_computed_but_counts_in_the_mean_over_sequences() -> None:
    groups = [group([1.0, 0.0], [2, 4]), group([1.0, 1.0], [3, 3])]
    samples = drawn(groups)
    CompletionAdvantages("grpo")(groups, samples)
    batch = batches()._step_batch(trainer(), groups, samples)
    assert [len(sample) for sample in batch.samples] == [5, 7]
    assert batch.loss_denominator == 4
    assert batch.samples[1].token_fields.weights.tolist() == [0.25] * 4
    whole = batches(skip_zero_advantage=False)._step_batch(trainer(), groups, samples)
    assert len(whole.samples) == 4
    assert whole.loss_denominator == 4


def test_overlong_filtering_leaves_cut_completions_out_of_sum_and_denominator() -> None:
    groups = [grouped([rollout(2), rollout(9, stop="length")], [1.0, 0.0])]
    samples = drawn(groups)
    CompletionAdvantages("grpo")(groups, samples)
    batch = batches(overlong_filtering=True, aggregation=Aggregation("token_mean"))._step_batch(
        trainer(), groups, samples
    )
    assert [len(sample) for sample in batch.samples] == [5]
    assert batch.loss_denominator == 2


def test_the_critic_s_warm_up_ends_with_its_last_step_even_within_a_batch_of_rollouts() -> None:
    groups, learner = [group([1.0, 0.0])], trainer()
    samples = drawn(groups)
    CompletionAdvantages("grpo")(groups, samples)
    source, seen = batches(critic_warmup=3, epochs=4), []
    for learner.step in range(5):  # the same samples in every epoch
        seen.append(source._step_batch(learner, groups, samples).critic_only)
    assert seen == [True, True, True, False, False]


def test_mini_batches_are_the_same_groups_however_many_came() -> None:
    assert batches(mini_batches=2)._parts(8) == [range(4), range(4, 8)]
    assert batches(mini_batches=4)._parts(6) == [range(1), range(1, 3), range(3, 4), range(4, 6)]
    assert batches(mini_batches=2)._parts(0) == [range(0), range(0)]


def test_a_kl_penalty_in_the_reward_moves_the_advantages() -> None:
    groups = [group([1.0, 1.0], [2, 1])]
    samples = drawn(groups)
    for d, reference in zip(samples, (-0.5, -1.5), strict=True):
        d.sample.token_fields.reference_logprobs = torch.full((d.sample.completion_length,), reference)
    CompletionAdvantages("dr_grpo", kl_coef=0.1)(groups, samples)
    # k1 = log policy - log reference: 0 for the first, 1 for the second; rewards 1 and 0.9, mean 0.95
    values = [d.sample.token_fields.advantages.tolist() for d in samples]
    assert values[0] == pytest.approx([0.05, 0.05])
    assert values[1] == pytest.approx([-0.05])


def reinforce(estimator: Any, groups: list[Group], references: Sequence[float] | None = None) -> list[list[float]]:
    """Advantages of each sample; a sample's reference log-probs are all alike, and the policy's are -0.5."""
    samples = drawn(groups)
    for d, reference in zip(samples, references or [], strict=bool(references)):
        d.sample.token_fields.reference_logprobs = torch.full((d.sample.completion_length,), reference)
    estimator(groups, samples)
    return [d.sample.token_fields.advantages.tolist() for d in samples]


def test_reinforce_plus_plus_normalises_over_the_tokens_of_the_batch() -> None:
    groups = [group([1.0, 0.0], [1, 3])]  # four tokens with rewards 1, 0, 0, 0: mean 1/4, deviation sqrt(3)/4
    expected = [[0.75 / (3**0.5 / 4 + 1e-4)], [-0.25 / (3**0.5 / 4 + 1e-4)] * 3]
    for found, wanted in zip(reinforce(BatchAdvantages(), groups), expected, strict=True):
        assert found == pytest.approx(wanted)
    easy = [group([1.0, 1.0]), group([0.0, 0.0])]
    assert reinforce(BatchAdvantages(), easy)[0][0] > 0, "no group baseline: an easy question is good news"
    assert reinforce(BatchGroupAdvantages(), easy) == [[0.0, 0.0]] * 4


def test_reinforce_plus_plus_charges_a_token_for_its_own_and_later_kl() -> None:
    groups = [group([1.0, 0.0], [3, 1])]
    # k1 = -0.5 - reference: 1 at each token of the first sample, 0 at that of the second. A_t = r - 0.1 Σ_{i≥t} KL_i
    raw = torch.tensor([0.7, 0.8, 0.9, 0.0], dtype=torch.float64)
    expected = (raw - raw.mean()) / (raw.std(correction=0) + 1e-4)
    found = reinforce(BatchAdvantages(kl_coef=0.1), groups, [-1.5, -0.5])
    assert found[0] + found[1] == pytest.approx(expected.tolist())
    raw = torch.tensor([0.2, 0.3, 0.4, -0.5], dtype=torch.float64)
    found = reinforce(BatchGroupAdvantages(kl_coef=0.1), groups, [-1.5, -0.5])
    assert found[0] + found[1] == pytest.approx((raw / (raw.std(correction=0) + 1e-4)).tolist())


@pytest.mark.parametrize("size", range(2, 9))
def test_equal_rewards_give_reinforce_plus_plus_exactly_zero(size: int) -> None:
    for reward in [number / 50 for number in range(21, 46)]:
        equal = group([reward] * size, [2] * size)
        assert reinforce(BatchAdvantages(), [equal, equal]) == [[0.0, 0.0]] * 2 * size
        mixed = reinforce(BatchGroupAdvantages(), [equal, group([1.0] + [0.0] * (size - 1), range(1, size + 1))])
        assert mixed[:size] == [[0.0, 0.0]] * size


def test_gae_gives_each_token_its_own_advantage_and_return() -> None:
    groups = [group([1.0, 0.0], [2, 1])]
    samples = drawn(groups)
    samples[0].sample.token_fields.old_values = torch.tensor([0.5, 0.8])
    samples[1].sample.token_fields.old_values = torch.tensor([0.4])
    CriticAdvantages(gamma=1.0, lam=1.0)(groups, samples)
    assert samples[0].sample.token_fields.returns.tolist() == pytest.approx([1.0, 1.0])
    assert samples[1].sample.token_fields.returns.tolist() == pytest.approx([0.0])
    # raw advantages 0.5, 0.2, -0.4: mean 0.1, deviation sqrt(0.14)
    whitened = torch.cat([d.sample.token_fields.advantages for d in samples])
    expected = (torch.tensor([0.5, 0.2, -0.4]) - 0.1) / 0.14**0.5
    torch.testing.assert_close(whitened, expected, atol=1e-5, rtol=0)


def test_advantages_and_the_critic_s_targets_have_a_lambda_each() -> None:
    def estimated(**settings: Any) -> tuple[list[float], list[float]]:
        groups = [group([1.0, 0.0], [2, 1])]
        samples = drawn(groups)
        samples[0].sample.token_fields.old_values = torch.tensor([0.5, 0.8])
        samples[1].sample.token_fields.old_values = torch.tensor([0.4])
        CriticAdvantages(**settings)(groups, samples)
        fields = [d.sample.token_fields for d in samples]
        return torch.cat([f.advantages for f in fields]).tolist(), torch.cat([f.returns for f in fields]).tolist()

    # δ is 0.3, 0.2 and -0.4. λ 0.5 gives 0.3 + 0.5 · 0.2 = 0.4 first: mean 0.2 / 3, mean square 0.12
    deviation = (0.12 - (0.2 / 3) ** 2) ** 0.5
    whitened = [(raw - 0.2 / 3) / deviation for raw in (0.4, 0.2, -0.4)]
    advantages, returns = estimated(lam=0.5)
    assert advantages == pytest.approx(whitened, abs=1e-5)
    assert returns == pytest.approx([1.0, 1.0, 0.0])
    _, returns = estimated(lam=0.5, value_lam=0.0)
    assert returns == pytest.approx([0.8, 1.0, 0.0])
    advantages, _ = estimated(length_alpha=1.0)  # λ 0.5 for two tokens, 0 for one
    assert advantages == pytest.approx(whitened, abs=1e-5)


def test_the_explained_variance_is_one_for_a_perfect_critic_and_zero_for_a_constant() -> None:
    samples = [d.sample for d in drawn([group([1.0, 0.0], [3, 1])])]
    for sample, target in zip(samples, (1.0, 0.0), strict=True):
        sample.token_fields.returns = torch.full((sample.completion_length,), target)
    for first, second, share in ((1.0, 0.0, 1.0), (0.7, 0.7, 0.0), (0.5, 0.0, 0.75), (0.0, 1.0, -3.0)):
        for sample, value in zip(samples, (first, second), strict=True):
            sample.token_fields.old_values = torch.full((sample.completion_length,), value)
        assert explained_variance(samples) == pytest.approx(share)
    for sample in samples:
        sample.token_fields.returns = torch.zeros(sample.completion_length)
    assert explained_variance(samples) == 0
    assert explained_variance([]) == 0


def test_a_rank_without_samples_takes_part_in_the_estimates() -> None:
    for estimator in (CriticAdvantages(), CompletionAdvantages("grpo"), BatchAdvantages(), BatchGroupAdvantages()):
        estimator([group([1.0, 0.0])], [])


def test_a_prompt_s_size_counts_its_visual_tokens(encoder: Encoder) -> None:
    content = [{"type": "image"}, {"type": "text", "text": "Hi"}]
    row = {"id": "1", "prompt": [{"role": "user", "content": content}], "images": [picture(0)]}
    tokens, visual = encoder.prompt_size(encoder.prompt(row))
    assert visual == 4
    assert tokens == len(encoder.prompt_inputs(encoder.prompt(row))[0])
