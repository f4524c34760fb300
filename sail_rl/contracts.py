"""The types that every package shares: prompts, rollouts, reward functions and rollout engines.

`rewards/` and `rollouts/` import this file; `sail_rl` imports neither of them and is handed objects that fit these
protocols. Nothing here imports torch at run time, so that verification workers start fast.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

Message = dict[str, Any]
"""One chat message in the OpenAI/TRL format: `{"role": …, "content": str | list of parts}`."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question, before any token exists.

    `text` is the chat template applied with the generation prompt, with one image placeholder for each of `images`;
    `columns` holds every column of the dataset row, so that rewards see what they need. `partial_rollouts` are
    unfinished rollouts of this prompt, which the engine continues instead of sampling new ones. `token_ids` are the
    tokens of `text`, and what engines must sample from: a control token that the messages have as text is spelled with
    ordinary tokens in it, and would become a real one if `text` were tokenized again.
    """

    id: str
    messages: list[Message]
    text: str
    images: list[Image] = field(default_factory=list)
    columns: dict[str, Any] = field(default_factory=dict)
    partial_rollouts: Sequence[Rollout] = ()
    token_ids: Sequence[int] = ()


StopReason = Literal["stop", "length", "unfinished"]


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled completion and its provenance.

    `token_ids` are the sampled tokens. `stop_reason` is "stop" (the last token is the end-of-sequence token), "length"
    (cut at the token limit) or "unfinished" (cut at `Sampling.max_new_tokens_per_round`). `logprobs[t]` is the
    log-probability (nats) of `token_ids[t]` under the distribution it was sampled from: temperature applied, banned
    tokens removed. `weights_version` is the version of the weights that sampled the last token; versions count the
    engine's weight pushes. `earlier` holds the versions of the first tokens, where older weights sampled them.
    `routed_experts`, if the sampling asks for them: the experts of each position but the last, prompt included
    [T - 1, layers, k]. `text` spells control tokens, except one at the end. `control_tokens` is their number: such a
    text can't be trained on as it is.
    """

    prompt_id: str
    sample: int
    token_ids: list[int]
    logprobs: list[float]
    text: str
    stop_reason: StopReason
    weights_version: int
    earlier: list[int] = field(default_factory=list)
    routed_experts: np.ndarray | None = field(default=None, compare=False, repr=False)
    control_tokens: int = 0

    @property
    def token_versions(self) -> list[int]:
        """For each token, the version of the weights that sampled it."""
        return self.earlier + [self.weights_version] * (len(self.token_ids) - len(self.earlier))


@dataclass(frozen=True, slots=True)
class Sampling:
    """The sampling settings. Temperature 0 is greedy.

    There is no top-p or top-k: both cut the distribution that the importance ratio divides by. Each sample has a seed
    of its own, `seed + hash(prompt id, sample)`, so that rollouts don't depend on batching or on the number of ranks.
    """

    samples_per_prompt: int = 1
    max_tokens: int = 256
    temperature: float = 1.0
    seed: int = 0
    max_new_tokens_per_round: int | None = None
    """Most tokens that one call adds to a completion. A completion that needs more is "unfinished", and may be passed
    in `Prompt.partial_rollouts` later. Requires an engine that `supports_partial_rollouts`."""
    routed_experts: bool = False
    """True fills `Rollout.routed_experts`. Requires an engine made with `capture_routed_experts=True`."""


