"""Ctrl-C and SIGTERM in real commands: two lines, the exit status, no orphans, and the run goes on afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from launching import environment, free_port

from sail_rl.records.jsonl import read_jsonl

ROOT = Path(__file__).parents[1]
ROWS = '{"prompt": "What is 2 + 2?", "completion": "\\\\boxed{4}", "answer": "4"}\n'
WAITING = """
import time
from pathlib import Path

def wait():
    Path("waiting").touch()
    time.sleep(600)

def build(folder, *, seed):
    wait()

class Reward:
    def __init__(self, stubborn=False):
        if stubborn:
            Path("waiting").touch()
            while True:
                try:
                    time.sleep(600)
                except BaseException:
                    Path("swallowed").touch()
        wait()

def in_evaluation(completions, **_):
    return [0.0 for _ in completions] if Path("go on").exists() else wait()
"""


class Command:
    """A command line in a session of its own, in which Ctrl-C isn't ignored."""

    def __init__(self, folder: Path, *arguments: str, ranks: int = 1) -> None:
        self.folder = folder
        (folder / "waiting.py").write_text(WAITING)
        launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(ranks), "--master_port", str(free_port())]
        self.process = subprocess.Popen(
            [sys.executable, *(launcher if ranks > 1 else []), "-m", "sail_rl", *arguments],
            cwd=folder,
            env=environment(PYTHONPATH=str(ROOT), WANDB_MODE="offline"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # pytest may run in the background
        )

    def until(self, happened: Callable[[], bool], limit: float = 250) -> None:
        deadline = time.monotonic() + limit
        while not happened():
            if self.process.poll() is not None:
                pytest.fail(f"it ended with {self.process.returncode}: {self.process.communicate()[1]}")
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def until_waiting(self) -> None:
        self.until((self.folder / "waiting").exists)

    def send(self, number: int, *, group: bool = False) -> None:
        """Send a signal to the process, or to all of its group as a terminal does."""
        (os.killpg if group else os.kill)(self.process.pid, number)

    def end(self) -> tuple[int, str]:
        """The exit status, and the lines on standard error that aren't log lines; no process of it is left."""
        members = [p for p in psutil.process_iter() if _session(p.pid) == self.process.pid]
        stderr = self.process.communicate(timeout=120)[1]
        _, alive = psutil.wait_procs(members, timeout=60)
        alive = [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
        assert not alive, [process.cmdline() for process in alive]
        return self.process.returncode, stderr


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """`start(*arguments)`: a command in `tmp_path`, which is killed at the end of the test."""
    (tmp_path / "rows.jsonl").write_text(ROWS)
    started: list[Command] = []

    def begin(*arguments: str, ranks: int = 1) -> Command:
        started.append(Command(tmp_path, *arguments, ranks=ranks))
        return started[-1]

    yield begin
    for command in started:
        if command.process.poll() is None:
            command.send(signal.SIGKILL, group=True)
            command.process.communicate()


def lines(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("sail-rl: ")]


NOTHING = ["nothing was saved", "the same command starts again"]
STATUS = {signal.SIGINT: (130, "interrupted"), signal.SIGTERM: (143, "terminated")}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "quickstart", "output_dir=run", "data.builder=waiting.py:build", "data.kwargs={}"),
        ("run", "quickstart", "output_dir=run", "stages.rlvr.rewards.slow={path: 'waiting.py:Reward'}"),
        ("reward", "test", "waiting.py:Reward", "rows.jsonl"),
    ],
    ids=["check", "loading", "reward"],
)
def test_a_signal_ends_a_command_with_two_lines(
    arguments: tuple[str, ...], number: signal.Signals, start: Callable[..., Command]
) -> None:
    command = start(*arguments)
    command.until_waiting()
    command.send(number, group=True)
    status, stderr = command.end()
    code, word = STATUS[number]
    assert status == code
    assert lines(stderr) == [f"sail-rl: {word}: {NOTHING[0]}", f"sail-rl: {NOTHING[1]}"]
    assert "Traceback" not in stderr
    assert not (command.folder / "run/LOCK").exists()


def test_a_second_ctrl_c_stops_at_once_what_the_first_did_not(start: Callable[..., Command]) -> None:
    command = start("reward", "test", "waiting.py:Reward", "rows.jsonl", "--kwargs", '{"stubborn": true}')
    command.until_waiting()
    command.send(signal.SIGINT)
    command.until((command.folder / "swallowed").exists)
    command.send(signal.SIGINT)
    assert command.process.wait(timeout=10) == 130
    _, stderr = command.end()
    assert lines(stderr) == [f"sail-rl: interrupted: {NOTHING[0]}", f"sail-rl: {NOTHING[1]}"]
    assert "Traceback" not in stderr


