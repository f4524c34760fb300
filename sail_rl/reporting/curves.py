"""Curves of a run as PNGs: one picture for the README, and one for each panel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Records = Sequence[dict[str, Any]]
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed")
STAGE_SHADES = ("#eff6ff", "#fef9ec")


def panels(records: Records) -> dict[str, Callable[[Axes], None]]:
    """The panels that these records have data for, by title."""
    names = {name for record in records for name, value in record.items() if isinstance(value, (int, float))}
    evals = sorted(name for name in names if name.startswith("eval/") and not name.endswith("length_mean"))
    parts = sorted(name for name in names if name.startswith("reward/") and name.endswith("/mean"))
    lengths = [f"rollout/length_{kind}" for kind in ("mean", "correct", "wrong")]
    candidates: dict[str, tuple[list[str], dict[str, Any]]] = {
        "Held-out": (evals, {"markers": True, "limits": (0, 1.02)}),
        "Reward": (parts, {"limits": (0, 1.02)}),
        "Loss": (["loss"], {}),
        "Response length (tokens)": ([name for name in lengths if name in names], {}),
        "Entropy (nats)": (["entropy"], {}),
        "Engine vs trainer, log-prob gap (nats)": (["rollout/logprob_diff_max"], {"log": True}),
    }
    found: dict[str, Callable[[Axes], None]] = {}
    for title, (wanted, options) in candidates.items():
        if present := [name for name in wanted if name in names]:
            found[title] = _line_panel(records, present, **options)
    if any(name.startswith("moe/load/") for name in names):
        found["Expert load (share of the mean)"] = _load_panel(records)
    return found


def draw_curves(records: Records, run_dir: Path) -> list[Path]:
    """Write `curves.png` with all panels and `curves/TITLE.png` for each; returns the paths, the overview first."""
    drawn = panels(records)
    rows = -(-len(drawn) // 3)
    overview = Figure(figsize=(15, 3.6 * max(rows, 1)), layout="constrained")
    paths = [run_dir / "curves.png"]
    (run_dir / "curves").mkdir(exist_ok=True)
    for index, (title, draw) in enumerate(drawn.items()):
        single = Figure(figsize=(7, 4), layout="constrained")
        for axes in (overview.add_subplot(rows, min(3, len(drawn)), index + 1), single.add_subplot()):
            draw(axes)
            axes.set_title(title, fontsize=11, loc="left", fontweight="bold")
        name = "".join(c if c.isalnum() else "_" for c in title.split(" (")[0].lower())
        paths.append(run_dir / "curves" / f"{name}.png")
        single.savefig(paths[-1], dpi=110)
    overview.savefig(paths[0], dpi=90)
    return paths


def _line_panel(
    records: Records,
    names: Sequence[str],
    *,
    markers: bool = False,
    log: bool = False,
    limits: tuple[float, float] | None = None,
) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        _shade_stages(axes, records)
        for name, colour in zip(names, COLOURS * 3, strict=False):
            points = [(r["global_step"], r[name]) for r in records if r.get(name) is not None]
            steps, values = [point[0] for point in points], [point[1] for point in points]
            label = name.removesuffix("/mean").removeprefix("rollout/").removeprefix("eval/")
            if markers:
                axes.plot(steps, values, "o-", color=colour, markersize=4, label=label)
            else:
                axes.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
                axes.plot(steps, _smooth(values), color=colour, linewidth=1.8, label=label)
        if log:
            axes.set_yscale("log")
        if limits:
            axes.set_ylim(*limits)
        axes.set_xlabel("optimiser step, all stages")
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if len(names) > 1:
            axes.legend(fontsize=8, frameon=False)

    return draw


def _load_panel(records: Records) -> Callable[[Axes], None]:
    """Heat map of the last step: layers down, experts across, 1 = balanced."""
    last = next(r for r in reversed(records) if any(name.startswith("moe/load/") for name in r))
    cells = {
        tuple(map(int, name.split("/")[2:])): value for name, value in last.items() if name.startswith("moe/load/")
    }
    layers, experts = max(layer for layer, _ in cells) + 1, max(expert for _, expert in cells) + 1
    table = [[cells[layer, expert] * experts for expert in range(experts)] for layer in range(layers)]

    def draw(axes: Axes) -> None:
        image = axes.imshow(table, aspect="auto", cmap="viridis", vmin=0)
        axes.set_xlabel("expert")
        axes.set_ylabel("layer")
        assert axes.figure is not None
        axes.figure.colorbar(image, ax=axes)

    return draw


def _shade_stages(axes: Axes, records: Records) -> None:
    for index, stage in enumerate(dict.fromkeys(record["stage"] for record in records)):
        steps = [record["global_step"] for record in records if record["stage"] == stage]
        axes.axvspan(min(steps), max(steps), color=STAGE_SHADES[index % 2], zorder=0)
        axes.text(
            min(steps), 1.0, f" {stage}", transform=axes.get_xaxis_transform(), va="top", fontsize=8, color="#64748b"
        )


def _smooth(values: Sequence[float], weight: float = 0.8) -> list[float]:
    """Exponential moving average, started at the first value."""
    smoothed: list[float] = []
    for value in values:
        smoothed.append(value if not smoothed else weight * smoothed[-1] + (1 - weight) * value)
    return smoothed
