"""The table of all metrics: name, unit, meaning and panel; docs/metrics.md shows it."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. A `{placeholder}` in `name` stands for one part between slashes; `panel` groups docs and curves."""

    name: str
    unit: str
    description: str
    panel: str


METRICS = (
    Metric("eval/{set}/accuracy", "share", "held-out answers that are right (step 0: before training)", "accuracy"),
    Metric("eval/{set}/{reward}", "reward", "mean of a reward over held-out completions, e.g. `format`", "accuracy"),
    Metric("eval/{set}/thinking/{source}", "share", "completions with a finished thought, by `source`", "thinking"),
    Metric("eval/{set}/accuracy/{source}", "share", "held-out answers that are right, by `source`", "sources"),
    Metric("eval/{set}/pass@{k}", "share", "prompts with a right completion among k", "accuracy"),
    Metric("eval/{set}/maj@{k}", "share", "prompts whose most frequent answer among k is right", "accuracy"),
    Metric("eval/{set}/length_mean", "tokens", "mean length of the held-out completions", "length"),
    Metric("reward/total/mean", "reward", "mean of the total that is trained on", "reward"),
    Metric("reward/total/std", "reward", "standard deviation of the total over rollouts", "reward"),
    Metric(
        "reward/{name}/mean", "reward", "mean of one reward or part of the expression, where it has a score", "reward"
    ),
    Metric("reward/{name}/std", "reward", "standard deviation of that reward or part", "reward"),
    Metric("reward/{name}/none", "share", "rollouts for which this reward gave None", "reward calls"),
    Metric("reward/{name}/timeout", "share", "rollouts that this reward couldn't score in time", "reward calls"),
    Metric("reward/{name}/error", "share", "rollouts for which this reward, or its worker, failed", "reward calls"),
    Metric("reward/{name}/too_long", "share", "rollouts whose answer is too long to be right", "reward calls"),
    Metric("reward/{name}/skipped", "share", "rollouts that skipped it: another factor was 0", "reward calls"),
    Metric("reward/{name}/cache_hit", "share", "calls answered from the cache", "reward calls"),
    Metric("reward/{name}/ms_p50", "ms", "median time of a score (a batch's time divided by its size)", "reward calls"),
    Metric("reward/{name}/ms_p99", "ms", "99th percentile of the time of a score", "reward calls"),
    Metric("advantage/std", "—", "standard deviation of the advantages", "reward"),
    Metric("sampling/rounds", "batches", "batches of prompts that were sampled for the step", "reward"),
    Metric(
        "reward/{name}/judge/{number}", "see docs", "a judge's calls, tokens, cost, latency since the start", "reward"
    ),
    Metric("sampling/used_fraction", "share", "groups used by the step, relative to those requested", "reward"),
    Metric("sampling/surplus", "groups", "good groups kept for the next step", "reward"),
    Metric("groups/zero_variance", "share", "groups whose rewards are all equal: no signal", "reward"),
    Metric("rollout/length_mean", "tokens", "mean completion length", "length"),
    Metric("rollout/length_max", "tokens", "longest completion of the step", "length"),
    Metric("rollout/length_correct", "tokens", "mean length of the completions whose total is above 0.5", "length"),
    Metric("rollout/length_wrong", "tokens", "mean length of the other completions", "length"),
    Metric("rollout/truncated", "share", "completions cut at the token limit", "truncation"),
    Metric("rollout/thinking", "share", "completions with a finished thought", "length"),
    Metric("entropy", "nats", "mean entropy of the scored distribution over the labelled tokens", "entropy"),
    Metric("mismatch/mean", "nats", "mean |trainer - engine| log-prob of a token, same weights", "logprobs"),
    Metric("mismatch/p99", "nats", "99th percentile of the tokens' |trainer - engine| log-probs", "logprobs"),
    Metric("mismatch/kl", "nats", "divergence of a completion, engine to trainer, k3 estimate, mean", "logprobs"),
    Metric("mismatch/max", "nats", "largest |trainer - engine| log-prob of a token; grows with N", "logprobs"),
    Metric("rollout/weights_version", "pushes", "oldest weight push that sampled a rollout of the step", "logprobs"),
    Metric("rollout/staleness", "pushes", "weight pushes since a rollout of the step was sampled, mean", "logprobs"),
    Metric("kl/rollout", "nats", "divergence of trainer and sampling policy, k3 estimate", "logprobs"),
    Metric("ratio/mean", "—", "mean importance ratio, trainer to sampler", "logprobs"),
    Metric("ratio/effective_share", "share", "effective sample size of the ratios over the tokens' number", "logprobs"),
    Metric("importance/mean", "—", "mean weight of the correction from engine to trainer", "logprobs"),
    Metric("kl/reference", "nats", "divergence from the stage's starting model, the recipe's estimate", "logprobs"),
    Metric("value/mean", "reward", "the critic's estimate, mean over tokens", "value"),
    Metric("value/return", "reward", "mean return, which the critic should estimate", "value"),
    Metric("value/explained_variance", "share", "share of the returns' variance that values explain", "value"),
    Metric("value/loss", "reward²", "half the critic's squared error", "value"),
    Metric("value/clip_fraction", "share", "tokens whose value moved beyond value_clip", "value"),
    Metric("ratio/clip_low_fraction", "share", "tokens whose gradient the lower clip limit cuts", "logprobs"),
    Metric("ratio/clip_high_fraction", "share", "tokens whose gradient the upper clip limit cuts", "logprobs"),
    Metric("loss", "nats or none", "SFT: cross-entropy per token. RL: clipped policy loss, near 0 by design", "loss"),
    Metric("grad_norm", "—", "norm of the gradient before clipping", "loss"),
    Metric("learning_rate", "—", "learning rate of the step", "loss"),
    Metric("train/tokens", "tokens", "labelled tokens of the step, all ranks", "loss"),
    Metric("train/rate_scale", "—", "AdaLRS: ratio of the learning rate to the scheduled one", "loss"),
    Metric("train/skipped_steps", "steps", "optimiser steps skipped so far: gradient not finite", "loss"),
    Metric("train/empty_step", "0 or 1", "1: nothing carried a signal, so weights and optimiser stayed", "loss"),
    Metric("train/micro_batches", "micro-batches", "micro-batches (forward passes) of one rank in the step", "loss"),
    Metric("packing/fill", "share", "share of the micro-batches' tokens that samples fill (stream packing)", "packing"),
    Metric("packing/samples", "samples", "samples of the step's micro-batches, all ranks", "packing"),
    Metric("packing/visual_imbalance", "share", "extra time of vision towers because ranks' images differ", "packing"),
    Metric(
        "moe/load/{layer}/{expert}", "share", "share of a layer's routed token slots that one expert got", "experts"
    ),
    Metric("moe/load_max_violation", "—", "largest of the layers' violations", "balance"),
    Metric(
        "moe/load_max_violation/{layer}", "—", "busiest expert's load over the mean, minus 1 (0: balanced)", "balance"
    ),
    Metric("moe/entropy", "nats", "mean of the layers' entropies", "balance"),
    Metric("moe/entropy/{layer}", "nats", "entropy of a layer's load over its experts (log experts: even)", "balance"),
    Metric("moe/dead_experts", "experts", "dead experts of all layers", "balance"),
    Metric("moe/dead_experts/{layer}", "experts", "experts with less than a tenth of the mean load", "balance"),
    Metric("moe/aux_loss", "—", "mean of the layers' load-balancing losses, before its coefficient", "router"),
    Metric("moe/aux_loss/{layer}", "—", "load-balancing loss of the whole step (1: balanced)", "router"),
    Metric("moe/z_loss", "nats²", "mean of the layers' router z-losses, before its coefficient", "router"),
    Metric("moe/z_loss/{layer}", "nats²", "mean squared log-partition function of the router", "router"),
    Metric("time/step", "s", "the complete step", "time"),
    Metric("time/generate", "s", "sampling rollouts", "time"),
    Metric("time/score", "s", "computing rewards", "time"),
    Metric("time/wait", "s", "waiting for rollouts that are sampled ahead", "time"),
    Metric("time/generate_ahead", "s", "sampling rollouts during training (`staleness`)", "time"),
    Metric("time/score_ahead", "s", "computing rewards during training", "time"),
    Metric("time/train", "s", "forward and backward passes", "time"),
    Metric("time/count_experts", "s", "passes that count the experts' load ahead, part of time/train", "time"),
    Metric("time/sync", "s", "pushing weights into the rollout engine", "time"),
    Metric("time/probe", "s", "comparing log-probs of trainer and engine", "time"),
    Metric("time/evaluate", "s", "held-out evaluation", "time"),
)

