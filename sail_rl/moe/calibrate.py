"""Distribution-aware tuning: finds the mixture of language sources with the highest expert-activation entropy.

The SAIL-VL2 report (arXiv 2509.14033), in its part on MoE, probes expert activation by source and then calibrates the
language data for the highest entropy. Text-only activation is kept, and that of multimodal data improves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy

from sail_rl.maths.mixture import max_entropy_mixture, mixture_entropy

from .source import Activation


@dataclass(frozen=True, slots=True)
class Calibration:
    """A calibrated mixture and its entropy.

    `weights` are the language sources' shares of the tokens, which sum to 1. No allowed mixture's entropy is more than
    `gap` nats higher. `entropies` holds the mean entropy over layers in nats of the mixtures "uniform", "by tokens" and
    "calibrated": of the language sources ("text") and, if there are multimodal sources, of all sources by their tokens
    ("all").
    """

    weights: dict[str, float]
    gap: float
    entropies: dict[str, dict[str, float]]


def calibrate(
    activations: Mapping[str, Activation],
    *,
    languages: Sequence[str],
    keep: Mapping[str, float],
    cap: Mapping[str, float],
) -> Calibration:
    """Find the mixture of `languages` with the highest expert-activation entropy, averaged over layers.

    Args:
        activations: the activation of every probed source.
        languages: the sources to mix. Multimodal sources among the others only enter the reported entropies.
        keep, cap: the smallest and largest weight of a source, by default 0 and 1.

    Raises:
        ValueError: for an unknown or repeated source, or for bounds that allow no mixture.
    """
    if not languages:
        raise ValueError("--languages is empty; give --languages a,b,…")
    repeated = sorted({name for name in languages if list(languages).count(name) > 1})
    if repeated:
        raise ValueError(f"--languages names {', '.join(repeated)} more than once")
    for name in languages:
        if name not in activations:
            raise ValueError(
                f"--languages names {name!r}, which was not probed; the probe has {', '.join(activations)}"
            )
        if activations[name].multimodal:
            raise ValueError(
                f"--languages names {name!r}, but {activations[name].rows_with_images} of its {activations[name].rows} "
                "rows have images; language sources are text-only"
            )
    lower, upper = _bounds(languages, keep=keep, cap=cap)
    shares = numpy.stack([activations[name].shares for name in languages])
    optimum = max_entropy_mixture(shares, lower=lower, upper=upper)
    tokens = numpy.array([float(activations[name].tokens) for name in languages])
    mixtures = {
        "uniform": numpy.full(len(languages), 1 / len(languages)),
        "by tokens": tokens / tokens.sum(),
        "calibrated": optimum.weights,
    }
    entropies = {name: {"text": mixture_entropy(weights, shares)} for name, weights in mixtures.items()}
    pictured = [name for name in activations if activations[name].multimodal]
    if pictured:
        own = numpy.array([float(activations[name].tokens) for name in pictured])
        every = numpy.concatenate([shares, numpy.stack([activations[name].shares for name in pictured])])
        for name, weights in mixtures.items():
            parts = numpy.concatenate([weights * tokens.sum(), own])
            entropies[name]["all"] = mixture_entropy(parts / parts.sum(), every)
    return Calibration(dict(zip(languages, optimum.weights.tolist(), strict=True)), optimum.gap, entropies)


def _bounds(
    languages: Sequence[str], *, keep: Mapping[str, float], cap: Mapping[str, float]
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Lower and upper bounds in the order of `languages`; raises ValueError if they are impossible."""
    for option, bounds in (("--keep", keep), ("--cap", cap)):
        for name, bound in bounds.items():
            if name not in languages:
                raise ValueError(f"{option} {name}={bound:g}: {name!r} isn't one of {', '.join(languages)}")
            if not 0 <= bound <= 1:
                raise ValueError(f"{option} {name}={bound:g}: a weight is between 0 and 1")
    lower = numpy.array([keep.get(name, 0.0) for name in languages])
    upper = numpy.array([cap.get(name, 1.0) for name in languages])
    for name, least, most in zip(languages, lower, upper, strict=True):
        if least > most:
            raise ValueError(f"--keep {name}={least:g} is above --cap {name}={most:g}")
    if lower.sum() > 1 + 1e-12:
        raise ValueError(f"the --keep weights sum to {lower.sum():g}; lower them to at most 1")
    if upper.sum() < 1 - 1e-12:
        raise ValueError(f"the --cap weights sum to {upper.sum():g}; raise them to at least 1")
    return lower, upper
