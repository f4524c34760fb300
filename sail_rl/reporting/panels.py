"""The panels of a run's curves: their contents and their common style."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy
from matplotlib import colormaps
from matplotlib.colors import TwoSlopeNorm, to_hex
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike

from .series import RunCurves, Series, StageSpan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT, GRID, SHADE = "#1f2937", "#6b7280", "#e5e7eb", "#f3f6fb"
PALETTE = ("#2563eb", "#ea580c", "#059669", "#9333ea", "#dc2626", "#0891b2", "#ca8a04", "#db2777")
PARTS_OF_A_STEP = ("generate", "score", "wait", "sync", "probe", "train", "evaluate")
BARS = 40
CHARACTERS = 85
"""The width of a panel in characters of a stage's name."""
RIGHT_COLOUR, WRONG_COLOUR = "#059669", "#dc2626"


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot. `name` is a panel of the schema, or a second view of one; `pattern` matches the metrics to draw.

    The horizontal axis is the global step, unless `over_steps` is false and the body draws its own.
    """

    name: str
    title: str
    unit: str
    pattern: str
    body: Callable[[Axes, dict[str, Series]], None]
    wide: bool = False
    over_steps: bool = True

    def data(self, run: RunCurves) -> dict[str, Series]:
        """The panel's non-empty series."""
        return run.present(run.names(self.pattern))

    def draw(self, axes: Axes, run: RunCurves) -> None:
        """Draw the panel into `axes`."""
        data = self.data(run)
        dress(axes, self.title, self.unit)
        if self.over_steps:
            numbers = {int(stage) for series in data.values() for stage in series.stages}
            _mark_stages(axes, list(enumerate(run.stages))[min(numbers) : max(numbers) + 1])
        self.body(axes, data)
        handles, labels = axes.get_legend_handles_labels()
        if len(labels) > 1 or (labels and self.wide):
            axes.legend(handles, labels, fontsize=8, frameon=False, loc="best", labelcolor=INK)


def panels_of(run: RunCurves) -> list[Panel]:
    """The panels that have data."""
    return [panel for panel in PANELS if panel.data(run)]


def dress(axes: Axes, title: str, unit: str) -> None:
    """Set the title, the unit and the common style of `axes`."""
    axes.set_title(title, fontsize=11, fontweight="bold", color=INK, loc="left", pad=16)
    axes.set_ylabel(unit, fontsize=9, color=FAINT)
    axes.tick_params(which="both", colors=FAINT, labelsize=8.5, length=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)


