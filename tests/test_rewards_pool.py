"""The verification pool against real processes: time limits, kills, crashes, and nobody left behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rewards.process.cache import Result, ResultCache
from rewards.process.handle import Target
from rewards.process.pool import WorkerPool

SLOW = r"\int\sqrt{x^5+x+1}dx"  # sympy tries for more than 20 s
PAIRS = [("2x", "x+x"), ("3x", "x+2x")]
EQUALITY = Target("rewards.verify.symbolic:SymbolicEquality")


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    """Two workers, started once: most tests leave the pool as good as new, which is what they test."""
    with closing(WorkerPool(EQUALITY, workers=2, timeout_s=1.0)) as pool:
        pool.run(PAIRS)
        yield pool


class TestVerdicts:
    def test_order_is_kept_and_equal_pairs_are_verified_once(self, pool: WorkerPool) -> None:
        pairs = [("x+1", "1+x"), ("x", "y"), ("x+1", "1+x"), ("2y", "y+y")] * 5
        before = len(pool._cache)
        assert [verdict.value for verdict in pool.run(pairs)] == [True, False, True, True] * 5
        assert [verdict.cached for verdict in pool.run(pairs[:3])] == [True, True, True]
        assert len(pool._cache) == before + 3

    def test_a_timeout_says_so_costs_its_limit_and_hurts_nobody_else(self, pool: WorkerPool) -> None:
        verdicts = pool.run([("2a", "a+a"), ("3", SLOW), ("3a", "a+2a"), ("4a", "a+3a")])
        assert [verdict.status for verdict in verdicts] == ["ok", "timeout", "ok", "ok"]
        assert [verdict.value for verdict in verdicts] == [True, None, True, True]

    @pytest.mark.slow
    def test_a_timeout_is_remembered_only_for_a_while(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("rewards.process.cache.RETRY_AFTER_SECONDS", 5.0)
        with closing(WorkerPool(EQUALITY, workers=1, timeout_s=0.3)) as pool:
            item = [("3", SLOW)]
            first, second = pool.run(item)[0], pool.run(item)[0]
            assert (first.status, first.cached, second.status, second.cached) == ("timeout", False, "timeout", True)
            time.sleep(5.0)
            assert not pool.run(item)[0].cached

    def test_a_timeout_costs_no_new_start(self) -> None:
        with closing(WorkerPool(EQUALITY, workers=1, timeout_s=1.0)) as pool:
            pool.run(PAIRS)
            keeper = pool._workers[0].process.pid
            results = pool.run([(f"{number}", SLOW) for number in range(3)] + [("7x", "3x+4x")])
            assert [result.status for result in results] == ["timeout"] * 3 + ["ok"]
            assert pool._workers[0].process.pid == keeper

    def test_a_batch_has_a_limit_too(self, pool: WorkerPool) -> None:
        pool.run(PAIRS)
        with closing(WorkerPool(EQUALITY, workers=1, timeout_s=30, batch_timeout_s=5.0)) as slow:
            slow.run(PAIRS)
            slow.batch_timeout_s = 0.5
            start = time.monotonic()
            results = slow.run([("3", SLOW), ("4", SLOW), ("5", SLOW)])
            assert time.monotonic() - start < 20, "one limit alone is 30 s"
            assert [result.status for result in results] == ["timeout"] * 3
            assert "the batch took longer than 0.5 s" in results[2].message
            slow.batch_timeout_s = 60
            assert slow.run([("8x", "3x+5x")])[0].value

    def test_the_least_recently_asked_pair_is_forgotten_first(self) -> None:
        cache = ResultCache(2)
        for name in (b"a", b"b"):
            cache.put(name, Result(True), 1.0)
        assert cache.get(b"a", 1.0) == Result(True)
        cache.put(b"c", Result(False), 1.0)
        assert [cache.get(name, 1.0) for name in (b"a", b"b", b"c")] == [Result(True), None, Result(False)]

    def test_a_timeout_is_no_answer_for_somebody_with_more_patience_and_an_error_for_nobody(self) -> None:
        cache = ResultCache(10)
        late = Result(None, "timeout", seconds=1.0)
        cache.put(b"a", late, 1.0)
        assert [cache.get(b"a", limit) for limit in (0.5, 1.0, 2.0)] == [late, late, None]
        for result in (Result(None, "error"), Result(None, "timeout", final=False)):
            cache.put(b"b", result, 1.0)
            assert cache.get(b"b", 1.0) is None

    def test_an_interrupted_batch_leaves_nothing_to_the_next(
        self, pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(_: Any) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(pool, "_collect", interrupted)
            with pytest.raises(KeyboardInterrupt):  # pairs 0 and 1 are being worked on
                pool.run([("p", "q"), ("r", "s")])
        assert [verdict.value for verdict in pool.run([("2p", "p+p"), ("3p", "p+2p")])] == [True, True]


class TestDeaths:
    def test_workers_killed_while_idle_cost_no_pair_its_verdict(self, pool: WorkerPool) -> None:
        numbers = iter(range(100, 10_000, 2))

        def both_are_ready() -> bool:
            first = next(numbers)
            pool.run([(f"x+{number}", f"{number}+x") for number in (first, first + 1)])
            return len(pool._workers) == 2 and all(worker.ready for worker in pool._workers)

        wait_until(both_are_ready)
        for worker in pool._workers:
            os.kill(worker.process.pid, signal.SIGKILL)
        wait_until(lambda: not any(alive(worker.process.pid) for worker in pool._workers))
        verdicts = pool.run([("2b", "b+b"), ("3b", "b+2b"), ("y", "z")])
        assert [(verdict.value, verdict.status) for verdict in verdicts] == [(True, "ok"), (True, "ok"), (False, "ok")]

    def test_workers_outlive_the_thread_that_asked_first(self) -> None:
        with closing(WorkerPool(EQUALITY, workers=1)) as pool:
            thread = threading.Thread(target=pool.run, args=(PAIRS[:1],))
            thread.start()
            thread.join()
            first = pool._workers[0].process.pid
            time.sleep(0.2)
            assert pool.run([("6x", "2x+4x")])[0].value
            assert pool._workers[0].process.pid == first

    def test_the_item_of_a_worker_killed_in_the_middle_is_tried_again(self, pool: WorkerPool) -> None:
        pool.run(PAIRS)

        def kill_once() -> None:
            wait_until(lambda: any(worker.job == (0,) and worker.ready for worker in pool._workers))
            next(worker for worker in pool._workers if worker.job == (0,)).process.kill()

        before = {worker.process.pid for worker in pool._workers}
        threading.Thread(target=kill_once).start()
        verdicts = pool.run([("4", SLOW), ("x+2", "2+x")])
        assert [verdict.status for verdict in verdicts] == ["timeout", "ok"]
        assert before != {worker.process.pid for worker in pool._workers}

    def test_an_item_that_kills_its_worker_twice_is_an_error(self) -> None:
        with closing(WorkerPool(EQUALITY, workers=1, timeout_s=20.0)) as pool:
            pool.run(PAIRS[:1])

            def kill_twice() -> None:
                for _ in range(2):
                    wait_until(lambda: bool(pool._workers) and pool._workers[0].job == (0,))
                    victim = pool._workers[0]
                    victim.process.kill()
                    wait_until(lambda victim=victim: victim not in pool._workers)

            threading.Thread(target=kill_twice).start()
            verdicts = pool.run([("3", SLOW), ("x+1", "1+x")])
        assert [verdict.status for verdict in verdicts] == ["error", "ok"]
        assert "died twice" in verdicts[0].message

    def test_an_item_that_kills_the_child_costs_no_new_start(self, tmp_path: Path) -> None:
        path = tmp_path / "deadly.py"
        path.write_text("import os\ndef half(number):\n    return os._exit(1) if number == 13 else number / 2\n")
        with closing(WorkerPool(Target(f"{path}:half"), workers=1)) as pool:
            pool.run([(0,)])
            keeper = pool._workers[0].process.pid
            results = pool.run([(number,) for number in range(20)], together=8)
            assert [result.value for result in results] == [None if n == 13 else n / 2 for n in range(20)]
            assert results[13].message == "its worker died twice"
            assert pool._workers[0].process.pid == keeper

    def test_an_idle_child_killed_from_outside_costs_no_item_its_result(self, pool: WorkerPool) -> None:
        for number in range(3):
            pool.run([(f"x+{number}", "y"), (f"y+{number}", "x")])
            for worker in pool._workers:
                children = Path(f"/proc/{worker.process.pid}/task/{worker.process.pid}/children").read_text().split()
                for child in children:
                    os.kill(int(child), signal.SIGKILL)
            pairs = [(f"{n + 10 * number}z", f"z+{n - 1 + 10 * number}z" if n % 2 else "z") for n in range(2, 8)]
            results = pool.run(pairs)
            assert [(result.value, result.status) for result in results] == [(n % 2 == 1, "ok") for n in range(2, 8)]

    def test_workers_that_never_start_stop_the_run(self) -> None:
        # Without memory, Python's compiler may fail with any error.
        with (
            closing(WorkerPool(EQUALITY, workers=1, memory_bytes=1024**2)) as pool,
            pytest.raises(
                RuntimeError, match=r"did not start|a worker can't use rewards.verify.symbolic:\w+: \w+Error"
            ),
        ):
            pool.run(PAIRS)

    def test_workers_that_die_as_soon_as_they_are_ready_stop_the_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = tmp_path / "worker"
        program.write_text("#!/bin/sh\nexec 0<&-\necho '{\"ready\": true}'\nexec sleep 5\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        with (
            closing(WorkerPool(EQUALITY, workers=1)) as pool,
            pytest.raises(RuntimeError, match=r"3 workers in a row did not start \(ready, then"),
        ):
            pool.run(PAIRS)


class TestProcesses:
    def test_a_worker_has_the_memory_limit_and_one_thread(self, pool: WorkerPool) -> None:
        pool.run([("2d", "d+d")])
        process = Path(f"/proc/{pool._workers[0].process.pid}")
        limit = next(line for line in (process / "limits").read_text().splitlines() if "Max address space" in line)
        assert str(2 * 1024**3) in limit
        assert b"OMP_NUM_THREADS=1\0" in (process / "environ").read_bytes()

    def test_a_folder_named_rewards_where_the_user_stands_is_not_imported(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "rewards").mkdir()
        (tmp_path / "rewards" / "__init__.py").write_text("raise SystemExit('the wrong package')")
        monkeypatch.chdir(tmp_path)
        with closing(WorkerPool(EQUALITY, workers=1)) as pool:
            assert pool.run(PAIRS[:1])[0].value

    def test_close_leaves_no_process_and_the_pool_starts_again(self, pool: WorkerPool) -> None:
        pool.run([("2e", "e+e"), ("3e", "e+2e")])
        pids = [worker.process.pid for worker in pool._workers]
        pool.close()
        assert pids
        assert not any(alive(pid) for pid in pids)
        assert pool.run([("4e", "e+3e")])[0].value

    def test_a_forgotten_pool_leaves_no_process(self) -> None:
        pool = WorkerPool(EQUALITY, workers=1)
        pool.run(PAIRS[:1])
        pid = pool._workers[0].process.pid
        del pool
        gc.collect()
        assert not alive(pid)

    def test_a_forked_child_leaves_the_workers_to_its_parent(self) -> None:
        script = run_script(
            "pid = os.fork()",
            "verdict = pool.run([('5x', '2x+3x')])[0].value",
            "if pid == 0: sys.exit(0 if verdict else 1)",
            "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), verdict, pids == worker_pids(), flush=True)",
        )
        try:
            output = script.communicate(timeout=30)[0]
        finally:
            script.kill()
        assert output.splitlines()[1:] == ["0 True True"]

    def test_workers_die_with_a_parent_that_is_killed_even_in_the_middle_of_an_answer(self) -> None:
        with run_script(f"pool.run([('3', {SLOW!r}), ('4', {SLOW!r})])") as parent:
            assert parent.stdout is not None
            pids = [int(pid) for pid in parent.stdout.readline().split()]
            time.sleep(0.3)  # both are in the tower now: neither reads its standard input
            parent.kill()
        wait_until(lambda: not any(alive(pid) for pid in pids))
        assert len(pids) == 2


def run_script(*lines: str) -> subprocess.Popen[str]:
    """A Python process with a pool of two workers that are up; it prints their pids, then runs these lines."""
    script = (
        "import os, sys",
        "from rewards.process.pool import WorkerPool",
        "from rewards.process.handle import Target",
        "pool = WorkerPool(Target('rewards.verify.symbolic:SymbolicEquality'), workers=2, timeout_s=60)",
        f"pool.run({PAIRS})",
        "worker_pids = lambda: [worker.process.pid for worker in pool._workers]",
        "pids = worker_pids()",
        "print(*pids, flush=True)",
        *lines,
    )
    root = Path(__file__).parent.parent
    return subprocess.Popen([sys.executable, "-c", "\n".join(script)], stdout=subprocess.PIPE, text=True, cwd=root)


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rsplit(")", 1)[1].split()[0] != "Z"  # gone but not reaped: a zombie
