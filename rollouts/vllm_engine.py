"""VLLMEngine: rollouts by vLLM in the trainer's process."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoProcessor

from sail_rl.contracts import Prompt, Rollout, Sampling
from sail_rl.seeding import preserved_rng

from .streaming import StreamingEngine
from .vllm_requests import Request, RequestMaker

if TYPE_CHECKING:
    import numpy as np
    from vllm import RequestOutput

# vLLM reads these at import: in-process engine, no telemetry, no pinning of the trainer's threads.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
# A GPU runs compiled CUDA graphs; on a CPU the compiler only stalls the first batch.
CPU_ENVIRONMENT = {"TORCH_COMPILE_DISABLE": "1"}
GIB = 1024**3


class VLLMEngine(StreamingEngine):
    """A `RolloutEngine` backed by an in-process `vllm.LLM`, one for each rank.

    Args:
        model_dir: checkpoint with config, tokenizer and processor; the weights come with the first push.
        max_model_len: limit of prompt and completion tokens together.
        dtype: "float32" or "bfloat16"; the trainer's dtype, because log-probs differ otherwise.
        head_dtype: "float32": logits are computed in float32, as in the trainer; None: as config.json says.
        max_num_seqs: number of sequences that are decoded at once.
        kv_cache_gib: memory for the key-value cache, in GiB.
        capture_routed_experts: record an MoE's routing in `Rollout.routed_experts`. On a CPU this turns prefix caching
            off, because a cached prefix is not routed again.
        options: keyword arguments of `vllm.LLM`, which go before the ones that this class sets.
    """

    supports_partial_rollouts = True
    captures_routed_experts = True

    def __init__(
        self,
        model_dir: Path | str,
        *,
        max_model_len: int = 1024,
        dtype: str = "float32",
        head_dtype: str | None = None,
        max_num_seqs: int = 128,
        kv_cache_gib: float = 0.5,
        capture_routed_experts: bool = False,
        options: dict[str, Any] | None = None,
    ) -> None:
        on_gpu = torch.cuda.is_available()
        for name, value in (ENVIRONMENT | ({} if on_gpu else CPU_ENVIRONMENT)).items():
            os.environ.setdefault(name, value)
        from vllm import LLM
        from vllm.distributed import model_parallel_is_initialized

        from .vllm_model import register

        if model_parallel_is_initialized():
            raise RuntimeError("another vLLM engine lives in this process, and closing one would break both; close it")

        register()
        own = {
            "load_format": "dummy",
            "dtype": dtype,
            "max_model_len": max_model_len,
            "max_num_seqs": max_num_seqs,
            "enforce_eager": not on_gpu,
            "logprobs_mode": "processed_logprobs",
            # A chunked prefill rewinds the sampler's seed, which vLLM 0.31 can't do with a CPU generator.
            "enable_chunked_prefill": on_gpu,
        }
        own |= _memory(kv_cache_gib) | _launcher() | (_capturing_options() if capture_routed_experts else {})
        own |= {"hf_overrides": {"head_dtype": head_dtype}} if head_dtype else {}
        with preserved_rng():  # LLM() reseeds every global generator
            self._llm = LLM(model=str(model_dir), **(own | (options or {})))
        self._capturing = capture_routed_experts
        self._recorder = self._route_recorder() if capture_routed_experts and not on_gpu else None
        self._maker = RequestMaker(AutoProcessor.from_pretrained(model_dir), max_model_len=max_model_len)
        self._version = 0

    @classmethod
    def check_options(cls, *, options: dict[str, Any] | None = None, **others: Any) -> None:
        """Refuse an `options` key that vLLM's engine doesn't have, without starting one.

        Raises:
            TypeError: `others` has a name that isn't an argument of this class.
            ValueError: names the key and the nearest valid one.
        """
        inspect.signature(cls).bind(Path(), **others)
        if not options:
            return
        from vllm import EngineArgs

        known = [field.name for field in dataclasses.fields(EngineArgs) if field.name != "model"]
        if unknown := [name for name in options if name not in known]:
            near = difflib.get_close_matches(unknown[0], known, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"options.{unknown[0]} is {options[unknown[0]]!r}, which vLLM's engine can't be given here; the "
                f"nearest of its arguments is {near!r}"
            )

    def stream(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, stopped: Callable[[], bool] = lambda: False
    ) -> Generator[tuple[int, list[Rollout]]]:
        """Sample groups for all prompts in one continuous batch; see `RolloutEngine.stream`.

        `stopped` is called after every decoding step; if it returns True, unfinished groups are aborted.
        """
        if self._version == 0:
            raise RuntimeError("the engine has no weights yet; call push_weights before generate")
        if sampling.routed_experts and not self._capturing:
            raise ValueError("the sampling asks for routed experts; make the engine with capture_routed_experts=True")
        wanted = [request for index, p in enumerate(prompts) for request in self._maker.requests(index, p, sampling)]
        ids = self._llm.enqueue([r.inputs for r in wanted], [r.params for r in wanted], use_tqdm=False)
        requests = dict(zip(ids, wanted, strict=True))
        internal = {name.rpartition("-")[0]: name for name in ids}  # vLLM appends a random part
        groups: dict[int, list[Rollout]] = {index: [] for index in range(len(prompts))}
        if self._recorder:
            self._recorder.active = sampling.routed_experts
        try:
            while requests and not stopped():
                for output in self._llm.llm_engine.step():
                    if not output.finished:
                        continue
                    request = requests.pop(name := internal[output.request_id])
                    group = groups[request.position]
                    group += self._rollouts(request, name, output, sampling)
                    if len(group) == (len(request.prompt.partial_rollouts) or sampling.samples_per_prompt):
                        yield request.position, sorted(group, key=lambda rollout: rollout.sample)
        finally:
            self._llm.llm_engine.abort_request([name.rpartition("-")[0] for name in requests])
            if self._recorder:
                self._recorder.clear()

    def push_weights(self, version: int, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Reload all weights and drop every cache that was computed with the old ones. The engine is idle here."""
        from .weight_sync import reload_weights

        self._llm.collective_rpc(
            lambda worker: reload_weights(worker.model_runner.model, worker.vllm_config.model_config, tensors)
        )
        if not self._llm.reset_prefix_cache():
            raise RuntimeError(
                "vLLM did not reset its prefix cache, so keys and values of old weights would be used with new weights"
            )
        self._llm.llm_engine.reset_encoder_cache()
        self._version = version

    def close(self) -> None:
        """Free the model, its cache and vLLM's process groups, but not the trainer's process group."""
        with _process_group_kept():
            self._llm.llm_engine.engine_core.shutdown()
        del self._llm

    def _route_recorder(self) -> Any:
        from .routing import RouteRecorder

        return self._llm.collective_rpc(lambda worker: RouteRecorder(worker.model_runner))[0]

    def _rollouts(self, request: Request, name: str, output: RequestOutput, sampling: Sampling) -> list[Rollout]:
        routed_experts = self._experts_by_index(output, name) if sampling.routed_experts else None
        return self._maker.rollouts(request, output, sampling, version=self._version, routed_experts=routed_experts)

    def _experts_by_index(self, output: RequestOutput, request: str) -> dict[int, np.ndarray]:
        """The routed experts of each completion, by its index: from the recorder, or on a GPU from vLLM itself."""
        routed_experts = {}
        for completion in output.outputs:
            length = len(output.prompt_token_ids or ()) + len(completion.token_ids) - 1
            if self._recorder:
                child = f"{completion.index}_{request}" if len(output.outputs) > 1 else request
                routed_experts[completion.index] = self._recorder.take(child, length)
            else:
                assert completion.routed_experts is not None
                routed_experts[completion.index] = completion.routed_experts[:length].astype("int16")
        return routed_experts