def _mark_stages(axes: Axes, stages: list[tuple[int, StageSpan]]) -> None:
    """Set the axis of global steps, and mark the stages by their names and alternating shades."""
    axes.set_xlabel("global step", fontsize=9, color=FAINT)
    start = stages[0][1].start
    end = max(stages[-1][1].end, start + 1)
    axes.set_xlim(start - 0.01 * (end - start), end + 0.01 * (end - start))
    for number, stage in stages:
        if number % 2:
            axes.axvspan(stage.start, stage.end, color=SHADE, zorder=0)
        if stage.start > start:
            axes.axvline(stage.start, color="#9ca3af", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        middle = (stage.start + stage.end) / 2
        above = axes.get_xaxis_transform()
        fits = int((stage.end - stage.start) / (end - start) * CHARACTERS)
        name = stage.name if len(stage.name) <= fits else stage.name[: fits - 1] + "…" if fits > 2 else ""
        axes.text(middle, 1.01, name, transform=above, ha="center", va="bottom", fontsize=8, color=FAINT)


def _line(axes: Axes, series: Series, *, label: str, colour: str, **style: Any) -> None:
    """Draw a smoothed line over its faint raw values, interrupted between stages."""
    smooth = series.smoothed()
    for stage in numpy.unique(series.stages):
        own = series.stages == stage
        axes.plot(series.steps[own], series.values[own], color=colour, alpha=0.22, linewidth=0.9)
        first = stage == series.stages[0]
        axes.plot(
            series.steps[own], smooth[own], color=colour, linewidth=1.9, label=label if first else None,
            solid_capstyle="round", **style,
        )  # fmt: skip


def _accuracy(axes: Axes, data: dict[str, Series]) -> None:
    """Draw points joined by lines, with labels at the run's start and at the end of each stage."""
    for (name, series), colour in zip(data.items(), PALETTE * 9, strict=False):
        axes.plot(series.steps, series.values, color=colour, linewidth=2, marker="o", markersize=3.5,
                  label=name.split("/")[1])  # fmt: skip
        first, ends = 0, []
        for index, (stage, following) in enumerate(pairwise([*series.stages, -1])):
            if stage != following:
                ends.append(index)
        axes.scatter(
            series.steps[ends], series.values[ends], s=60, color=colour, edgecolor="white", linewidth=1.5, zorder=5
        )
        for index in [first, *ends]:
            low = series.values[index] < 0.5
            axes.annotate(
                f"{series.values[index]:.1%}", (series.steps[index], series.values[index]),
                xytext=(4 if index == first else -4, 9 if low else -9), textcoords="offset points", fontsize=9,
                fontweight="bold", color=colour, ha="left" if index == first else "right",
                va="bottom" if low else "top",
            )  # fmt: skip
    axes.set_ylim(-0.03, 1.05)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _rewards(axes: Axes, data: dict[str, Series]) -> None:
    """Draw the total in black and each part in a colour."""
    colours = iter(PALETTE * 9)
    for name, series in data.items():
        part = name.split("/")[1]
        _line(axes, series, label=part, colour=INK if part == "total" else next(colours))


def _lengths(axes: Axes, data: dict[str, Series]) -> None:
    labels = {"mean": ("all", PALETTE[0]), "correct": ("right", RIGHT_COLOUR), "wrong": ("wrong", WRONG_COLOUR)}
    for name, series in data.items():
        label, colour = labels[name.rsplit("_", 1)[1]]
        _line(axes, series, label=label, colour=colour)
    axes.set_ylim(bottom=0)


def _by_source(axes: Axes, data: dict[str, Series]) -> None:
    """Draw points joined by lines, because evaluations are rare."""
    for (name, series), colour in zip(data.items(), PALETTE * 9, strict=False):
        label = name.rsplit("/", 1)[1]
        axes.plot(series.steps, series.values, color=colour, linewidth=1.9, marker="o", markersize=3, label=label)
    axes.set_ylim(-0.03, 1.05)


def _single(axes: Axes, data: dict[str, Series]) -> None:
    for name, series in data.items():
        _line(axes, series, label=name, colour=PALETTE[0])


def _router_losses(axes: Axes, data: dict[str, Series]) -> None:
    for (name, series), colour in zip(data.items(), PALETTE, strict=False):
        _line(axes, series, label=name.removeprefix("moe/").removesuffix("_loss"), colour=colour)


def _logprobs(axes: Axes, data: dict[str, Series]) -> None:
    """Draw points on a logarithmic axis, without exact zeros."""
    for (name, series), colour in zip(data.items(), (PALETTE[4], PALETTE[0], PALETTE[2]), strict=False):
        above = series.values > 0
        if above.any():
            axes.plot(series.steps[above], series.values[above], ".", markersize=3.5, color=colour,
                      label=name.rsplit("/", 1)[1])  # fmt: skip
    axes.set_yscale("log")


def _by_layer(axes: Axes, data: dict[str, Series]) -> None:
    """Draw a line for each layer, from dark for the first to light for the last."""
    names = sorted(data, key=lambda name: int(name.rsplit("/", 1)[1]))
    for number, name in enumerate(names):
        colour = to_hex(colormaps["viridis"](0.9 * number / max(1, len(names) - 1)))
        few = len(names) <= 8 or number in (0, len(names) - 1)
        _line(axes, data[name], label=f"layer {name.rsplit('/', 1)[1]}" if few else "_", colour=colour)


def _experts_of(names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """The (layer, expert) of each name `moe/load/LAYER/EXPERT`, sorted."""
    experts = {name: (int(name.split("/")[2]), int(name.split("/")[3])) for name in names}
    return dict(sorted(experts.items(), key=lambda item: item[1]))


def _load_map(axes: Axes, x_edges: ArrayLike, y_edges: ArrayLike, heat: numpy.ndarray) -> None:
    """Draw loads [rows, columns], in multiples of an equal share, as a heat map that is white at 1."""
    axes.grid(visible=False)
    norm = TwoSlopeNorm(vcenter=1.0, vmin=0.0, vmax=max(2.0, float(numpy.nanpercentile(heat, 99.5))))
    mesh = axes.pcolormesh(x_edges, y_edges, heat, cmap="RdBu_r", norm=norm, rasterized=True)
    axes.invert_yaxis()
    bar = axes.figure.colorbar(mesh, ax=axes, pad=0.02, aspect=25)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=FAINT, length=0)
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))


