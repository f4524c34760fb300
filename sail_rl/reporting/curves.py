"""Draws a run's curves: all panels in curves.png, and one PNG per panel in curves/."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from sail_rl.run_dir import RunDir

from .panels import INK, Panel, panels_of
from .series import RunCurves

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 3
CELL = (5.2, 3.3)  # inches, width and height
DPI = 110
MARGIN = 8  # pixels around a panel


def write_curves(run_dir: Path) -> dict[str, Path]:
    """Draw `run_dir`/metrics.jsonl; returns the paths of the PNGs by panel name, "overview" (curves.png) first.

    Panels without data are omitted, and the result is empty for a run without metrics.
    """
    files = RunDir(run_dir)
    run = RunCurves.read(files.metrics)
    panels = panels_of(run)
    if not panels:
        return {}
    title = f"{run_dir.resolve().name}: {' → '.join(stage.name for stage in run.stages)}"
    canvas = FigureCanvasAgg(_overview(run, panels, title=title))
    canvas.draw()
    picture = Image.fromarray(numpy.asarray(canvas.buffer_rgba())).convert("RGB")
    paths = {"overview": files.overview}
    picture.save(paths["overview"])
    files.curves.mkdir(exist_ok=True)
    for panel in panels:  # cut out, because drawing each panel again takes longer than the overview
        paths[panel.name] = files.curves / f"{panel.name}.png"
        picture.crop(_outline(canvas, panel)).save(paths[panel.name])
    return paths


def _outline(canvas: FigureCanvasAgg, panel: Panel) -> tuple[int, int, int, int]:
    """Left, top, right and bottom pixel of a panel of the overview with its labels, colour bar and a margin."""
    boxes = [axes.get_tightbbox(canvas.get_renderer()) for axes in canvas.figure.axes if axes.get_gid() == panel.name]
    box = Bbox.union([box for box in boxes if box]).padded(MARGIN)
    width, height = canvas.get_width_height()
    left, top, right, bottom = int(box.x0), int(height - box.y1), int(box.x1) + 1, int(height - box.y0) + 1
    return max(0, left), max(0, top), min(width, right), min(height, bottom)


def save_panel(path: Path, draw: Callable[[Axes], None]) -> Path:
    """Draw one panel and save it at `path`, which is returned."""
    figure = _figure(5.6, 3.5)
    draw(figure.add_subplot())
    figure.savefig(path)
    return path


def _overview(run: RunCurves, panels: list[Panel], *, title: str) -> Figure:
    """All panels in a grid; wide ones span two columns, and the last one fills its row."""
    spans: list[tuple[int, int, int]] = []  # row, first column, columns
    row = column = 0
    for panel in panels:
        width = 2 if panel.wide else 1
        if column + width > COLUMNS:
            row, column = row + 1, 0
        spans.append((row, column, width))
        column += width
    last_row, first, _ = spans[-1]
    spans[-1] = (last_row, first, COLUMNS - first)
    figure = _figure(CELL[0] * COLUMNS, CELL[1] * (last_row + 1) + 0.5)
    figure.suptitle(title, fontsize=14, fontweight="bold", color=INK, x=0.01, ha="left")
    grid = figure.add_gridspec(last_row + 1, COLUMNS)
    for panel, (row, column, width) in zip(panels, spans, strict=True):
        known = set(figure.axes)
        panel.draw(figure.add_subplot(grid[row, column : column + width]), run)
        for axes in set(figure.axes) - known:  # the panel's own, and its colour bar's
            axes.set_gid(panel.name)
    return figure


def _figure(width: float, height: float) -> Figure:
    """A figure with this size in inches, made without pyplot and its global state."""
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # type: ignore[union-attr,call-arg]
    return figure
