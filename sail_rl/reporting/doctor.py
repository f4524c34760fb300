"""The doctor: rules over a run's metrics that report problems with their numbers and remedies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import fmean, median

from sail_rl.records.jsonl import Record

from .series import RunCurves

MIN_VALUES = 4
"""Fewest values of a metric that a rule judges."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A probable problem in a stage."""

    stage: str
    problem: str
    remedy: str


class StageMetrics:
    """The records of one stage, in order of steps."""

    def __init__(self, name: str, records: list[Record]) -> None:
        self.name = name
        self._records = records

    def values(self, name: str) -> list[float]:
        """All values of a metric."""
        return [record[name] for record in self._records if record.get(name) is not None]

    def names(self, start: str, end: str = "") -> list[str]:
        """The names of metrics with this start and end, by first appearance."""
        found = dict.fromkeys(name for record in self._records for name in record)
        return [name for name in found if name.startswith(start) and name.endswith(end)]

    def early(self, name: str) -> float | None:
        """Mean of the first quarter of a metric's values; None if it has fewer than MIN_VALUES."""
        values = self.values(name)
        return fmean(values[: len(values) // 4 or 1]) if len(values) >= MIN_VALUES else None

    def late(self, name: str) -> float | None:
        """Mean of the last quarter of a metric's values; None if it has fewer than MIN_VALUES."""
        values = self.values(name)
        return fmean(values[-(len(values) // 4 or 1) :]) if len(values) >= MIN_VALUES else None


Rule = Callable[[StageMetrics], Iterator[tuple[str, str]]]


def examine(run: RunCurves) -> list[Finding]:
    """The probable problems of a run, by stage."""
    findings = []
    for span in run.stages:
        own = [record for record in run.records if record["stage"] == span.name]
        stage = StageMetrics(span.name, sorted(own, key=lambda record: record["step"]))
        findings += [Finding(span.name, *found) for rule in RULES for found in rule(stage)]
    return findings


def _signal(stage: StageMetrics) -> Iterator[tuple[str, str]]:
    flat, reward = stage.late("groups/zero_variance"), stage.late("reward/total/mean")
    if flat is None or flat < 0.8 or reward is None:
        return
    if reward > 0.5:
        yield (
            f"zero-variance groups {flat:.0%} at a mean reward of {reward:.2f}: the data are too easy",
            "take harder rows (sail-rl data filter --kind hard), or end the stage here",
        )
    else:
        yield (
            f"zero-variance groups {flat:.0%} at a mean reward of {reward:.2f}: the data are too hard",
            "take easier rows, more samples per prompt, or a longer SFT stage before",
        )


def _truncation(stage: StageMetrics) -> Iterator[tuple[str, str]]:
    cut = stage.late("rollout/truncated")
    if cut is not None and cut > 0.2:
        yield (
            f"{cut:.0%} of the completions are cut at the token limit",
            "raise max_tokens, or penalise length (rewards.shaping, overlong_filtering)",
        )


def _entropy(stage: StageMetrics) -> Iterator[tuple[str, str]]:
    early, late = stage.early("entropy"), stage.late("entropy")
    if early is None or late is None or not stage.values("reward/total/mean"):
        return
    if late < 0.1 * early:
        yield (
            f"entropy fell from {early:.3g} to {late:.3g} nats: the policy no longer explores",
            "raise clip_high, entropy_coef or the sampling temperature, or lower the learning rate",
        )
    elif late > 3 * early and late > 1:
        yield (
            f"entropy rose from {early:.3g} to {late:.3g} nats: the policy degenerates",
            "lower the learning rate or entropy_coef, or add a KL penalty",
        )


def _mismatch(stage: StageMetrics) -> Iterator[tuple[str, str]]:
    gaps = stage.values("mismatch/p99")
    if gaps and max(gaps) > 0.1:
        yield (
            f"engine and trainer differ by more than {max(gaps):.3g} nats on a hundredth of the tokens, with the same "
            "weights",
            "in bfloat16 a difference is normal: set `importance`, and `routing_replay` for an MoE; in float32 the "
            "engine has other weights or code",
        )
    effective = stage.late("ratio/effective_share")
    if effective is not None and effective < 0.5:
        yield (
            f"effective sample size {effective:.0%} of the tokens: training is far off-policy",
            "use fewer mini_batches or epochs, staleness 0, or a lower learning rate",
        )


def _hacking(stage: StageMetrics) -> Iterator[tuple[str, str]]:
    rewards = stage.early("reward/total/mean"), stage.late("reward/total/mean")
    for name in stage.names("eval/", "/accuracy"):
        values = stage.values(name)
        if len(values) < 2 or None in rewards:
            continue
        rise, fall = rewards[1] - rewards[0], values[0] - values[-1]  # type: ignore[operator]
        if rise > 0.05 and fall > 0.03:
            yield (
                f"the reward rose by {rise:.2f} while {name} fell from {values[0]:.1%} to {values[-1]:.1%}",
                "read the best rollouts (sail-rl rollouts show --best 10): they earn the reward without right answers",
            )
    for name in stage.names("reward/guard_", "/mean"):
        if (late := stage.late(name)) is not None and late > 0.2:
            yield (f"{name} is {late:.2f}", "read the rollouts that trigger it: the policy may be hacking a reward")


def _regression(stage: StageMetrics) -> Iterator[tuple[str, str]]:
    for name in stage.names("eval/", "/accuracy"):
        values = stage.values(name)
        if len(values) > 2 and max(values) - values[-1] > 0.05:
            yield (
                f"{name} ends at {values[-1]:.1%}, below its best of {max(values):.1%}",
                f"set metric_for_best_model: {name} to keep the best model, or stop earlier",
            )


def _length(stage: StageMetrics) -> Iterator[tuple[str, str]]:
    early, late = stage.early("rollout/length_mean"), stage.late("rollout/length_mean")
    reward = stage.early("reward/total/mean"), stage.late("reward/total/mean")
    if early is None or late is None or None in reward:
        return
    if late > 2 * early and reward[1] - reward[0] < 0.02:  # type: ignore[operator]
        yield (
            f"completions grew from {early:.0f} to {late:.0f} tokens without more reward",
            "penalise length (rewards.shaping), or look for repetition",
        )


def _rewards(stage: StageMetrics) -> Iterator[tuple[str, str]]:
    for kind, share in (("timeout", 0.05), ("error", 0.01), ("too_long", 0.05), ("none", 0.2)):
        for name in stage.names("reward/", f"/{kind}"):
            late = stage.late(name)
            if late is not None and late > share and "guard_" not in name:  # guards often give None
                yield (f"{name} is {late:.1%}", "run sail-rl reward test on these rollouts to see which ones, and why")
    for name in stage.names("reward/", "/std"):
        values = stage.values(name)
        if len(values) >= MIN_VALUES and "guard_" not in name and max(values) == 0:
            yield (
                f"{name} is 0 at every step: all completions have the same score",
                "drop this reward, which teaches nothing",
            )


def _stability(stage: StageMetrics) -> Iterator[tuple[str, str]]:
    if skipped := max(stage.values("train/skipped_steps"), default=0.0):
        yield (f"{skipped:.0f} step(s) were skipped: gradient not finite", "inspect the saved batch, or lower the rate")
    norms = stage.values("grad_norm")
    norms = norms[len(norms) // 4 :]  # norms may be large at the start of a stage
    if len(norms) >= MIN_VALUES and max(norms) > 20 * median(norms) > 0:
        yield (
            f"the gradient norm jumps to {max(norms):.3g}, and its median is {median(norms):.3g}",
            "lower the learning rate or max_grad_norm, or warm up for longer",
        )


def _experts(stage: StageMetrics) -> Iterator[tuple[str, str]]:
    dead, violation = stage.late("moe/dead_experts"), stage.late("moe/load_max_violation")
    if dead is not None and dead >= 1:
        yield (f"{dead:.0f} experts are dead", "raise router_aux_loss_coef, or calibrate the mixture (sail-rl moe)")
    if violation is not None and violation > 5:
        yield (f"the busiest expert has {1 + violation:.1f}x its share", "raise router_aux_loss_coef")


def _time(stage: StageMetrics) -> Iterator[tuple[str, str]]:
    total = stage.late("time/step")
    for part, remedy in (
        ("generate", "use more rollout workers (rollouts.workers), `staleness: 1`, or a lower max_tokens"),
        ("score", "isolate fewer rewards, cache verdicts, raise groups_per_score for a judge"),
        ("sync", "push weights over NCCL or shared memory, or run the engine locally"),
        ("wait", "more rollout workers, or partial_tokens against the long tail"),
    ):
        own = stage.late(f"time/{part}")
        if total and own is not None and own > 0.7 * total:
            yield (f"{part} takes {own / total:.0%} of a step", remedy)


RULES: tuple[Rule, ...] = (
    *(_signal, _truncation, _entropy, _mismatch, _hacking, _regression, _length),
    *(_rewards, _stability, _experts, _time),
)
