"""Names of the metrics of an evaluation on held-out prompts (see `evaluation.evaluate`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sail_rl.seeding import derive_seed

ACCURACY = "accuracy"
"""The reward that gives the held-out accuracy."""


def metric_names(rewards: Iterable[str], *, samples: int, sources: Iterable[str] = ()) -> list[str]:
    """Names of the metrics of one dataset, without `eval/DATASET/`.

    Args:
        rewards: names of the evaluation's rewards.
        samples: completions of each prompt.
        sources: the sources of the dataset's rows, see `source_of`.
    """
    names = [*rewards, "length_mean"]
    names += [f"{metric}/{source}" for source in sources for metric in (ACCURACY, "thinking")]
    return names + ([f"pass@{k}" for k in powers(samples)] + [f"maj@{samples}"] if samples > 1 else [])


def powers(samples: int) -> list[int]:
    """1, 2, 4, … and the number of samples itself."""
    return sorted({2**power for power in range(samples.bit_length()) if 2**power <= samples} | {samples})


def source_of(columns: Mapping[str, object]) -> str | None:
    """The row's `source` if it can be part of a metric's name, else None."""
    source = columns.get("source")
    return source if isinstance(source, str) and "/" not in source else None


def halves_of(dataset: str) -> tuple[str, str]:
    """Names of the rows of a halved dataset that choose the best model, and of those that report; no dataset has a dot.

    The best of many evaluations on the same rows is above the model's accuracy, because it chose its own noise.
    """
    return f"{dataset}.select", f"{dataset}.report"


def selecting(prompts: Iterable[str]) -> set[str]:
    """The half of a dataset's prompts, by id, that choose the best model; a fixed one, whatever the order and seed."""
    ordered = sorted(set(prompts), key=lambda name: (derive_seed("select", name), name))
    return set(ordered[: len(ordered) // 2])
