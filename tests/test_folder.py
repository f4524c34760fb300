"""A run's folder: what may be there before the first run, what --fresh deletes, and who may write to it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from launching import environment

from sail_rl.config import Recipe
from sail_rl.config.loading import load_recipe
from sail_rl.lock import Holder, locked, locked_output, process_start
from sail_rl.plan.datasets import build_data
from sail_rl.run.folder import invalidate_stale_stages, prepare_run_dir, write_stage_key
from sail_rl.run_dir import RunDir

RECIPE = "quickstart"
ROWS = '{"prompt": "What is 2 + 2?", "completion": "\\\\boxed{4}", "answer": "4"}\n'
OF_A_RUN = [
    *("recipe.yaml", "versions.json", "READY", "metrics.jsonl", "traces.jsonl", "prompts_seen.jsonl", "summary.json"),
    *("report.html", "curves.png", "curves/loss.png", "wandb_run_id", "wandb/offline-run-1/files/config.yaml"),
    *("trace_images/0123456789abcdef01234567.png", "base/COMPLETE", "base/model.safetensors", "base.partial/x"),
    *("stages/rlvr/key", "stages/rlvr/result.json", "stages/rlvr/model/config.json", "stages/rlvr/best-4/model/a"),
    *("stages/rlvr/checkpoint-2/COMPLETE", "stages/rlvr/model.partial/config.json", "stages/rlvr/nonfinite/a.pt"),
    *("rollouts/rlvr/step-000001-rank-0-0.parquet", "rollouts/rlvr/step-000002-rank-0-0.parquet.partial"),
    *("data/train-0123456789ab.parquet", "data/train-0123456789ab.dropped.jsonl"),
]
OF_THE_USER = [
    *("notes.md", "data/mine.jsonl", "stages/notes.md", "stages/rlvr/notes.md", "stages/mine/rows.jsonl"),
    *("rollouts/rlvr/best.txt", "trace_images/photo.png", "plots/a.png", ".git/config", "COMPLETE", "manifest.json"),
]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")


def recipe_in(folder: Path) -> Recipe:
    return load_recipe(RECIPE, [f"output_dir={folder}"])


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize(
    ("present", "named"),
    [
        (["notes.md"], "notes.md"),
        ([".git/config"], r"\.git"),
        (["recipe.yaml"], r"recipe\.yaml"),
        (["recipe.yaml", "data/a.jsonl"], r"recipe\.yaml"),
        (["a", "b", "c", "d", "e"], "a, b, c and 2 more"),
        (["metrics.jsonl"], r"metrics\.jsonl"),
    ],
)
def test_a_folder_with_other_files_is_refused_and_stays_as_it_is(
    present: list[str], named: str, fresh: bool, tmp_path: Path
) -> None:
    write(tmp_path, *present)
    with pytest.raises(ValueError, match=f"not the folder of a run, and it holds {named};"), RunDir(tmp_path).held():
        raise AssertionError(fresh)
    assert files(tmp_path) == set(present)


@pytest.mark.parametrize("present", [[], ["data/mine.jsonl"], ["versions.json", "recipe.yaml.partial"], ["LOCK"]])
def test_a_folder_with_datasets_or_the_rest_of_a_killed_start_is_accepted(present: list[str], tmp_path: Path) -> None:
    write(tmp_path / "run", *present)
    recipe = recipe_in(tmp_path / "run")
    with recipe.run_dir.held():
        prepare_run_dir(recipe, fresh=True, redo=False)
    assert {"recipe.yaml", "versions.json"} <= files(tmp_path / "run")
    assert "data/mine.jsonl" in files(tmp_path / "run") or "data/mine.jsonl" not in present


def test_an_output_dir_that_is_a_file_or_lies_in_one_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "file")
    with pytest.raises(ValueError, match="file is a file; give a folder"), RunDir(tmp_path / "file").held():
        pass
    with pytest.raises(ValueError, match="can't be made: Not a directory"), RunDir(tmp_path / "file/run").held():
        pass


def test_fresh_deletes_what_a_run_wrote_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path, *OF_A_RUN, *OF_THE_USER)
    prepare_run_dir(recipe_in(tmp_path), fresh=True, redo=False)
    assert files(tmp_path) == {"recipe.yaml", "versions.json", *OF_THE_USER}


def test_fresh_leaves_no_empty_folders_of_the_run(tmp_path: Path) -> None:
    write(tmp_path, *OF_A_RUN)
    prepare_run_dir(recipe_in(tmp_path), fresh=True, redo=False)
    assert {path.name for path in tmp_path.iterdir()} == {"recipe.yaml", "versions.json"}


@pytest.mark.parametrize("link", ["stages", "data", "stages/rlvr/model", "metrics.jsonl", "wandb"])
def test_fresh_follows_no_link_and_deletes_nothing_then(link: str, tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    write(run, "recipe.yaml", "versions.json", "summary.json", "stages/other/key")
    write(elsewhere, "key", "manifest.json", "rlvr/key")
    if link == "stages":
        (run / "stages/other/key").unlink()
        (run / "stages/other").rmdir()
        (run / "stages").rmdir()
    (run / link).parent.mkdir(parents=True, exist_ok=True)
    (run / link).symlink_to(elsewhere)
    before = files(run), files(elsewhere)
    with pytest.raises(ValueError, match=f"{link} is a link, and --fresh follows no links"):
        prepare_run_dir(recipe_in(run), fresh=True, redo=False)
    assert (files(run), files(elsewhere)) == before


def test_a_run_s_folder_may_be_a_link(tmp_path: Path) -> None:
    write(tmp_path / "disk", *OF_A_RUN, "notes.md")
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    prepare_run_dir(recipe_in(tmp_path / "run"), fresh=True, redo=False)
    assert files(tmp_path / "disk") == {"recipe.yaml", "versions.json", "notes.md"}


def test_a_stage_that_runs_again_keeps_the_user_s_files(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path)
    prepare_run_dir(recipe, fresh=False, redo=False)
    write_stage_key(tmp_path / "stages/rlvr", "old")
    write(
        tmp_path, "stages/rlvr/model/config.json", "stages/rlvr/notes.md", "stages/mine/rows.jsonl", "rollouts/rlvr/a"
    )
    write(tmp_path, "rollouts/rlvr/step-000001-rank-0-0.parquet")
    invalidate_stale_stages(recipe, {"rlvr": "new"}, redo=True)
    assert {name for name in files(tmp_path) if "/" in name} == {
        *("stages/rlvr/notes.md", "stages/mine/rows.jsonl", "rollouts/rlvr/a")
    }
    invalidate_stale_stages(recipe, {"rlvr": "new"}, redo=False)


BUILDER = """
import time
from pathlib import Path

