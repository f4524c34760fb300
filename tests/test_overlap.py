"""Held-out rows that training datasets have, too, are counted by question and picture."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from conftest import picture
from datasets import Dataset

from sail_rl.cli.main import main
from sail_rl.config import Recipe
from sail_rl.data.dataset import Rows
from sail_rl.plan.overlap import Overlap, overlaps
from sail_rl.plan.plan import check_code
from sail_rl.run import run as running

ACCURACY = {"accuracy": {"path": "rewards.answer:math_answer"}}


def recipe(folder: Path, **files: Path) -> Recipe:
    stage = {"name": "s", "kind": "sft", "data": "train", "steps": 1, "batch_size": 1}
    return Recipe.model_validate(
        {
            "name": "tested",
            "output_dir": folder / "run",
            "data": {"files": files},
            "evaluation": {"data": "held", "rewards": ACCURACY},
            "stages": [stage | {"optimizer": {"learning_rate": 1e-3}}],
        }
    )


def written(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps({"completion": "4", "answer": "4"} | row) + "\n" for row in rows))
    return path


def png(seed: int) -> bytes:
    file = io.BytesIO()
    picture(seed).save(file, "PNG")
    return file.getvalue()


def counted(folder: Path, held: Path, train: Path) -> Overlap:
    datasets = {"held": Rows(held), "train": Rows(train)}
    (found,) = overlaps(recipe(folder, held=held, train=train), datasets)
    return found


def test_rows_are_shared_if_question_and_pictures_are_equal(tmp_path: Path) -> None:
    """Wherever the pictures are: a JSONL file names files, and Parquet embeds their bytes."""
    for seed in range(3):
        (tmp_path / f"{seed}.png").write_bytes(png(seed))
    held = written(
        tmp_path / "held.jsonl",
        {"prompt": "Sum?", "images": ["0.png"]},  # shared
        {"prompt": "Sum?", "images": ["2.png"]},  # another picture
        {"prompt": "Product?", "images": ["0.png"]},  # another question
        {"prompt": "Sum?", "images": ["0.png", "1.png"]},  # shared
        {"prompt": "Sum?", "images": ["1.png", "0.png"]},  # another order
        {"prompt": "Sum?"},  # no picture
    )
    pictures = [[0], [1], [0, 1]]
    train = tmp_path / "train.parquet"
    Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": " sum ?"}],
                "images": [{"bytes": png(seed), "path": None} for seed in seeds],
                "completion": "4",
                "answer": "4",
            }
            for seeds in pictures
        ]
    ).to_parquet(train)
    assert counted(tmp_path, held, train) == Overlap("held", "train", rows=6, shared=2)


def test_rows_without_pictures_are_shared_if_their_questions_are(tmp_path: Path) -> None:
    held = written(tmp_path / "held.jsonl", {"prompt": "What is 2+2?"}, {"prompt": "What is 2-2?"})
    train = written(tmp_path / "train.jsonl", {"prompt": "what is 2 + 2"}, {"prompt": "What is 3+2?"})
    assert counted(tmp_path, held, train).shared == 1
    assert counted(tmp_path, held, held).shared == 2


def test_check_and_run_say_the_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    held = written(tmp_path / "held.jsonl", {"prompt": "What is 2+2?"}, {"prompt": "What is 1+3?"})
    train = written(tmp_path / "train.jsonl", {"prompt": "What is 2+2?"})
    tested = recipe(tmp_path, held=held, train=train)
    path = tmp_path / "recipe.json"
    path.write_text(tested.model_dump_json(exclude_defaults=True))
    assert main(["check", str(path)]) == 0
    sentence = "data held: 1 of 2 held-out rows are in train, too (the same question and pictures)"
    assert sentence in capsys.readouterr().out.replace("\n", " ")
    with caplog.at_level(logging.INFO):
        running._prepared(tested, check_code(tested, world_size=1), redo=False)
    assert (logging.WARNING, sentence) in [(record.levelno, record.getMessage()) for record in caplog.records]