def test_a_signal_that_a_library_swallows_ends_the_command_after_a_while(start: Callable[..., Command]) -> None:
    command = start("reward", "test", "waiting.py:Reward", "rows.jsonl", "--kwargs", '{"stubborn": true}')
    command.until_waiting()
    command.send(signal.SIGTERM)
    status, stderr = command.end()
    assert (status, len(lines(stderr))) == (143, 2)


def test_a_signal_to_a_forked_child_does_not_end_its_parent(start: Callable[..., Command], tmp_path: Path) -> None:
    (tmp_path / "forking.py").write_text(
        "import os, signal, time\n"
        "def score(completions, **_):\n"
        "    if (child := os.fork()) == 0:\n"
        "        time.sleep(600)\n"
        "    time.sleep(0.2)\n"
        "    os.kill(child, signal.SIGTERM)\n"
        "    assert os.waitpid(child, 0)[1] == signal.SIGTERM\n"
        "    return [1.0 for _ in completions]\n"
    )
    assert start("reward", "test", "forking.py:score", "rows.jsonl").end()[0] == 0


SHORT = [
    *("run", "quickstart", "output_dir=run", "data.kwargs={sft_rows: 64, rl_rows: 64, heldout_rows: 4}"),
    *("evaluation.every=100", "evaluation.max_tokens=8", "stages.longcot_sft.batch_size=8"),
    *("stages.longcot_sft.steps=2", "stages.longcot_sft.save_every=1", "stages.rlvr.steps=16"),
    *("stages.rlvr.sampling.prompts_per_step=4", "stages.rlvr.sampling.samples_per_prompt=2"),
    *("stages.rlvr.sampling.max_tokens=24", "stages.rlvr.save_every=1"),
]
LONG_SFT = ["stages.longcot_sft.steps=8"]
WORKERS = ["engine.path=rollouts.workers:WorkerEngine", "engine.kwargs={workers: 1, threads: 1, kv_cache_gib: 0.1}"]


def logged(folder: Path, stage: str, step: int) -> bool:
    return any((record["stage"], record["step"]) == (stage, step) for record in read_jsonl(folder / "metrics.jsonl"))


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("stage", "step", "settings"),
    [("longcot_sft", 2, LONG_SFT), ("rlvr", 2, []), ("rlvr", 2, WORKERS)],
    ids=["sft", "rl", "workers"],
)
def test_a_signal_ends_a_run_and_says_what_is_saved(
    stage: str, step: int, settings: list[str], number: signal.Signals, start: Callable[..., Command]
) -> None:
    command = start(*SHORT, *settings)
    command.until(lambda: logged(command.folder / "run", stage, step))
    command.send(number, group=True)
    status, stderr = command.end()
    code, word = STATUS[number]
    assert status == code, stderr
    before = "longcot_sft, " if stage == "rlvr" else ""
    saved, how = lines(stderr)
    assert saved.startswith(f"sail-rl: {word}: run keeps {before}{stage} up to step "), stderr
    assert int(saved.rpartition(" ")[2]) >= step - 1
    assert how == "sail-rl: the same command goes on from there"
    assert "Traceback" not in stderr
    assert not (command.folder / "run/LOCK").exists()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_signal_ends_an_evaluation_and_the_run_goes_on_afterwards(start: Callable[..., Command]) -> None:
    settings = [
        *SHORT,
        "stages.longcot_sft.steps=1",
        "stages.rlvr.steps=1",
        "evaluation.rewards.slow={path: 'waiting.py:in_evaluation', weight: 0}",
    ]
    command = start(*settings)
    command.until_waiting()
    command.send(signal.SIGINT)
    status, stderr = command.end()
    assert status == 130, stderr
    assert lines(stderr)[0] == "sail-rl: interrupted: run keeps the base model and the datasets"
    assert "Traceback" not in stderr
    (command.folder / "go on").touch()
    again = start(*settings)
    again.until((command.folder / "run/summary.json").is_file)
    assert again.end()[0] == 0


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_under_torchrun_rank_0_alone_says_it(number: signal.Signals, start: Callable[..., Command]) -> None:
    command = start(*SHORT, *LONG_SFT, ranks=2)
    command.until(lambda: logged(command.folder / "run", "longcot_sft", 2))
    command.send(number, group=number == signal.SIGINT)  # torchrun passes SIGTERM on
    status, stderr = command.end()
    assert status != 0
    _, word = STATUS[number]
    saved, how = lines(stderr)
    assert saved.startswith(f"sail-rl: {word}: run keeps longcot_sft up to step ")
    assert how == "sail-rl: the same command goes on from there"
    assert "sail_rl/" not in stderr, "the traceback is torchrun's own"
