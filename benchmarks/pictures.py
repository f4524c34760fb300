"""Measures decoding and processing of pictures: how long training waits for them, and the processor time they take.

    python benchmarks/pictures.py [--prompts 8] [--steps 4] [--busy 1.0]

Each prompt has one JPEG of 1600 x 1200 pixels, which becomes 13 tiles of 448 pixels. A step takes the prompts once
for sampling and once for training, as an RL step does, and then works for a while, as a step on a GPU would: the main
thread sleeps for `busy` seconds. "Twice, when needed" decodes and processes in the main thread at both times, as this
library once did; "once, ahead" is the library. Prints a Markdown table of medians over the steps but the first.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from sail_rl.data.prefetch import Prefetcher
from sail_rl.models.images import SailVLImageProcessor
from sail_rl.pictures import as_rgb

SIZE = (1600, 1200)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--busy", type=float, default=1.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{number}.jpg") for number in range(options.prompts * options.steps)]
        for number, path in enumerate(paths):
            picture(number).save(path, quality=90)
        steps = [paths[start : start + options.prompts] for start in range(0, len(paths), options.prompts)]
        tiles = len(processed(opened(paths[0]))) // 1024
        print(f"{options.prompts} pictures a step, {tiles} tiles each\n")
        print("| pictures are processed | waited in a step, s | processor time of a step, s |\n|---|---|---|")
        for name, way in (("twice, when needed", twice), ("once, ahead", once)):
            waits, used = measured(way(steps), options.busy)
            print(f"| {name} | {waits:.2f} | {used:.2f} |", flush=True)


def measured(way: Iterator[list[np.ndarray]], busy: float) -> tuple[float, float]:
    """Seconds that the main thread waits in a step, and processor seconds of all threads."""
    waits, used = [], []
    start, before = time.perf_counter(), time.process_time()
    for _ in way:
        waits.append(time.perf_counter() - start)
        time.sleep(busy)
        used.append(time.process_time() - before)
        start, before = time.perf_counter(), time.process_time()
    return median(waits[1:]), median(used[1:])


def twice(steps: list[list[Path]]) -> Iterator[list[np.ndarray]]:
    """The pixels of each step, made for sampling and again for training."""
    for paths in steps:
        for _ in ("sampling", "training"):
            found = [processed(opened(path)) for path in paths]
        yield found


def once(steps: list[list[Path]]) -> Iterator[list[np.ndarray]]:
    """The pixels of each step, made in threads while the step before is busy."""
    with Prefetcher(processed_ahead) as pictures:
        pictures.prefetch(steps[0])
        for paths, following in zip(steps, [*steps[1:], []], strict=True):
            images = [pictures.get(path) for path in paths]
            pictures.prefetch(following)
            for _ in ("sampling", "training"):
                found = [processed(image) for image in images]
            yield found


PROCESSOR = SailVLImageProcessor()


def processed(image: Image.Image) -> np.ndarray:
    """The pixels [P, 3 x patch²] for the model."""
    pixels: np.ndarray = PROCESSOR(image)["pixel_values"]
    return pixels


def opened(path: Path) -> Image.Image:
    """The decoded picture."""
    with Image.open(path) as image:
        return as_rgb(image)


def processed_ahead(path: Path) -> Image.Image:
    """The decoded picture with its pixels for the model."""
    image = opened(path)
    PROCESSOR.process_ahead(image)
    return image


def picture(seed: int) -> Image.Image:
    """A smooth picture with noise, about as large a file as a photograph."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize(SIZE, Image.Resampling.BICUBIC)).astype(np.int16)
    return Image.fromarray((pixels + generator.integers(-12, 13, pixels.shape)).clip(0, 255).astype(np.uint8))


if __name__ == "__main__":
    main()