@runtime_checkable
class RolloutEngine(Protocol):
    """The interface of a rollout engine (vLLM in process or in its own processes, transformers, …)."""

    shares_gpu: bool
    """True if its weights and caches take memory on the trainer's GPU."""
    runs_out_of_process: bool
    """True if it generates in other processes, so that the trainer can train meanwhile."""

    supports_partial_rollouts: bool
    """True if it implements `Sampling.max_new_tokens_per_round` and `Prompt.partial_rollouts`."""
    captures_routed_experts: bool
    """True if its constructor accepts `capture_routed_experts=True`, for `Sampling.routed_experts`."""

    def stream(self, prompts: Sequence[Prompt], sampling: Sampling) -> Generator[tuple[int, list[Rollout]]]:
        """Yield (index of the prompt, its group) as groups finish; closing the generator cancels unfinished groups."""
        ...

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Rollout]]:
        """Return one group of `samples_per_prompt` rollouts for each prompt, in the order of the prompts."""
        ...

    def push_weights(self, version: int, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Replace all weights by `tensors`, named as the trainer's parameters; later rollouts carry `version`."""
        ...

    def close(self) -> None:
        """Free the engine's memory and processes."""
        ...


class RewardFunction(Protocol):
    """TRL's reward signature: one score for each completion, or None where the reward doesn't apply.

    `prompts` and `completions` are conversations (lists of messages). `completion_ids`, `images` and every dataset
    column except `HIDDEN_COLUMNS` are lists with one entry for each completion. A function gets those that its
    parameters name, or all if it takes `**columns`; it may be async. An exception as a score marks the failure of that
    completion alone. Optional attributes: `close()`, `call_order`, `metrics()`, `check_gold(answer, **columns)`.
    """

    def __call__(self, *, completions: list[list[Message]], **columns: Any) -> list[float | None]: ...


HIDDEN_COLUMNS = {"prompts", "completions", "completion_ids", "prefilled", "self"} | {
    *("trainer_state", "log_extra", "log_metric", "environments")
}
"""Columns of a dataset that never reach a reward, since these names are arguments of ours, of methods, or of TRL's."""


def hidden_columns(columns: Iterable[str]) -> str | None:
    """A sentence that names the columns that rewards don't get; None if there are none."""
    hidden = [name for name in columns if name in HIDDEN_COLUMNS]
    if not hidden:
        return None
    return f"rewards don't get the column(s) {', '.join(hidden)}, since they have arguments of this name; rename them"


def reward_hook(function: Any, name: str) -> Any:
    """An optional attribute of a reward function, even inside a `functools.partial`; None if it lacks it."""
    return getattr(getattr(function, "func", function), name, None)


@dataclass(frozen=True, slots=True)
class RewardTerm:
    """A named reward function and its settings.

    `weight` is its weight in a weighted sum; a reward of weight 0 is only logged. Rewards of `call_order` 0 are called
    for every rollout; the others follow in ascending order, only for the rollouts whose total still depends on them.
    `on_none` says how None enters the total: leave the reward out, score 0, or stop the run. `on_error` says how an
    exception is scored: stop the run, 0, or None.
    """

    name: str
    function: RewardFunction
    weight: float = 1.0
    call_order: float = 0.0
    on_none: Literal["skip", "zero", "fail"] = "fail"
    on_error: Literal["fail", "zero", "none"] = "fail"


RIGHT = 0.5
"""A completion counts as right if its score is above this. Totals lie in [0, 1] and the answer has the largest weight
(report, section 4.2)."""

CallStatus = Literal["ok", "none", "timeout", "error", "too_long", "skipped"]


@dataclass(frozen=True, slots=True)
class RewardCall:
    """The record of one score.

    "skipped" rewards weren't called, because the total no longer depended on them. A "too_long" answer is wrong
    whatever it says.
    """

    status: CallStatus = "ok"
    milliseconds: float = 0.0
    cached: bool = False
    message: str = ""
    """The error, if the status is one."""


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of N completions: the `total` [N] that is trained on, and the `parts` [N], each with its own curve.

    A part is a reward, or an operation of the reward expression. It is NaN if the reward returned None or wasn't
    called; `calls` [N] says which. A total is never NaN.
    """

    total: list[float]
    parts: dict[str, list[float]]
    calls: dict[str, list[RewardCall]] = field(default_factory=dict)

    def some(self, start: int, end: int) -> Scores:
        """The scores of completions `start` to `end`."""
        parts = {name: values[start:end] for name, values in self.parts.items()}
        calls = {name: values[start:end] for name, values in self.calls.items()}
        return Scores(self.total[start:end], parts, calls)


def joined(scores: Sequence[Scores]) -> Scores:
    """The scores of several calls, concatenated."""
    if not scores:
        return Scores([], {})
    return Scores(
        [total for one in scores for total in one.total],
        {name: [value for one in scores for value in one.parts[name]] for name in scores[0].parts},
        {name: [call for one in scores for call in one.calls[name]] for name in scores[0].calls},
    )


class Scorer(Protocol):
    """Combines reward terms into one total for each rollout."""

    def __call__(self, prompts: Sequence[Prompt], rollouts: Sequence[Rollout]) -> Scores:
        """Score rollout `i`, sampled from prompt `i` (a prompt is repeated for each of its samples)."""
        ...

    def metrics(self) -> dict[str, float]:
        """The scorer's own metrics, by full name."""
        ...

    def close(self) -> None:
        """Stop any worker processes."""
        ...