def build(folder, *, seed, name="made"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.jsonl").write_text(ROWS)
    (folder / "pictures").mkdir(exist_ok=True)
    (folder / "pictures" / f"{name}.png").write_text("")
    names = ("sft", "rl", "heldout")
    return dict.fromkeys(names, folder / f"{name}.jsonl") | {"mine": folder / "mine.jsonl"}

def wait(folder, *, seed):
    folder.mkdir(parents=True, exist_ok=True)
    Path("waiting").touch()
    time.sleep(600)
""".replace("ROWS", repr(ROWS))


def test_fresh_deletes_what_builders_wrote_but_not_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "builder.py").write_text(BUILDER)
    run = tmp_path / "run"
    write(run, "data/mine.jsonl")
    build = f"data.builder={tmp_path}/builder.py:build"
    for name in ("one", "two"):
        recipe = load_recipe(RECIPE, [f"output_dir={run}", build, f"data.kwargs={{name: {name}}}"])
        prepare_run_dir(recipe, fresh=False, redo=True)
        build_data(recipe)
    assert {"data/one.jsonl", "data/two.jsonl", "data/pictures/one.png", "data/mine.jsonl"} <= files(run)
    prepare_run_dir(recipe, fresh=True, redo=False)
    assert files(run) == {"recipe.yaml", "versions.json", "data/mine.jsonl"}


def test_built_datasets_are_found_again_in_a_folder_that_was_moved(tmp_path: Path) -> None:
    (tmp_path / "builder.py").write_text(BUILDER)
    write(tmp_path / "a/data", "mine.jsonl")
    code = [f"data.builder={tmp_path}/builder.py:build", "data.kwargs={}"]
    build_data(load_recipe(RECIPE, [f"output_dir={tmp_path / 'a'}", *code]))
    (tmp_path / "a").rename(tmp_path / "b")
    (tmp_path / "b/data/made.jsonl").write_text("as it was moved")
    paths = build_data(load_recipe(RECIPE, [f"output_dir={tmp_path / 'b'}", *code]))
    assert paths["sft"] == tmp_path / "b/data/made.jsonl"
    assert paths["sft"].read_text() == "as it was moved", "nothing is built again"


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds `tmp_path`/LOCK, with a child, until its standard input closes."""
    program = """
import os, sys
from pathlib import Path
from sail_rl.lock import locked
with locked(Path("LOCK"), of=Path("run")):
    if os.fork() == 0:
        import time
        time.sleep(600)
    print("holding", flush=True)
    sys.stdin.read()
os.killpg(0, 9)
"""
    env = environment(PYTHONPATH=str(Path(__file__).parents[1]))
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == "holding\n"
    with process:
        yield process
        os.killpg(process.pid, signal.SIGKILL)


def test_a_second_process_is_refused_with_pid_and_host_in_one_line(
    holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    with (
        pytest.raises(ValueError, match=rf"run is in use by process {holder.pid} on \S+ \(since .*\); wait") as refused,
        locked(tmp_path / "LOCK", of=Path("run")),
    ):
        pass
    assert "\n" not in str(refused.value)


def test_a_killed_holder_blocks_nobody_even_while_its_children_live(
    holder: subprocess.Popen[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    holder.kill()
    holder.wait()
    with caplog.at_level("INFO"), locked(tmp_path / "LOCK", of=Path("run")):
        assert json.loads((tmp_path / "LOCK").read_text())["pid"] == os.getpid()
    assert f"process {holder.pid} on" in caplog.text
    assert "has ended without releasing its lock" in caplog.text
    assert not (tmp_path / "LOCK").exists()


def test_blocks_of_one_process_may_nest(tmp_path: Path) -> None:
    file = tmp_path / "LOCK"
    with locked(file, of=tmp_path):
        with locked(tmp_path / "../" / tmp_path.name / "LOCK", of=tmp_path):
            assert file.exists()
        assert file.exists()
    assert not file.exists()


def test_a_lock_left_on_another_host_is_taken_over_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = replace(Holder.this_process(), host="elsewhere", pid=7)
    (tmp_path / "LOCK").write_text(json.dumps(asdict(other)))
    with locked(tmp_path / "LOCK", of=Path("run")):
        pass
    assert "run: process 7 on elsewhere" in caplog.text
    assert "shares no locks between hosts" in caplog.text


@pytest.mark.parametrize(
    ("change", "refused"),
    [({}, True), ({"host": "elsewhere"}, True), ({"started": "another boot 1"}, False), ({"pid": 2**22 + 1}, False)],
)
def test_where_the_file_system_has_no_locks_the_recorded_process_decides(
    change: dict[str, object], refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", unsupported)
    (tmp_path / "LOCK").write_text(json.dumps(asdict(Holder.this_process()) | change))
    if refused:
        with pytest.raises(ValueError, match=r"in use by process .*; if that process has ended, delete .*LOCK"):
            locked(tmp_path / "LOCK", of=Path("run")).__enter__()
    else:
        with locked(tmp_path / "LOCK", of=Path("run")):
            assert json.loads((tmp_path / "LOCK").read_text())["pid"] == os.getpid()


def test_a_process_s_start_tells_it_from_another_of_the_same_number() -> None:
    with subprocess.Popen(["sleep", "600"]) as process:
        found = process_start(process.pid)
        assert found
        assert found == process_start(process.pid)
        process.kill()
    assert process_start(process.pid) is None


def test_the_lock_of_an_output_lies_beside_it_and_goes_with_the_block(tmp_path: Path) -> None:
    with locked_output(tmp_path / "new/out"):
        assert [path.name for path in (tmp_path / "new").iterdir()] == [".out.lock"]
    assert list((tmp_path / "new").iterdir()) == []


def test_the_same_command_twice_is_refused_at_once_and_after_a_kill_it_starts(tmp_path: Path) -> None:
    """The real command line: `check` waits in a builder, and so holds the folder."""
    (tmp_path / "builder.py").write_text(BUILDER)
    env = environment(PYTHONPATH=str(Path(__file__).parents[1]))
    settings = ["quickstart", "output_dir=run", "data.builder=builder.py:wait", "data.kwargs={}"]
    check, run = ([sys.executable, "-m", "sail_rl", command, *settings] for command in ("check", "run"))
    with subprocess.Popen(check, cwd=tmp_path, env=env) as first:
        while not (tmp_path / "waiting").exists():
            assert first.poll() is None
        refused = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        first.kill()
    assert refused.returncode == 2
    assert f"run is in use by process {first.pid} on " in refused.stderr
    assert "check quickstart" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert files(tmp_path / "run") == {"LOCK"}
    settings[2] = "data.builder=builder.py:build"
    again = [sys.executable, "-m", "sail_rl", "check", *settings]
    after = subprocess.run(again, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert "in use" not in after.stderr
    assert "data/made.jsonl" in files(tmp_path / "run")
