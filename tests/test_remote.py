"""Real rollout servers on loopback: same rollouts, weights by transfer API, servers that go and come back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from conftest import FORGED, perturb, picture, question
from launching import free_port
from serving import serving_vllm
from test_workers import close_to

from rollouts.remote import RemoteEngine
from rollouts.streaming import EngineError
from rollouts.vllm_engine import VLLMEngine
from sail_rl.contracts import Prompt, Sampling
from sail_rl.data.encoding import Encoder
from sail_rl.models.loading import load_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SAMPLING = Sampling(samples_per_prompt=2, max_tokens=8, temperature=1.0, seed=3)
# The options of docs/rollouts.md.
OPTIONS = ["--logprobs-mode", "processed_logprobs", "--enable-scale-out", "--no-enable-chunked-prefill"]
OPTIONS += ["--weight-transfer-config", '{"backend": "sail_files"}']


class Servers:
    """Servers that can be ended and started again at their address."""

    def __init__(self, model_dir: Path, log_dir: Path) -> None:
        self.model_dir, self.log_dir = model_dir, log_dir
        self.ports = [free_port() for _ in range(3)]
        self._stacks: dict[int, contextlib.ExitStack] = {}

    def start(self, number: int) -> None:
        stack = self._stacks[number] = contextlib.ExitStack()
        server = serving_vllm(self.model_dir, self.log_dir, max_model_len=256, port=self.ports[number], options=OPTIONS)
        stack.enter_context(server)

    def end(self, number: int) -> None:
        self._stacks.pop(number).close()

    @property
    def addresses(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.ports]


@pytest.fixture(scope="module")
def servers(tiny_dir: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_SERVER_DEV_MODE", "1")
        three = Servers(tiny_dir(), tmp_path_factory.mktemp("servers"))
        with ThreadPoolExecutor() as threads:
            list(threads.map(three.start, range(3)))
        yield three
        for number in list(three._stacks):
            three.end(number)


@pytest.fixture(scope="module")
def remote(
    servers: Servers, tiny_dir: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RemoteEngine]:
    engine = RemoteEngine(
        tiny_dir(),
        servers=servers.addresses,
        weights_dir=tmp_path_factory.mktemp("weights"),
        concurrency=2,
        max_model_len=256,
        patience=60,
    )
    yield engine
    engine.close()


@pytest.fixture
def prompts(encoder: Encoder) -> list[Prompt]:
    plain = [question(encoder, f"prompt {n}", [picture(n)] * (n % 3)) for n in range(6)]
    return [*plain, question(encoder, "prompt 6", [picture(6)], FORGED)]


@pytest.mark.parametrize("seed", [1, 2])
def test_three_servers_give_the_rollouts_of_an_engine_in_process_after_each_push(
    seed: int,
    remote: RemoteEngine,
    vllm_engine: Callable[..., VLLMEngine],
    tiny_dir: Callable[..., Path],
    prompts: list[Prompt],
) -> None:
    model = load_model(tiny_dir())
    perturb(model, seed=seed)
    alone = vllm_engine()
    for engine in (remote, alone):
        engine.push_weights(seed, model.named_parameters())
    groups = remote.generate(prompts, SAMPLING)
    assert close_to(groups, alone.generate(prompts, SAMPLING))
    assert {rollout.weights_version for group in groups for rollout in group} == {seed}
    greedy = replace(SAMPLING, temperature=0.0, samples_per_prompt=1)
    assert close_to(remote.generate(prompts, greedy), alone.generate(prompts, greedy))
    assert [state["alive"] for state in remote.health()] == [True] * 3
    assert len(list(remote._transfer._folder.glob("*.safetensors"))) == 1, "only the newest weights are kept"


def test_completions_end_where_the_context_does(remote: RemoteEngine, prompts: list[Prompt]) -> None:
    group = remote.generate(prompts[:1], replace(SAMPLING, max_tokens=1000, temperature=1.0))[0]
    assert all(len(rollout.token_ids) <= 256 for rollout in group)


def test_a_server_that_goes_is_done_without_and_joins_again_when_it_is_back(
    remote: RemoteEngine, servers: Servers, prompts: list[Prompt], tiny_dir: Callable[..., Path]
) -> None:
    long = replace(SAMPLING, max_tokens=100)
    expected = remote.generate(prompts, long)
    stream = remote.stream(prompts, long)
    groups = dict([next(stream)])
    servers.end(1)
    groups |= dict(stream)
    assert close_to([groups[place] for place in range(len(prompts))], expected)
    assert close_to(remote.generate(prompts, long), expected)
    assert [state["alive"] for state in remote.health()] == [True, False, True]
    servers.start(1)
    deadline = time.monotonic() + 60
    while not remote.health()[1]["alive"]:  # it is looked for whether or not anything is generated
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert close_to(remote.generate(prompts, long), expected), "it has the newest weights"
    model = load_model(tiny_dir())
    perturb(model, seed=5)
    remote.push_weights(9, model.named_parameters())
    assert [state["version"] for state in remote.health()] == [9, 9, 9]


def test_a_caller_may_give_up_and_ask_anew(remote: RemoteEngine, prompts: list[Prompt]) -> None:
    expected = remote.generate(prompts, SAMPLING)
    stream = remote.stream(prompts, replace(SAMPLING, max_tokens=150))
    next(stream)
    with pytest.raises(RuntimeError, match="the engine is generating"):
        remote.push_weights(10, [])
    stream.close()
    assert close_to(remote.generate(prompts, SAMPLING), expected)


def test_a_request_that_is_itself_wrong_is_refused(remote: RemoteEngine, prompts: list[Prompt]) -> None:
    three = [remote._requests._processor.image_token_id] * 3
    with pytest.raises(ValueError, match=r"3 image placeholder\(s\) but 0 image\(s\)"):
        remote.generate([replace(prompts[0], token_ids=three)], SAMPLING)
    with pytest.raises(ValueError, match=r"prompt endless has \d+ tokens, but the context has only 256"):
        remote.generate([replace(prompts[0], id="endless", token_ids=list(prompts[0].token_ids) * 40)], SAMPLING)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "weights_dir is missing"),
        ({"transfer": "nccl"}, "host is missing"),
        ({"transfer": "nccl", "host": "10.0.0.9"}, "nccl, which connects GPUs, and there is no GPU here; use files"),
        ({"transfer": "post"}, "transfer is 'post'; give files or nccl"),
    ],
)
def test_a_transfer_that_lacks_something_is_refused(
    options: dict[str, str], message: str, tiny_dir: Callable[..., Path]
) -> None:
    with pytest.raises(ValueError, match=message):
        RemoteEngine(tiny_dir(), servers=["http://127.0.0.1:1"], **options)  # type: ignore[arg-type]


def test_without_any_server_the_run_stops_and_says_why(tiny_dir: Callable[..., Path], tmp_path: Path) -> None:
    engine = RemoteEngine(tiny_dir(), servers=[f"http://127.0.0.1:{free_port()}"], weights_dir=tmp_path, patience=1)
    with pytest.raises(
        EngineError, match=r"no rollout server is reachable: http://127.0.0.1:\d+: /health: ConnectError"
    ):
        engine.push_weights(1, load_model(tiny_dir()).named_parameters())
    engine.close()


class WithoutDevMode(BaseHTTPRequestHandler):
    """A server that is healthy and can't be given weights."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_without_dev_mode_is_told_apart(tiny_dir: Callable[..., Path], tmp_path: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), WithoutDevMode)
    Thread(target=server.serve_forever, daemon=True).start()
    engine = RemoteEngine(
        tiny_dir(), servers=[f"http://127.0.0.1:{server.server_port}"], weights_dir=tmp_path, patience=1
    )
    with pytest.raises(EngineError, match="it has no /pause: start it with VLLM_SERVER_DEV_MODE=1"):
        engine.push_weights(1, load_model(tiny_dir()).named_parameters())
    engine.close()
    server.shutdown()
