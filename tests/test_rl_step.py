"""The RL step's parts: sharing out, dynamic sampling, what counts in the loss, GAE's token fields."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any

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
)
from sail_rl.trainer.groups import Group, PartialGroup
from sail_rl.trainer.mismatch import LogprobMismatchError, check_mismatch
from sail_rl.trainer.prompt_ledger import PromptLedger
from sail_rl.trainer.rl import RolloutBatches
from sail_rl.trainer.sampling import GroupSampler
from sail_rl.trainer.stopwatch import Stopwatch


def rollout(tokens: int, *, stop: str = "stop", version: int = 1) -> Rollout:
    return Rollout("p", 0, [5] * tokens, [-0.5] * tokens, "text", stop, version)  # type: ignore[arg-type]


def group(rewards: Sequence[float], lengths: Sequence[int] = (2, 2), **options: Any) -> Group:
    return Group(0, [rollout(length, **options) for length in lengths], list(rewards), 3, 1)


# Sharing out


@given(
    st.lists(st.tuples(st.integers(1, 500), st.integers(0, 100)), max_size=60),
    st.integers(1, 8),
)
def test_every_sample_goes_to_exactly_one_rank(sizes: list[tuple[int, int]], shares: int) -> None:
    assigned = balanced_shares(sizes, shares=shares)
    assert len(assigned) == shares
    assert sorted(index for share in assigned for index in share) == list(range(len(sizes)))


def test_tokens_and_visual_tokens_are_both_balanced() -> None:
    # Four long texts and four short questions with large images.
    sizes = [(100, 0)] * 4 + [(60, 50)] * 4
    for share in balanced_shares(sizes, shares=2):
        assert sum(sizes[index][0] for index in share) == 320
        assert sum(sizes[index][1] for index in share) == 100


def test_a_long_tail_is_spread_evenly() -> None:
    sizes = [(max(1, 2000 // (n + 1)), 0) for n in range(200)]
    loads = [sum(sizes[index][0] for index in share) for share in balanced_shares(sizes, shares=4)]
    assert max(loads) / min(loads) < 1.05


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
        self.streams, self.go = 0, threading.Event()

    def stream(self, prompts: Sequence[Prompt], sampling: Sampling) -> Generator[tuple[int, list[Rollout]]]:
        self.streams += 1
        if self.streams > 1:
            assert self.go.wait(60)
        yield from super().stream(prompts, sampling)


def test_the_next_batch_is_sampled_while_this_one_is_trained_on(
    tiny_dir: Callable[..., Path], encoder: Encoder
) -> None:
    waiting = WaitingEngine(tiny_dir())
    waiting.push_weights(1, load_model(tiny_dir()).named_parameters())
    ahead, record = sampler(waiting, encoder, set(), None), trainer()
    ahead.can_sample_ahead = lambda step: step == 0
    first = ahead.collect(record)
    assert record.metrics["rollout/staleness"] == 0
    assert waiting.streams == 2, "the second batch is under way already"
    record.step, record.weights_version = 1, 2
    waiting.go.set()
    second = ahead.collect(record)
    assert record.metrics["rollout/staleness"] == 1
    assert waiting.streams == 2, "a third one isn't: step 1 is disturbed"
    assert {"time/generate", "time/generate_ahead", "time/score_ahead", "time/wait"} <= record.stopwatch.take().keys()
    plain, now = sampler(waiting, encoder, set(), None), trainer()
    assert [plain.collect(now), plain.collect(now)] == [first, second], "the same rollouts, but for the weights"
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


def rows_of(carried: list[list[PartialGroup]]) -> list[list[int]]:
    return [[prompt.row for prompt in prompts] for prompts in carried]


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
    seen: list[Group] = []
    for version in range(1, 9):
        partial.engine.version = record.weights_version = version  # type: ignore[attr-defined]
        groups = partial.collect(record)
        assert len(groups) == 4
        seen += groups
        for each in groups:
            for sample, rollout in enumerate(each.rollouts):
                assert (rollout.sample, rollout.stop_reason) == (sample, "stop")
                assert rollout.token_ids == list(range(each.row % 7 + 1 + sample)), "every token once, in order"
                assert rollout.token_versions == sorted(rollout.token_versions)
        ages = [version - v for each in groups for r in each.rollouts for v in r.token_versions]
        assert record.metrics["rollout/staleness"] == fmean(ages)
    assert any(rollout.earlier and rollout.earlier[0] < rollout.weights_version for g in seen for rollout in g.rollouts)
    under_way = [group.row for group in partial.ledger.surplus] + rows_of(partial.ledger.carried)[0]
    begun = partial.stream.stretch(0, partial.ledger.prompts_begun)
    assert sorted([group.row for group in seen] + under_way) == sorted(begun), "every prompt was begun once"
    assert len(partial.ledger.carried[0]) <= 4


def test_the_observer_is_called_in_every_round_because_it_is_a_collective(encoder: Encoder) -> None:
    partial, rounds = growing(encoder), []
    partial.sampling = replace(partial.sampling, max_new_tokens_per_round=1)
    partial.ledger.max_rounds = 2
    partial.observer = lambda step, prompts, rollouts, scores: rounds.append(len(rollouts))
    partial.collect(trainer())
    assert len(rounds) == 2
    assert rounds[0] == 0, "no group is complete after a token"


def test_a_resumed_sampler_continues_partial_rollouts(encoder: Encoder) -> None:
    straight, stopped = growing(encoder), growing(encoder)
    for _ in range(2):
        straight.collect(trainer())
        stopped.collect(trainer())
    assert any(group.rollouts for group in stopped.ledger.carried[0]), "the case is only interesting with partial ones"
    resumed = growing(encoder, version=1)
    resumed.ledger.load_state(json.loads(json.dumps(stopped.ledger.state())))
    for _ in range(4):
        assert resumed.collect(trainer()) == straight.collect(trainer())


def test_a_resumed_sampler_gives_the_groups_of_an_uninterrupted_one(engine: HFEngine, encoder: Encoder) -> None:
    useful = set(range(0, 64, 2))
    straight, stopped = (sampler(engine, encoder, useful, 5) for _ in range(2))
    for _ in range(2):
        straight.collect(trainer())
        stopped.collect(trainer())
    resumed = sampler(engine, encoder, useful, 5)
    resumed.ledger.load_state(json.loads(json.dumps(stopped.ledger.state())))
    assert resumed.ledger.surplus, "the case is only interesting with a surplus"
    for _ in range(3):
        assert resumed.collect(trainer()) == straight.collect(trainer())


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


def sampled(rollout: Rollout) -> TokenFields:
    return TokenFields(rollout_logprobs=torch.tensor(rollout.logprobs))


def drawn(groups: Sequence[Group]) -> list[RolloutSample]:
    """Every rollout of the groups as a sample of a three-token prompt."""
    return [
        RolloutSample(
            position,
            index,
            Sample(
                torch.arange(3 + len(r.token_ids)),
                3,
                token_fields=TokenFields(rollout_logprobs=torch.tensor(r.logprobs)),
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
    groups = [Group(0, [rollout(2), rollout(9, stop="length")], [1.0, 0.0], 3, 1)]
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


def test_a_rank_without_samples_takes_part_in_the_estimates() -> None:
    for estimator in (CriticAdvantages(), CompletionAdvantages("grpo"), BatchAdvantages(), BatchGroupAdvantages()):
        estimator([group([1.0, 0.0])], [])


def test_a_prompt_s_size_counts_its_visual_tokens(encoder: Encoder) -> None:
    content = [{"type": "image"}, {"type": "text", "text": "Hi"}]
    row = {"id": "1", "prompt": [{"role": "user", "content": content}], "images": [picture(0)]}
    tokens, visual = encoder.prompt_size(encoder.prompt(row))
    assert visual == 4
    assert tokens == len(encoder.prompt_inputs(encoder.prompt(row))[0])
