"""The one table of metric names; docs/metrics.md is generated from it and a test compares the two."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's name (`{…}` stands for a part that varies), unit and meaning."""

    name: str
    unit: str
    meaning: str

    @property
    def pattern(self) -> re.Pattern[str]:
        """Matches the names that this entry stands for."""
        parts = re.split(r"{\w+}", self.name)
        return re.compile("[^/]+".join(map(re.escape, parts)))


METRICS = (
    Metric("loss", "nats a token", "The stage's loss over all labelled tokens of the step and all ranks"),
    Metric("grad_norm", "", "Norm of the whole gradient before clipping"),
    Metric("learning_rate", "", "Learning rate of the step"),
    Metric("entropy", "nats", "Mean entropy of the scored distribution over the labelled tokens"),
    Metric("train/tokens", "tokens", "Labelled tokens of the step, all ranks: the loss's denominator"),
    Metric("train/micro_batches", "rows", "Packed rows (micro-batches) on each rank"),
    Metric("moe/aux_loss", "", "Load-balancing loss before its coefficient"),
    Metric("moe/load_max_violation", "", "Busiest expert's excess over the mean load, relative, worst layer"),
    Metric("moe/entropy", "nats", "Entropy of the expert load, mean over layers"),
    Metric("moe/dead_experts", "experts", "Experts with less than a tenth of the mean load, all layers"),
    Metric("moe/load/{layer}/{expert}", "share", "Share of a layer's routed token slots that go to this expert"),
    Metric("ratio/mean", "", "Mean importance ratio, trainer to sampler"),
    Metric("ratio/clip_low_fraction", "share", "Tokens whose gradient the lower clip limit cuts"),
    Metric("ratio/clip_high_fraction", "share", "Tokens whose gradient the upper clip limit cuts"),
    Metric("kl/rollout", "nats a token", "k3 estimate of the divergence between sampler and trainer"),
    Metric("advantage/std", "", "Spread of the advantages over all rollouts"),
    Metric("reward/total/mean", "", "Mean of what is trained on"),
    Metric("reward/total/std", "", "Spread of what is trained on"),
    Metric("reward/{name}/mean", "", "Mean of one reward, unweighted"),
    Metric("reward/{name}/std", "", "Spread of one reward"),
    Metric("reward/{name}/none", "share", "Rollouts for which the reward gave None"),
    Metric("groups/zero_variance", "share", "Groups whose rewards are all equal: no signal"),
    Metric("rollout/length_mean", "tokens", "Completion length"),
    Metric("rollout/length_max", "tokens", "Longest completion"),
    Metric("rollout/length_correct", "tokens", "Mean length of rollouts whose total reward is above 0.5"),
    Metric("rollout/length_wrong", "tokens", "Mean length of the other rollouts"),
    Metric("rollout/truncated", "share", "Completions cut at the limit"),
    Metric("rollout/thinking", "share", "Completions with a finished thought"),
    Metric("rollout/weights_version", "", "Oldest weight push among the rollouts (optimiser step + 1)"),
    Metric("rollout/logprob_diff_max", "nats", "Largest gap between engine and trainer on the probed rollouts"),
    Metric("rollout/logprob_diff_mean", "nats", "Mean gap between engine and trainer on the probed rollouts"),
    Metric("eval/{set}/{reward}", "", "Mean reward of greedy completions on a held-out set (step 0: before training)"),
    Metric("eval/{set}/length_mean", "tokens", "Mean length of those completions"),
    Metric("time/generate", "s", "Sampling rollouts"),
    Metric("time/score", "s", "Scoring rollouts"),
    Metric("time/probe", "s", "Rescoring the probed rollouts"),
    Metric("time/train", "s", "Forward, backward and optimiser step"),
    Metric("time/sync", "s", "Pushing weights to the engine"),
    Metric("time/evaluate", "s", "Held-out evaluation"),
    Metric("time/step", "s", "The whole step"),
)


def check_names(names: list[str]) -> None:
    """Raise ValueError for a name that is not in the table, naming the nearest one that is."""
    for name in names:
        if not any(metric.pattern.fullmatch(name) for metric in METRICS):
            nearest = difflib.get_close_matches(name, [metric.name for metric in METRICS], n=1, cutoff=0.0)[0]
            raise ValueError(f"metric {name!r} is not in sail_rl/reporting/schema.py; the nearest is {nearest!r}")


def metrics_table() -> str:
    """The table in Markdown, as docs/metrics.md shows it."""
    lines = ["| metric | unit | meaning |", "|---|---|---|"]
    lines += [f"| `{metric.name}` | {metric.unit} | {metric.meaning} |" for metric in METRICS]
    return "\n".join(lines) + "\n"
