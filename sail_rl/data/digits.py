"""Builds the quickstart's task: 2x2 images of real handwritten digits, with questions, thoughts and answers.

scikit-learn bundles the 1,797 scans of the UCI "Optical Recognition of Handwritten Digits" test set (8x8 pixels, 17
grey levels). Training and evaluation use different *scans*, so that held-out accuracy measures reading of unseen
digits. With 56x56 pixels, patches of 14 and a 2x2 pixel shuffle, each digit is one visual token.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from sklearn.datasets import load_digits

from sail_rl.completion import THINK_END, THINK_START
from sail_rl.files import atomic_path
from sail_rl.seeding import derive_seed

CELL = 28  # pixels per digit
HELD_OUT_SHARE = 0.15  # of the scans
LARGEST_ADDEND = 4  # a tiny model learns 25 sums in a minute, but not 100
FEATURES = Features(
    {
        "id": Value("string"),
        "images": List(Image()),
        "prompt": List({"role": Value("string"), "content": Value("string")}),
        "completion": List({"role": Value("string"), "content": Value("string")}),
        "answer": Value("string"),
        "digits": List(Value("int64")),
        "source": Value("string"),
    }
)


Task = tuple[str, str, int]
"""A question, the thought that answers it after reading the digits, and the answer."""


def _sum(digits: list[int], rng: random.Random) -> Task:
    row = rng.choice(("top", "bottom"))
    left, right = digits[:2] if row == "top" else digits[2:]
    return f"What is the sum of the {row} row?", f"{left}+{right}={left + right}", left + right


def _maximum(digits: list[int], _: random.Random) -> Task:
    return "What is the largest digit?", f"The largest is {max(digits)}", max(digits)


def _count(digits: list[int], rng: random.Random) -> Task:
    limit = rng.randint(2, 7)
    above = [digit for digit in digits if digit > limit]
    listed = " ".join(map(str, above)) or "none"
    return f"How many digits are greater than {limit}?", f"Greater than {limit}: {listed}", len(above)


def _comparison(digits: list[int], _: random.Random) -> Task:
    first, last = digits[0], digits[3]
    larger = max(first, last)
    return "Which is larger, the top left or the bottom right digit?", f"Of {first} and {last} it is {larger}", larger


QUESTIONS: dict[str, Callable[[list[int], random.Random], Task]] = {
    "sum": _sum,
    "maximum": _maximum,
    "count": _count,
    "comparison": _comparison,
}


def _compose(scans: list[numpy.ndarray]) -> PILImage.Image:
    """A 56x56 RGB image of four 8x8 scans (grey levels 0-16) in a 2x2 grid, black on white."""
    page = PILImage.new("L", (2 * CELL, 2 * CELL))
    for index, scan in enumerate(scans):
        cell = PILImage.fromarray((255 - scan * 255 / 16).astype(numpy.uint8))
        page.paste(cell.resize((CELL, CELL), PILImage.Resampling.BICUBIC), (index % 2 * CELL, index // 2 * CELL))
    return page.convert("RGB")


EASY = ("maximum", "comparison")
"""The questions of direct rows, which need no thought."""


def _rows(
    name: str, count: int, scans: list[int], seed: int, careless: float, *, direct: bool = False
) -> Iterator[dict[str, Any]]:
    """`count` rows with digits drawn from the scans with these indices.

    `careless` is the share of wrong boxes; `direct` rows have easy questions, answered without a thought.
    """
    bundle = load_digits()
    rng = random.Random(derive_seed(seed, "digits", name))
    small = [scan for scan in scans if bundle.target[scan] <= LARGEST_ADDEND]
    for index in range(count):
        source = rng.choice(EASY if direct else list(QUESTIONS))
        chosen = rng.sample(small if source == "sum" else scans, 4)
        digits = [int(bundle.target[scan]) for scan in chosen]
        question, thought, answer = QUESTIONS[source](digits, rng)
        written = answer + rng.choice((1, 2)) if rng.random() < careless else answer
        response = (
            f"{THINK_START}The digits are {' '.join(map(str, digits))}. {thought}.{THINK_END}\\boxed{{{written}}}"
        )
        if direct:
            response = f"\\boxed{{{answer}}}"
        yield {
            "id": f"{name}/{index:06d}",
            "images": [_compose([bundle.images[scan] for scan in chosen])],
            "prompt": [{"role": "user", "content": question}],
            "completion": [{"role": "assistant", "content": response}],
            "answer": str(answer),
            "digits": digits,
            "source": source,
        }


def split_scans(seed: int) -> tuple[list[int], list[int]]:
    """The disjoint indices of the training scans and the held-out scans."""
    scans = list(range(len(load_digits().target)))
    random.Random(derive_seed(seed, "split")).shuffle(scans)
    held_out = int(len(scans) * HELD_OUT_SHARE)
    return scans[held_out:], scans[:held_out]


def build_digits(
    output_dir: Path,
    *,
    seed: int,
    sft_rows: int = 7200,
    rl_rows: int = 3200,
    heldout_rows: int = 300,
    careless: float = 0.0,
    direct_rows: int = 0,
) -> dict[str, Path]:
    """Write `sft.parquet`, `rl.parquet` and `heldout.parquet` to `output_dir`; returns their paths by name.

    With `direct_rows`, also write `direct.parquet`: easy questions, answered without a thought.

    `careless` is the share of SFT demonstrations with a right thought but a final answer that is one or two too large,
    as in generated chains of thought without verification. The `answer` column is always right.
    """
    train, held_out = split_scans(seed)
    sources = {
        "sft": (sft_rows, train, careless),
        "rl": (rl_rows, train, 0.0),
        "heldout": (heldout_rows, held_out, 0.0),
    }
    if direct_rows:
        sources["direct"] = (direct_rows, train, 0.0)
    output_dir.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, (count, scans, slips) in sources.items():
        paths[name] = output_dir / f"{name}.parquet"
        made = list(_rows(name, count, scans, seed, slips, direct=name == "direct"))
        with atomic_path(paths[name]) as partial:
            Dataset.from_list(made, features=FEATURES).to_parquet(partial)
    return paths
