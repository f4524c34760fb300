"""Which checkpoints count: whole ones, the newest first; a damaged one is reported and the one before it used."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from sail_rl.trainer.checkpoints import mark_complete, newest_checkpoint, remove_unusable


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """Checkpoints of steps 2, 10 and 12, the last one without its marker."""
    for step in (2, 10, 12):
        folder = tmp_path / f"checkpoint-{step}"
        (folder / "global_step").mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "global_step/states.pt").write_bytes(b"states")
        if step != 12:
            mark_complete(folder)
    return tmp_path


def test_the_newest_whole_checkpoint_is_used(stage: Path) -> None:
    assert newest_checkpoint(stage) == (stage / "checkpoint-10", 10)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: (folder / "global_step/states.pt").write_bytes(b"st"), "states.pt has 2 bytes instead of 6"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "COMPLETE").write_text(""), "it is incomplete"),
    ],
)
def test_a_damaged_one_is_reported_deleted_and_the_one_before_it_used(
    damage: object, reason: str, stage: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage(stage / "checkpoint-10")  # type: ignore[operator]
    with caplog.at_level(logging.WARNING):
        remove_unusable(stage)
    assert reason in caplog.text
    assert newest_checkpoint(stage) == (stage / "checkpoint-2", 2)
    assert sorted(path.name for path in stage.iterdir()) == ["checkpoint-2"]
