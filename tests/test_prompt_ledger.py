"""The ledger of prompts, without an engine: nothing is lost or repeated over any rounds, kills and resumptions."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sail_rl.data.order import RowStream
from sail_rl.trainer.groups import Group, NumberedPrompt, RolloutSummary
from sail_rl.trainer.prompt_ledger import PromptLedger, StepGroups


@dataclass(frozen=True)
class Setting:
    """How a stage samples; prompt n needs `lengths[n % len]` tokens, and its rewards differ if `useful[n % len]`."""

    per_rank: int = 2
    world_size: int = 1
    max_rounds: int = 1
    dynamic: bool = False
    tokens_per_round: int | None = None
    lengths: tuple[int, ...] = (1,)
    useful: tuple[bool, ...] = (True,)


def group(prompt: NumberedPrompt, rewards: list[float], *, rank: int = 0, length: int = 1) -> Group:
    return Group(prompt, rank, [RolloutSummary(reward, length, False, 1, length) for reward in rewards], 1, 0)


@dataclass
class Job:
    """All ranks of a job with a ledger each, and what its rounds gave so far."""

    setting: Setting
    ledgers: list[PromptLedger] = field(init=False)
    steps: list[StepGroups] = field(default_factory=list)
    completed: list[Group] = field(default_factory=list)
    tokens: dict[int, int] = field(default_factory=dict)
    """Tokens so far of each prompt that was begun, by its number."""

    def __post_init__(self) -> None:
        self.ledgers = [self.ledger() for _ in range(self.setting.world_size)]

    def ledger(self) -> PromptLedger:
        s = self.setting
        # The order is 0, 1, 2, …, so that a row says which prompt of the order it is.
        return PromptLedger(
            s.per_rank * s.world_size,
            lambda start, count: list(range(start, start + count)),
            s.world_size,
            s.max_rounds,
            s.dynamic,
        )

    def round(self) -> None:
        """One round: each rank samples its share, and records what all ranks gave."""
        shares = [self.ledgers[rank].prompts_of_round(rank) for rank in range(self.setting.world_size)]
        for ledger in self.ledgers:
            assert [ledger.prompts_of_round(rank) for rank in range(self.setting.world_size)] == shares
        sampled = [[self.sampled(prompt, rank) for prompt in share] for rank, share in enumerate(shares)]
        complete = [each for share in sampled for each in share if isinstance(each, Group)]
        unfinished = [[each for each in share if isinstance(each, NumberedPrompt)] for share in sampled]
        for ledger in self.ledgers:
            ledger.record_round(list(complete), [list(groups) for groups in unfinished])
        self.completed += complete

    def step(self) -> None:
        while self.ledgers[0].needs_round:
            assert all(ledger.needs_round for ledger in self.ledgers)
            self.round()
        steps = [ledger.take_step() for ledger in self.ledgers]
        assert all(step == steps[0] for step in steps)
        self.steps.append(steps[0])

    def sampled(self, prompt: NumberedPrompt, rank: int) -> Group | NumberedPrompt:
        s = self.setting
        before, end = self.tokens.get(prompt.number, 0), s.lengths[prompt.row % len(s.lengths)]
        self.tokens[prompt.number] = length = min(end, before + (s.tokens_per_round or end))
        if length < end:
            return prompt
        return group(prompt, [0.0, float(s.useful[prompt.row % len(s.useful)])], rank=rank, length=length)

    def checkpoint(self) -> str:
        states = [json.dumps(ledger.state()) for ledger in self.ledgers]
        assert len(set(states)) == 1, "the ledgers of all ranks agree"
        return states[0]

    def killed_and_resumed(self, checkpoint: str, steps: int, completed: int, tokens: dict[int, int]) -> Job:
        resumed = Job(self.setting, self.steps[:steps], self.completed[:completed], dict(tokens))
        for ledger in resumed.ledgers:
            ledger.load_state(json.loads(checkpoint))
        return resumed


@st.composite
def settings(draw: st.DrawFn) -> Setting:
    longest = draw(st.integers(1, 9))
    partial = draw(st.none() | st.integers(1, 4))
    dynamic = draw(st.none() | st.integers(1, 3))
    return Setting(
        per_rank=draw(st.integers(1, 4)),
        world_size=draw(st.integers(1, 4)),
        max_rounds=(dynamic or 1) * (-(-longest // partial) if partial else 1),
        dynamic=dynamic is not None,
        tokens_per_round=partial,
        lengths=tuple(draw(st.lists(st.integers(1, longest), min_size=1, max_size=7))),
        useful=tuple(draw(st.lists(st.booleans(), min_size=1, max_size=5))),
    )


def rows(groups: list[Any]) -> list[int]:
    return [group.row for group in groups]


def check_nothing_lost_or_repeated(job: Job) -> None:
    ledger, setting = job.ledgers[0], job.setting
    used = [group for step in job.steps for group in step.groups]
    carried = [prompt for prompts in ledger.carried for prompt in prompts]
    assert sorted(rows(job.completed) + rows(carried)) == list(range(ledger.prompts_begun))
    good = [group for group in job.completed if group.informative or not setting.dynamic]
    assert used + ledger.surplus == good, "good groups are used once each, in the order in which they came"
    waiting = [number for rank in range(setting.world_size) for number in ledger.numbers_waiting(rank)]
    held = [group.prompt for group in ledger.surplus] + carried
    assert sorted(waiting) == sorted(prompt.number for prompt in held), "each rank holds the rollouts it sampled"


@given(settings(), st.integers(1, 6))
def test_no_prompt_is_lost_or_repeated(setting: Setting, steps: int) -> None:
    job = Job(setting)
    for _ in range(steps):
        job.step()
        check_nothing_lost_or_repeated(job)


@given(settings(), st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=6))
def test_a_killed_job_resumes_as_if_nothing_had_happened(setting: Setting, kills: list[tuple[int, bool]]) -> None:
    """Each step is killed after some rounds, and resumed from the newest checkpoint or from the one before it."""
    straight = Job(setting)
    for _ in kills:
        straight.step()
    job = Job(setting)
    saved: list[tuple[str, int, int, dict[int, int]]] = [(job.checkpoint(), 0, 0, {})]
    for rounds, from_the_one_before in kills:
        for _ in range(rounds):
            if job.ledgers[0].needs_round:
                job.round()
        if from_the_one_before and len(saved) > 1:
            saved.pop()
        job = job.killed_and_resumed(*saved[-1])
        job.step()
        check_nothing_lost_or_repeated(job)
        saved.append((job.checkpoint(), len(job.steps), len(job.completed), dict(job.tokens)))
    while len(job.steps) < len(straight.steps):
        job.step()
    assert job.steps == straight.steps
    assert job.checkpoint() == straight.checkpoint()


@given(settings(), st.integers(1, 6))
def test_a_step_samples_until_it_is_complete_and_no_longer(setting: Setting, steps: int) -> None:
    job = Job(setting)
    wanted = setting.per_rank * setting.world_size
    for _ in range(steps):
        before = len(job.ledgers[0].surplus)
        job.step()
        step = job.steps[-1]
        assert step.rounds <= setting.max_rounds
        assert (step.rounds == 0) == (before >= wanted)
        assert len(step.groups) == wanted or step.rounds == setting.max_rounds
        if not setting.dynamic:
            assert len(step.groups) == wanted
        if not setting.tokens_per_round:
            assert step.sampled == step.rounds * wanted


@given(settings(), st.integers(1, 6))
def test_unfinished_groups_stay_on_their_rank_and_their_number_is_bounded(setting: Setting, steps: int) -> None:
    job = Job(setting)
    for _ in range(steps):
        carried = [rows(groups) for groups in job.ledgers[0].carried]
        shares = [job.ledgers[0].prompts_of_round(rank) for rank in range(setting.world_size)]
        for share, before in zip(shares, carried, strict=True):
            assert rows(share)[: len(before)] == before
            assert len(share) == setting.per_rank
        job.step()


@given(
    st.sampled_from([(12, 1), (6, 2), (4, 3), (3, 4)]), st.lists(st.booleans(), min_size=1, max_size=9), st.booleans()
)
def test_complete_rollouts_give_the_same_steps_on_any_number_of_ranks(
    split: tuple[int, int], useful: list[bool], dynamic: bool
) -> None:
    per_rank, world_size = split
    jobs = [
        Job(Setting(ranks_share, ranks, 3 if dynamic else 1, dynamic, useful=tuple(useful)))
        for ranks_share, ranks in ((12, 1), (per_rank, world_size))
    ]
    for job in jobs:
        for _ in range(4):
            job.step()
    assert [rows(step.groups) for step in jobs[0].steps] == [rows(step.groups) for step in jobs[1].steps]


def test_without_dynamic_sampling_a_step_trains_on_the_next_prompts_of_the_order() -> None:
    stream = RowStream(range(10), batch_size=4, seed=3)  # type: ignore[arg-type]
    ledger = PromptLedger(4, stream.stretch, world_size=2)
    assert [rows(ledger.prompts_of_round(rank)) for rank in range(2)] == [stream.indices(0)[:2], stream.indices(0)[2:]]
    prompts = [prompt for rank in range(2) for prompt in ledger.prompts_of_round(rank)]
    ledger.record_round([group(prompt, [1.0]) for prompt in prompts], [[], []])
    assert rows(ledger.take_step().groups) == stream.indices(0)
    assert rows(ledger.prompts_of_round(1)) == stream.indices(1)[2:]


def test_dynamic_sampling_replaces_groups_without_signal_and_keeps_what_is_left() -> None:
    job = Job(Setting(per_rank=4, max_rounds=3, dynamic=True, useful=(True, False, True)))
    for _ in range(2):
        job.step()
    # Of the prompts 0, 1, 2, …, those whose number leaves a remainder of 1 by 3 carry no signal.
    assert [rows(step.groups) for step in job.steps] == [[0, 2, 3, 5], [6, 8, 9, 11]]
    assert [(step.rounds, step.sampled, step.uninformative) for step in job.steps] == [(2, 8, 3), (1, 4, 1)]
    assert rows(job.ledgers[0].surplus) == []


def test_a_spent_budget_gives_a_step_fewer_groups() -> None:
    job = Job(Setting(per_rank=4, max_rounds=3, dynamic=True, useful=(False,) * 11 + (True,)))
    job.step()
    assert rows(job.steps[0].groups) == [11]
    assert (job.steps[0].rounds, job.steps[0].uninformative) == (3, 11)


def test_partial_groups_are_continued_before_new_prompts_begin() -> None:
    job = Job(Setting(per_rank=2, max_rounds=3, tokens_per_round=2, lengths=(5, 1, 1)))
    job.step()  # rounds of the prompts 0 and 1, then 0 and 2; 0 and 3 have five tokens
    assert rows(job.steps[0].groups) == [1, 2]
    assert [rows(groups) for groups in job.ledgers[0].carried] == [[0]]
    assert rows(job.ledgers[0].prompts_of_round(0)) == [0, 3]
    job.step()  # rounds of 0 and 3, then 3 and 4
    assert rows(job.steps[1].groups) == [0, 4]
    job.step()
    assert rows(job.steps[2].groups) == [3, 5]


@pytest.mark.parametrize("world_size", [1, 4])
def test_completions_of_all_lengths_are_trained_on_equally_often(world_size: int) -> None:
    """Steps that kept the first groups to end, and gave up the others, had a mean length of 88.6 instead of 101.7."""
    generator = random.Random(0)
    lengths = tuple(min(512, 1 + int(generator.expovariate(1 / 100))) for _ in range(4_000))
    job = Job(Setting(8 // world_size, world_size, 16, tokens_per_round=32, lengths=lengths))
    for _ in range(400):
        job.step()
    used = [lengths[row] for step in job.steps for row in rows(step.groups)]
    begun = lengths[: job.ledgers[0].prompts_begun]
    assert fmean(used) == pytest.approx(fmean(begun), rel=0.01)
    for shortest in (100, 200, 400):
        share = fmean(length > shortest for length in used)
        assert share == pytest.approx(fmean(length > shortest for length in begun), abs=0.01)
    assert max(step.rounds for step in job.steps) < 16, "no step waits for its longest completion"


@pytest.mark.parametrize(("before", "ranks"), [(1, 2), (2, 1), (2, 4), (4, 2), (3, 4)])
def test_what_the_ranks_of_an_earlier_job_held_is_dealt_out_again(before: int, ranks: int) -> None:
    def rows_at(start: int, count: int) -> list[int]:
        return list(range(start, start + count))

    old = PromptLedger(12, rows_at, world_size=before)
    begun = [old.prompts_of_round(rank) for rank in range(before)]
    complete = [replace(group(prompts[0], [1.0, 0.0]), rank=rank) for rank, prompts in enumerate(begun)]
    old.record_round(complete, [prompts[1:] for prompts in begun])
    old._step_rounds = 0  # as after a step
    new = PromptLedger(12, rows_at, world_size=ranks)
    new.load_state(json.loads(json.dumps(old.state())))
    held = [number for rank in range(ranks) for number in new.numbers_waiting(rank)]
    assert sorted(held) == list(range(12)), "each group has one rank, and none is lost"
    assert [found.prompt for found in new.surplus] == [found.prompt for found in complete]
    carried = [prompt for prompts in new.carried for prompt in prompts]
    assert carried == [prompt for prompts in old.carried for prompt in prompts], "in the same order"
    assert max(map(len, new.carried)) <= 12 // ranks, "no rank samples more than its share"


def test_a_round_that_loses_a_group_is_refused() -> None:
    ledger = PromptLedger(2, lambda start, count: list(range(start, start + count)))
    with pytest.raises(AssertionError, match="a round of 2 prompts gave 1 groups"):
        ledger.record_round([group(NumberedPrompt(0, 0), [1.0])], [[]])