@contextmanager
def _process_group_kept() -> Iterator[None]:
    """Keep the trainer's process group: vLLM 0.31 destroys all groups with an engine, but DeepSpeed needs its own."""
    from vllm.distributed import parallel_state

    def destroy_own() -> None:
        if parallel_state._WORLD is not None:
            parallel_state._WORLD.destroy()
        parallel_state._WORLD = parallel_state._NODE_COUNT = None

    destroy_all, parallel_state.destroy_distributed_environment = (
        parallel_state.destroy_distributed_environment,
        destroy_own,
    )
    try:
        yield
    finally:
        parallel_state.destroy_distributed_environment = destroy_all


def _memory(kv_cache_gib: float) -> dict[str, Any]:
    """Options that reserve the key-value cache and nothing else.

    With a fixed cache vLLM uses `gpu_memory_utilization` (0.9 by default) only to refuse a GPU with less free memory at
    the start, which a GPU shared with the trainer always has.
    """
    size = int(kv_cache_gib * GIB)
    if not torch.cuda.is_available():
        return {"kv_cache_memory_bytes": size}
    return {"kv_cache_memory_bytes": size, "gpu_memory_utilization": size / torch.cuda.mem_get_info()[1]}


def _capturing_options() -> dict[str, Any]:
    """Options that routing capture needs: vLLM's own recorder on a GPU, a `RouteRecorder` on a CPU."""
    return {"enable_return_routed_experts": True} if torch.cuda.is_available() else {"enable_prefix_caching": False}


def _launcher() -> dict[str, Any]:
    """Options for a distributed job, in which each rank has its own engine."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if distributed and torch.distributed.get_world_size() > 1:
        return {"distributed_executor_backend": "external_launcher"}
    return {}