_PLACEHOLDER = re.compile(r"\{\w+\}")


@cache
def _pattern() -> re.Pattern[str]:
    """A pattern that matches every known name; a placeholder matches any text without a slash."""
    alternatives = ("[^/]+".join(map(re.escape, _PLACEHOLDER.split(metric.name))) for metric in METRICS)
    return re.compile("|".join(alternatives))


def is_known(name: str) -> bool:
    """True if `name` is in the table, with placeholders filled in."""
    return _pattern().fullmatch(name) is not None


def nearest_known(name: str) -> str:
    """The known name closest to `name`, with placeholders filled from the corresponding parts of `name`."""
    parts = name.split("/")

    def fill(template: str) -> str:
        own = template.split("/")
        if len(own) != len(parts):
            return template
        pairs = zip(own, parts, strict=True)
        return "/".join(theirs if _PLACEHOLDER.fullmatch(ours) else ours for ours, theirs in pairs)

    return difflib.get_close_matches(name, [fill(metric.name) for metric in METRICS], n=1, cutoff=0.0)[0]


def metrics_table() -> str:
    """The table in Markdown, with one section per panel, as in docs/metrics.md below its introduction."""
    lines = []
    for panel in dict.fromkeys(metric.panel for metric in METRICS):
        lines += [f"## {panel}", "", "| metric | unit | meaning |", "|---|---|---|"]
        for metric in METRICS:
            if metric.panel == panel:
                cells = (f"`{metric.name}`", metric.unit, metric.description.replace("|", "\\|"))
                lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines)