def _experts(axes: Axes, data: dict[str, Series]) -> None:
    """Draw the load of each expert (a row) over the steps, in bands for the layers."""
    rows = _experts_of(data)
    layers = [layer for layer, _ in rows.values()]
    experts = 1 + max(expert for _, expert in rows.values())
    steps = numpy.unique(numpy.concatenate([series.steps for series in data.values()]))
    heat = numpy.full((len(rows), len(steps)), numpy.nan)
    for row, name in enumerate(rows):
        heat[row, numpy.searchsorted(steps, data[name].steps)] = data[name].values * experts
    _load_map(axes, numpy.append(steps - 0.5, steps[-1] + 0.5), range(len(rows) + 1), heat)
    starts = [row for row, layer in enumerate(layers) if row == 0 or layer != layers[row - 1]]
    for row in starts[1:]:
        axes.axhline(row, color="white", linewidth=1.5)
    middles = [(low + high) / 2 for low, high in pairwise([*starts, len(rows)])]
    every = -(-len(starts) // 12)  # at most a dozen labels
    axes.set_yticks(middles[::every], [f"layer {layers[row]}" for row in starts[::every]])


def _expert_map(axes: Axes, data: dict[str, Series]) -> None:
    """Draw the mean load over the last tenth of the logged steps by layer (row) and expert (column)."""
    cells = _experts_of(data)
    layers, experts = (1 + max(numbers) for numbers in zip(*cells.values(), strict=True))
    heat = numpy.full((layers, experts), numpy.nan)
    for name, cell in cells.items():
        heat[cell] = data[name].values[-max(1, len(data[name]) // 10) :].mean() * experts
    _load_map(axes, range(experts + 1), range(layers + 1), heat)
    axes.set_xlabel("expert", fontsize=9, color=FAINT)
    for axis, number in ((axes.xaxis, experts), (axes.yaxis, layers)):
        every = -(-number // 16)
        axis.set_ticks([n + 0.5 for n in range(0, number, every)], [str(n) for n in range(0, number, every)])


def _seconds(axes: Axes, data: dict[str, Series]) -> None:
    """Draw the seconds of each part of a step as stacked bars, averaged over up to BARS ranges of steps."""
    all_steps = data["time/step"]
    bins = min(BARS, len(all_steps))
    edges = numpy.linspace(all_steps.steps[0], all_steps.steps[-1] + 1, bins + 1)
    counts = numpy.histogram(all_steps.steps, edges)[0].clip(min=1)
    heights = {
        name.removeprefix("time/"): numpy.histogram(series.steps, edges, weights=series.values)[0] / counts
        for name, series in data.items()
    }
    total = heights.pop("step")
    heights["other"] = (total - sum(heights.values())).clip(min=0)
    bottom = numpy.zeros(bins)
    for (name, height), colour in zip(heights.items(), (*PALETTE[: len(heights) - 1], GRID), strict=True):
        axes.bar(edges[:-1], height, numpy.diff(edges), bottom, align="edge", color=colour, label=name, linewidth=0)
        bottom += height


PANELS = (
    Panel("accuracy", "Held-out accuracy", "right answers", r"eval/[^/]+/accuracy", _accuracy, wide=True),
    Panel("reward", "Rewards (mean over rollouts)", "reward", r"reward/(?!guard_)[^/]+/mean", _rewards),
    Panel("guards", "Guards against reward hacking", "share", r"reward/guard_[^/]+/mean", _rewards),
    Panel("length", "Response length", "tokens", r"rollout/length_(mean|correct|wrong)", _lengths),
    Panel("thinking", "Held-out answers with a thought", "share", r"eval/[^/]+/thinking/[^/]+", _by_source),
    Panel("sources", "Held-out accuracy by source", "right answers", r"eval/[^/]+/accuracy/[^/]+", _by_source),
    Panel("truncation", "Completions cut at the token limit", "share", r"rollout/truncated", _single),
    Panel("entropy", "Token entropy", "nats", r"entropy", _single),
    Panel("logprobs", "Training–inference mismatch", "nats", r"mismatch/(max|mean|p99)", _logprobs),
    Panel("loss", "Loss (RL: near 0 by design)", "loss", r"loss", _single),
    Panel("time", "Seconds of a step", "s", rf"time/(step|{'|'.join(PARTS_OF_A_STEP)})", _seconds),
    Panel("experts", "Expert load (1× = equal share)", "", r"moe/load/\d+/\d+", _experts, wide=True),
    Panel("expert_map", "Expert load at the end", "layer", r"moe/load/\d+/\d+", _expert_map, over_steps=False),
    Panel("balance", "Entropy of the expert load", "nats", r"moe/entropy/\d+", _by_layer),
    Panel("router", "Router losses, before coefficients", "loss", r"moe/(aux|z)_loss", _router_losses),
)
