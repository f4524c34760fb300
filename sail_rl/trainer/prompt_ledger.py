"""The ledger of an RL stage's prompts: which are sampled next, which are carried over, and when a step is complete."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import Any

from .groups import Group, NumberedPrompt


@dataclass(frozen=True, slots=True)
class StepGroups:
    """The groups that one step trains on, and how many rounds and groups of sampling they took."""

    groups: list[Group]
    rounds: int
    sampled: int
    uninformative: int


@dataclass
class PromptLedger:
    """Decides which prompts each rank samples in a round, and which groups a step trains on.

    It neither samples nor communicates. Every rank keeps its own and records the same rounds, so that all ranks
    agree. It knows the groups in numbers only; their rollouts stay on the rank that sampled them. A step wants
    `prompts_per_step` groups. It samples rounds until it has them, or until `max_rounds` is used up; groups beyond what
    the step wants are the surplus that the next step begins with.

    Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2) drops groups whose rewards are all equal and replaces them by
    groups of the next prompts. With partial rollouts, a round may leave groups unfinished: they are carried to their
    rank's next round, of this step or the next one, and new prompts fill their places. No group is given up, so long
    completions come later but as often as short ones.

    Args:
        prompts_per_step: groups that a step wants, over all ranks.
        rows_at: `rows_at(start, count)` gives the rows of the endless order of prompts, see `RowStream.stretch`.
        world_size: number of ranks.
        max_rounds: most rounds of one step.
        dynamic: use only groups whose rewards differ.
        rounds: rounds recorded so far.
        prompts_begun: number of prompts taken from the order so far, over all ranks.
        surplus: groups that no step has used yet, in order.
        carried: the prompts of each rank's unfinished groups, in order.
    """

    prompts_per_step: int
    rows_at: Callable[[int, int], list[int]]
    world_size: int = 1
    max_rounds: int = 1
    dynamic: bool = False
    rounds: int = 0
    prompts_begun: int = 0
    surplus: list[Group] = field(default_factory=list)
    carried: list[list[NumberedPrompt]] = field(default_factory=list)
    _step_rounds: int = 0
    _sampled: int = 0
    _uninformative: int = 0

    def __post_init__(self) -> None:
        self.carried = self.carried or [[] for _ in range(self.world_size)]

    def state(self) -> dict[str, Any]:
        """The state that a checkpoint between two steps saves, so that no prompt is lost or repeated."""
        assert self._step_rounds == 0, "checkpoints are taken between steps"
        return {
            "rounds": self.rounds,
            "prompts_begun": self.prompts_begun,
            "surplus": [group.to_json() for group in self.surplus],
            "carried": [[asdict(prompt) for prompt in prompts] for prompts in self.carried],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`. What another number of ranks held is dealt out to the ranks of this job."""
        self.rounds, self.prompts_begun = state["rounds"], state["prompts_begun"]
        self.surplus = [Group.from_json(group) for group in state["surplus"]]
        self.carried = [[NumberedPrompt(**prompt) for prompt in prompts] for prompts in state["carried"]]
        if len(self.carried) != self.world_size:
            self.surplus = [replace(group, rank=index % self.world_size) for index, group in enumerate(self.surplus)]
            carried = list(chain.from_iterable(self.carried))
            share = math.ceil(len(carried) / self.world_size)
            self.carried = [carried[rank * share : (rank + 1) * share] for rank in range(self.world_size)]

    @property
    def needs_round(self) -> bool:
        """True if the current step wants more groups and may sample another round."""
        return self._step_rounds < self.max_rounds and len(self.surplus) < self.prompts_per_step

    def prompts_of_round(self, rank: int) -> list[NumberedPrompt]:
        """The prompts that a rank samples in the coming round: those carried over, then new ones."""
        new = self._new_prompts()
        first = self.prompts_begun + sum(new[:rank])
        rows = enumerate(self.rows_at(first, new[rank]), start=first)
        return self.carried[rank] + [NumberedPrompt(number, row) for number, row in rows]

    def numbers_waiting(self, rank: int) -> list[int]:
        """Numbers of the prompts whose rollouts a rank holds between two rounds: surplus and carried groups."""
        surplus = [group.prompt for group in self.surplus if group.rank == rank]
        return [prompt.number for prompt in surplus + self.carried[rank]]

    def record_round(self, complete: Sequence[Group], unfinished: Sequence[list[NumberedPrompt]]) -> None:
        """Record a round's results: all ranks' complete groups in order, and the prompts of each rank's others."""
        sampled = sum(self._new_prompts()) + sum(map(len, self.carried))
        found = len(complete) + sum(map(len, unfinished))
        assert found == sampled, f"a round of {sampled} prompts gave {found} groups"
        self.prompts_begun += sum(self._new_prompts())
        self.rounds, self._step_rounds = self.rounds + 1, self._step_rounds + 1
        self.carried = list(unfinished)
        informative = [group for group in complete if group.informative]
        self.surplus += informative if self.dynamic else complete
        self._sampled += len(complete)
        self._uninformative += len(complete) - len(informative)

    def take_step(self) -> StepGroups:
        """End the step: its groups, at most `prompts_per_step`; the rest stays for the next step."""
        groups, self.surplus = self.surplus[: self.prompts_per_step], self.surplus[self.prompts_per_step :]
        step = StepGroups(groups, self._step_rounds, self._sampled, self._uninformative)
        self._step_rounds = self._sampled = self._uninformative = 0
        return step

    def _new_prompts(self) -> list[int]:
        """Number of new prompts that each rank begins in the coming round."""
        share = math.ceil(self.prompts_per_step / self.world_size)
        return [max(0, share - len(carried)) for carried in self.carried]
