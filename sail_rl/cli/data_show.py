"""`sail-rl data show`: rows as the model will see them, with the trained tokens in colour."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from rich.console import Group
from rich.panel import Panel
from rich.text import Text

from sail_rl.data.dataset import Rows
from sail_rl.data.encoding import Encoder, Sample

TRAINED, GIVEN, IMAGE = "green", "dim", "cyan"


def shown(rows: Rows, index: int, encoder: Encoder) -> Panel:
    """One row: template applied, trained tokens green, each run of visual tokens as its length, and the counts."""
    row = rows[index]
    if "completion" in row:
        sample = encoder.sft_sample(row)
    else:
        ids, _ = encoder.prompt_inputs(encoder.prompt(row))
        sample = Sample(ids, len(ids))
    text = Text()
    for piece, style in pieces(sample, encoder):
        text.append(piece, style)
    visual = int((sample.input_ids == encoder.processor.image_token_id).sum())
    pictures = ", ".join(f"{image.width}x{image.height}" for image in row["video"] or row["images"])
    counts = f"{len(sample)} tokens: {sample.prompt_length} prompt ({visual} visual), "
    trained = f"{sample.completion_length} trained" if "completion" in row else "no completion: for RL"
    counts += trained + (f" | images {pictures}" if pictures else "")
    rest = {
        name: value
        for name, value in row.items()
        if name not in ("id", "prompt", "completion", "images", "video") and value is not None
    }
    columns = Text("\n".join(f"{name}: {value!s:.200}" for name, value in rest.items()), style="yellow")
    return Panel(
        Group(text, columns) if rest else text, title=f"row {rows.number(index)}, {row['id']}", subtitle=counts
    )


def pieces(sample: Sample, encoder: Encoder) -> Iterator[tuple[str, str]]:
    """The sequence as (text, style): prompt, trained tokens, and each image as `[image: n tokens]`."""
    tokenizer, image = encoder.processor.tokenizer, encoder.processor.image_token_id
    ids = sample.input_ids.tolist()

    def style(index: int) -> str:
        if ids[index] == image:
            return IMAGE
        return TRAINED if index >= sample.prompt_length else GIVEN

    for kind, indices in groupby(range(len(ids)), key=style):
        run = [ids[index] for index in indices]
        yield (f"[image: {len(run)} tokens]" if kind == IMAGE else tokenizer.decode(run)), kind
