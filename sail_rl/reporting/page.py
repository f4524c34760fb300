"""The frame, style sheet and small elements of report.html, which loads nothing from outside."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from io import BytesIO
from pathlib import Path

from PIL import Image

from sail_rl.messages import data_url
from sail_rl.pictures import as_rgb

STYLE = """
:root { --ink: #1f2937; --faint: #6b7280; --line: #e5e7eb; --blue: #2563eb; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f7f9; color: var(--ink); font: 15px/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 28px 24px 64px; }
h1 { font-size: 26px; margin: 0; }
h1 small { font-size: 15px; font-weight: 400; color: var(--faint); margin-left: 10px; }
h2 { font-size: 17px; margin: 36px 0 12px; }
table.summary { border-collapse: collapse; background: #fff; border: 1px solid var(--line); border-radius: 10px; }
.summary th, .summary td { padding: 9px 20px; text-align: right; border-bottom: 1px solid var(--line); }
.summary th { font-weight: 600; color: var(--faint); font-size: 13px; }
.summary th:first-child, .summary td:first-child { text-align: left; font-weight: 600; }
.summary tr:last-child td { border-bottom: 0; } .summary td { font-variant-numeric: tabular-nums; }
.summary td:nth-child(3) { color: var(--blue); font-weight: 700; }
.curves { display: grid; grid-template-columns: repeat(6, 1fr); gap: 14px; }
.curve { grid-column: span 2; width: 100%; background: #fff; border: 1px solid var(--line); border-radius: 10px; }
.curve.accuracy, .curve.experts { grid-column: span 4; }
.curve { height: 100%; object-fit: contain; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(540px, 1fr)); gap: 14px; }
article { background: #fff; border: 1px solid var(--line); border-radius: 10px; display: grid; overflow: hidden;
  grid-template: "head head" auto "task text" 1fr "foot foot" auto / 170px 1fr; }
article header { grid-area: head; padding: 7px 14px; color: var(--faint); font-size: 12.5px;
  border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
article footer { grid-area: foot; padding: 8px 14px; border-top: 1px solid var(--line); }
.task { grid-area: task; padding: 12px 14px; border-right: 1px solid var(--line); overflow-wrap: anywhere; }
.task p { margin: 8px 0 0; font-size: 14px; white-space: pre-wrap; }
.task .gold { color: var(--faint); font-size: 13px; }
img.seen { width: 100%; max-height: 200px; object-fit: contain; image-rendering: pixelated; border-radius: 6px; }
.completion { grid-area: text; padding: 12px 14px; font: 13px/1.55 ui-monospace, Menlo, Consolas, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; max-height: 420px; overflow-y: auto; }
.thought { background: #fff7e6; color: #7c4a03; border-left: 3px solid #f59e0b; padding: 8px 10px; border-radius: 4px; }
.answer { background: #ecfdf5; color: #065f46; border-left: 3px solid #10b981; padding: 8px 10px; border-radius: 4px;
  margin-top: 8px; }
mark { background: #a7f3d0; color: inherit; font-weight: 700; border-radius: 3px; padding: 0 2px; }
.chip { display: inline-block; margin: 2px 6px 2px 0; padding: 1px 9px; border-radius: 99px; background: #eef1f5;
  font-size: 12.5px; color: var(--faint); } .chip b { color: var(--ink); }
.doctor { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 10px 16px 10px 34px;
  margin: 0; } .doctor i { color: var(--faint); } .runs td:nth-child(2), .runs th:nth-child(2) { text-align: left; }
.runs td:nth-child(3) { color: inherit; font-weight: 400; }
details { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 10px 16px; margin-top: 14px; }
summary { cursor: pointer; font-weight: 600; } pre { overflow-x: auto; font-size: 12.5px; }
@media (max-width: 900px) { .curve, .curve.accuracy, .curve.experts { grid-column: span 6; }
  .cards { grid-template-columns: 1fr; } }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Prevents markup from running or loading anything, even if it escaped escaping."""


def page(title: str, subtitle: str, sections: Iterable[str]) -> str:
    """A complete HTML document; `sections` are HTML, and the titles are plain text."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head>\n'
        f"<body><main><h1>{escape(title)}<small>{escape(subtitle)}</small></h1>\n"
        + "\n".join(sections)
        + "\n</main></body></html>\n"
    )


def embedded(path: Path, *, pixels: int | None = None) -> str:
    """The `data:` URL of a picture, scaled down if its longer side has more than `pixels`."""
    content = path.read_bytes()
    if pixels:
        with Image.open(path) as image:
            if max(image.size) > pixels:
                small = as_rgb(image)
                small.thumbnail((pixels, pixels))
                buffer = BytesIO()
                small.save(buffer, format="PNG")
                content = buffer.getvalue()
    return data_url(content)


def chip(name: str, value: float | str | None, *, scale: bool = False) -> str:
    """A small label; with `scale`, its colour ranges from red at 0 to green at 1."""
    shown = "none" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
    style = ""
    if scale and isinstance(value, int | float):
        hue = round(140 * min(max(value, 0.0), 1.0))
        style = f' style="background: hsl({hue} 70% 88%)"'
    return f'<span class="chip"{style}>{escape(name)} <b>{escape(shown)}</b></span>'
