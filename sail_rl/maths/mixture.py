"""The data mixture of highest expert-activation entropy: a concave problem, solved with a certificate.

S sources, L layers, E experts. p [S, L, E] are the sources' expert shares in each layer (each p[s, l] sums to 1); a
mixture w [S] activates expert i of layer l with probability q[l, i] = Σ_s w_s · p[s, l, i].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import entr

Array = NDArray[numpy.float64]
GAP_TOLERANCE = 1e-6
"""Largest accepted distance to the optimum, in nats."""


@dataclass(frozen=True, slots=True)
class Optimum:
    """`weights` [S], their `entropy` in nats, and `gap`: no feasible mixture exceeds `entropy` + `gap`."""

    weights: Array
    entropy: float
    gap: float


def mixture_entropy(weights: Array, shares: Array) -> float:
    """Mean over layers of the entropy of the mixed expert activation, (1/L) Σ_l H(Σ_s w_s p[s, l]), in nats.

    Args:
        weights: [S], sum 1.
        shares: p [S, L, E].
    """
    return float(entr(numpy.tensordot(weights, shares, axes=1)).sum(-1).mean())


def entropy_gradient(weights: Array, shares: Array) -> Array:
    """Gradient [S] of `mixture_entropy` with respect to the weights: -(1/L) Σ_l Σ_i p[s, l, i] · (log q[l, i] + 1).

    Infinite for a source that activates an expert which the mixture does not activate.
    """
    mixed = numpy.tensordot(weights, shares, axes=1)
    surprise = numpy.zeros_like(shares)
    with numpy.errstate(divide="ignore"):
        numpy.multiply(shares, -numpy.log(mixed) - 1, out=surprise, where=shares > 0)
    return surprise.sum(-1).mean(-1)


def duality_gap(weights: Array, shares: Array, *, lower: Array, upper: Array) -> float:
    """Upper bound (nats) of the distance to the optimum: max over feasible v of ∇H(w)·(v - w), as H is concave.

    The best v fills the sources with the steepest gradient first (Jaggi 2013, "Revisiting Frank-Wolfe", section 2.2).
    """
    gradient = entropy_gradient(weights, shares)
    best, left = lower.copy(), 1 - lower.sum()
    for source in numpy.argsort(-gradient):
        step = min(left, upper[source] - lower[source])
        best[source] += step
        left -= step
    moved = best != weights
    return float((gradient[moved] * (best - weights)[moved]).sum())


def max_entropy_mixture(shares: Array, *, lower: Array, upper: Array) -> Optimum:
    """The mixture w with lower <= w <= upper, Σ w = 1 whose expert-activation entropy is highest.

    The mixture is unique if the sources' activations differ; sources with equal activations share a unique sum.

    Args:
        shares: p [S, L, E].
        lower, upper: [S] bounds of the weights; a mixture within them must exist.

    Raises:
        RuntimeError: if the solver ended farther than GAP_TOLERANCE from the optimum.
    """
    start = _inside(lower, upper)
    used = shares.sum(0) > 0  # an expert that no source activates has entropy 0 in every mixture

    def negative_entropy(weights: Array) -> tuple[float, Array]:
        mixed = numpy.maximum(numpy.tensordot(weights, shares, axes=1), numpy.finfo(float).tiny)
        slopes = numpy.where(used, -numpy.log(mixed) - 1, 0.0)
        return -float(entr(mixed).sum(-1).mean()), -(shares * slopes).sum(-1).mean(-1)

    found = minimize(
        negative_entropy,
        start,
        jac=True,
        method="SLSQP",
        bounds=list(zip(lower, upper, strict=True)),
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": numpy.ones_like},
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    weights = numpy.clip(found.x, lower, upper)
    gap = duality_gap(weights, shares, lower=lower, upper=upper)
    if not gap <= GAP_TOLERANCE:
        raise RuntimeError(f"the mixture may be {gap:.2g} nats from the optimum ({found.message}); relax the bounds")
    return Optimum(weights, mixture_entropy(weights, shares), max(0.0, gap))


def _inside(lower: Array, upper: Array) -> Array:
    """A feasible mixture: every weight at the same fraction of the way from its lower to its upper bound."""
    room = (upper - lower).sum()
    return lower + (upper - lower) * ((1 - lower.sum()) / room if room else 0.0)
