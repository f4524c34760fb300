"""Spawned rollout workers, with real vLLM: same rollouts however many, and no failure of one loses anything."""

from __future__ import annotations

import os
import signal
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from conftest import perturb, picture, question
from launching import Fork, WorkerForks

import rollouts.worker_handle
from rollouts.streaming import EngineError
from rollouts.vllm_engine import VLLMEngine
from rollouts.workers import WorkerEngine
from sail_rl.contracts import Prompt, Rollout, Sampling
from sail_rl.data.encoding import Encoder
from sail_rl.models.loading import load_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

OPTIONS = {"max_model_len": 256, "max_num_seqs": 32, "kv_cache_gib": 0.1, "threads": 1}
SAMPLING = Sampling(samples_per_prompt=2, max_tokens=8, temperature=1.0, seed=3)


@pytest.fixture(scope="module", autouse=True)
def _forks() -> Iterator[None]:
    """Most workers here are forks; those of the trainers that end, and of whole runs, are spawned as always."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rollouts.worker_handle, "SPAWN", WorkerForks)
        yield


@pytest.fixture(scope="module")
def workers(tiny_dir: Callable[..., Path]) -> Iterator[WorkerEngine]:
    """Three workers with weights; tests may break them, the next use mends them."""
    engine = WorkerEngine(tiny_dir(), workers=3, generate_timeout=60, **OPTIONS)
    engine.push_weights(1, load_model(tiny_dir()).named_parameters())
    yield engine
    pids = [state["pid"] for state in engine.health()]
    engine.close()
    assert not any(psutil.pid_exists(pid) for pid in pids)


@pytest.fixture
def prompts(encoder: Encoder) -> list[Prompt]:
    return [question(encoder, f"prompt {n}", [picture(n)] * (n % 3)) for n in range(7)]


def close_to(left: list[list[Rollout]], right: list[list[Rollout]]) -> bool:
    """Equal but for the last bits of log-probs, which depend on what shares a batch."""
    pairs = [pair for groups in zip(left, right, strict=True) for pair in zip(*groups, strict=True)]
    exact = all(
        replace(a, logprobs=[], weights_version=0) == replace(b, logprobs=[], weights_version=0) for a, b in pairs
    )
    return exact and all(
        x == pytest.approx(y, abs=1e-5) for a, b in pairs for x, y in zip(a.logprobs, b.logprobs, strict=True)
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_three_workers_give_the_rollouts_of_one_engine(
    temperature: float,
    workers: WorkerEngine,
    vllm_engine: Callable[..., VLLMEngine],
    tiny_dir: Callable[..., Path],
    prompts: list[Prompt],
) -> None:
    sampling = replace(SAMPLING, temperature=temperature, samples_per_prompt=2 if temperature else 1)
    alone = vllm_engine()
    alone.push_weights(1, load_model(tiny_dir()).named_parameters())
    assert close_to(workers.generate(prompts, sampling), alone.generate(prompts, sampling))


def test_a_push_reaches_every_worker(
    workers: WorkerEngine, tiny_dir: Callable[..., Path], prompts: list[Prompt], vllm_engine: Callable[..., VLLMEngine]
) -> None:
    model = load_model(tiny_dir())
    perturb(model, seed=1)
    workers.push_weights(2, model.named_parameters())
    groups = workers.generate(prompts, SAMPLING)
    assert {rollout.weights_version for group in groups for rollout in group} == {2}
    alone = vllm_engine()
    alone.push_weights(2, model.named_parameters())
    assert close_to(groups, alone.generate(prompts, SAMPLING))


def test_a_worker_killed_while_it_generates_is_replaced_and_nothing_is_lost(
    workers: WorkerEngine, prompts: list[Prompt]
) -> None:
    long = replace(SAMPLING, max_tokens=150)
    expected = workers.generate(prompts, long)
    victim = workers.health()[1]["pid"]
    killer = threading.Timer(0.3, os.kill, (victim, signal.SIGKILL))
    killer.start()
    assert close_to(workers.generate(prompts, long), expected)
    killer.join()
    assert victim not in [state["pid"] for state in workers.health()]
    assert all(state["alive"] for state in workers.health())


def test_what_a_caller_gives_up_on_is_not_sampled_to_its_end(workers: WorkerEngine, prompts: list[Prompt]) -> None:
    long = replace(SAMPLING, max_tokens=200)
    expected = workers.generate(prompts, SAMPLING)
    started = time.monotonic()
    whole = dict(workers.stream(prompts, long))
    took = time.monotonic() - started
    assert sorted(whole) == list(range(len(prompts)))
    stream = workers.stream([replace(prompts[0], id="another"), *prompts], long)
    next(stream)
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="the engine is generating"):
        workers.push_weights(9, [])
    stream.close()
    assert time.monotonic() - started < took
    assert close_to(workers.generate(prompts, SAMPLING), expected), "the workers are idle, and answer as before"


def test_a_worker_that_hangs_is_replaced_after_its_time_limit(workers: WorkerEngine, prompts: list[Prompt]) -> None:
    expected = workers.generate(prompts, SAMPLING)
    stuck = workers.health()[0]["pid"]
    os.kill(stuck, signal.SIGSTOP)
    workers._generate_timeout, before = 5.0, workers._generate_timeout
    try:
        started = time.monotonic()
        assert close_to(workers.generate(prompts, SAMPLING), expected)
        assert time.monotonic() - started < 90
    finally:
        workers._generate_timeout = before
    assert not psutil.pid_exists(stuck)


def test_a_request_that_is_itself_wrong_is_refused_without_replacing_anybody(
    workers: WorkerEngine, prompts: list[Prompt], encoder: Encoder
) -> None:
    before = [state["pid"] for state in workers.health()]
    broken = replace(prompts[0], token_ids=[encoder.processor.image_token_id] * 3)
    with pytest.raises(ValueError, match=r"has 3 image placeholder\(s\) but 0 image\(s\)"):
        workers.generate([broken], SAMPLING)
    assert [state["pid"] for state in workers.health()] == before


def test_after_repeated_failures_the_run_stops_with_the_reason(
    tiny_dir: Callable[..., Path], prompts: list[Prompt]
) -> None:
    engine = WorkerEngine(tiny_dir(), workers=1, max_restarts=0, **OPTIONS)
    engine.push_weights(1, load_model(tiny_dir()).named_parameters())
    os.kill(engine.health()[0]["pid"], signal.SIGKILL)
    with pytest.raises(EngineError, match="failed 1 times without a success in between; the last reason: it "):
        engine.generate(prompts, SAMPLING)
    assert engine.health() == []


def test_an_engine_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="config"):
        WorkerEngine(tmp_path, workers=1, **OPTIONS)


@pytest.mark.parametrize("end", ["exit", "error", "interrupt", "kill"])
def test_no_worker_outlives_the_trainer(end: str, tiny_dir: Callable[..., Path], tmp_path: Path) -> None:
    script = tmp_path / "trainer.py"
    script.write_text(
        textwrap.dedent(f"""
        import signal
        import time
        from pathlib import Path
        from rollouts.workers import WorkerEngine
        from sail_rl.models.loading import load_model
        if __name__ == "__main__":
            signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it for background jobs
            engine = WorkerEngine({str(tiny_dir())!r}, workers=1, **{OPTIONS!r})
            Path({str(tmp_path / "pid")!r}).write_text(str(engine.health()[0]["pid"]))
            if {end!r} == "error":
                raise RuntimeError("the trainer broke")
            if {end!r} in ("interrupt", "kill"):
                time.sleep(100)
        """)
    )
    with Fork([script]) as trainer:
        deadline = time.monotonic() + 120
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        worker = int((tmp_path / "pid").read_text())
        if end in ("interrupt", "kill"):
            trainer.send_signal(signal.SIGINT if end == "interrupt" else signal.SIGKILL)
        trainer.wait(timeout=60)
    deadline = time.monotonic() + 60
    while psutil.pid_exists(worker) and psutil.Process(worker).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the worker is still there"
        time.sleep(0.1)
