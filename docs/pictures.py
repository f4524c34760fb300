"""Writes docs/row.svg and docs/processes.svg, the pictures of architecture.md: `python docs/pictures.py`."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent
WIDTH, HEIGHT = 196, 78  # of a box
DATA, ROLLOUTS, REWARDS, TRAINING = "#e8f0fe", "#e6f4ea", "#fef7e0", "#fce8e6"
STYLE = (
    "text{font-family:sans-serif;fill:#202124}.title{font-size:15px;font-weight:bold}.text{font-size:12px}"
    ".file{font-size:11px;fill:#5f6368;font-family:monospace}.note{font-size:12px;fill:#3c4043;font-style:italic}"
    "path{fill:none;stroke:#3c4043;stroke-width:1.5;marker-end:url(#head)}.dashed{stroke-dasharray:6 4}"
)
HEAD = '<marker id="head" markerWidth="9" markerHeight="7" refX="8" refY="3.5" orient="auto">'


def row_picture() -> str:
    """The path of one dataset row to the loss: to the right above, to the left below."""
    left, step, above, below = 20, 232, 40, 196
    x = [left + step * number for number in range(4)]
    middle = [place + WIDTH / 2 for place in x]
    parts = [
        _box(x[0], above, "Row", "prompt, images, answer", "sail_rl/data/dataset.py", DATA),
        _box(x[1], above, "Prompt", "chat template, image tokens", "sail_rl/data/encoding.py", DATA),
        _box(x[2], above, "Rollouts", "completions with log-probs", "rollouts/", ROLLOUTS),
        _box(x[3], above, "Rewards", "a score from each, a total", "rewards/", REWARDS),
        _box(x[3], below, "Samples", "tokens, masks, advantages", "sail_rl/trainer/rl.py", TRAINING),
        _box(x[2], below, "Micro-batches", "packed, balanced over ranks", "sail_rl/data/packing.py", TRAINING),
        _box(x[1], below, "Log-probs", "forward pass, no logits kept", "sail_rl/models/", TRAINING),
        _box(x[0], below, "Loss", "sum / one denominator", "sail_rl/maths/losses.py", TRAINING),
        *(_arrow([(place + WIDTH, above + HEIGHT / 2), (place + step, above + HEIGHT / 2)]) for place in x[:3]),
        *(_arrow([(place, below + HEIGHT / 2), (place - step + WIDTH, below + HEIGHT / 2)]) for place in x[1:]),
        _arrow([(middle[3] + 50, above + HEIGHT), (middle[3] + 50, below)]),
        _arrow(
            [(middle[0], above + HEIGHT), (middle[0], 157), (middle[3] - 30, 157), (middle[3] - 30, below)], "dashed"
        ),
        _text(middle[1], 150, "SFT: the row has a completion already", "note"),
        _text(left, 24, "RL: one row, from the dataset to the loss", "note"),
    ]
    return _svg(2 * left + 3 * step + WIDTH, below + HEIGHT + 20, parts)


def process_picture() -> str:
    """The processes of a run, and the paths of the weights."""
    parts = [
        _frame(20, 20, 300, 330, "Trainer: one process for each rank"),
        _box(72, 56, "Policy", "DeepSpeed, ZeRO 0 to 3", "sail_rl/trainer/", TRAINING),
        _box(72, 158, "VLLMEngine", "vLLM in the same process", "rollouts/vllm_engine.py", ROLLOUTS),
        _box(72, 260, "Composition", "calls the rewards", "rewards/combine/", REWARDS),
        _box(600, 40, "WorkerEngine", "spawned vLLM processes", "rollouts/workers.py", ROLLOUTS),
        _box(600, 142, "RemoteEngine", "vLLM servers, any machine", "rollouts/remote.py", ROLLOUTS),
        _box(600, 244, "Verifiers", "processes that can be killed", "rewards/process/", REWARDS),
        _box(600, 346, "Judges", "OpenAI-compatible endpoints", "sail_rl/endpoint/", REWARDS),
        _arrow([(170, 134), (170, 158)]),
        _text(180, 151, "weights", "note"),
        _arrow([(268, 80), (600, 80)]),
        _text(335, 72, "weights: shared memory or CUDA IPC", "note"),
        _arrow([(268, 110), (440, 110), (440, 182), (600, 182)]),
        _text(448, 175, "weights: a file or NCCL", "note"),
        _arrow([(268, 290), (600, 290)]),
        _text(335, 282, "answers to check", "note"),
        _arrow([(268, 318), (440, 318), (440, 386), (600, 386)]),
        _text(448, 379, "completions to judge", "note"),
        _text(20, 380, "A recipe names one of the three engines.", "note"),
        _text(20, 398, "Rollouts return to the trainer, which", "note"),
        _text(20, 416, "scores them and packs them.", "note"),
    ]
    return _svg(816, 440, parts)


def _box(x: float, y: float, title: str, text: str, file: str, colour: str) -> str:
    lines = [(24, title, "title"), (45, text, "text"), (65, file, "file")]
    shape = f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="8" fill="{colour}" stroke="#9aa0a6"/>'
    return shape + "".join(_text(x + WIDTH / 2, y + down, words, kind, "middle") for down, words, kind in lines)


def _frame(x: float, y: float, width: float, height: float, title: str) -> str:
    shape = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="8" fill="none" stroke="#9aa0a6"/>'
    return shape + _text(x + 12, y + 22, title, "text")


def _text(x: float, y: float, words: str, kind: str, anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def _arrow(points: Sequence[tuple[float, float]], kind: str = "plain") -> str:
    return f'<path class="{kind}" d="M {" L ".join(f"{x:g} {y:g}" for x, y in points)}"/>'


def _svg(width: float, height: float, parts: Sequence[str]) -> str:
    marker = f'<defs><style>{STYLE}</style>{HEAD}<polygon points="0 0,9 3.5,0 7" fill="#3c4043"/></marker></defs>'
    start = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}">'
    return "\n".join([start, marker, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])


PICTURES = {"row.svg": row_picture, "processes.svg": process_picture}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw())
