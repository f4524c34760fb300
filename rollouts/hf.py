"""HFEngine: rollouts by transformers' `generate`, the reference that tests compare every other engine with."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor

from sail_rl.contracts import Prompt, Rollout, Sampling
from sail_rl.models.loading import load_model
from sail_rl.seeding import derive_seed

from .streaming import StreamingEngine


class HFEngine(StreamingEngine):
    """A `RolloutEngine` on a copy of the model in plain transformers.

    It generates one prompt's group at a time, without padding, so that results don't depend on the batch. It is slow
    and simple. Its sampled tokens differ from vLLM's (another random generator), but log-probs of equal tokens agree.

    Args:
        model_dir: checkpoint with config, tokenizer and processor.
        max_model_len: limit of prompt and completion tokens together.
        dtype: "float32" or "bfloat16".
        head_dtype: "float32": logits are computed in float32; None: as config.json says.
    """

    def __init__(
        self,
        model_dir: Path | str,
        *,
        max_model_len: int = 1024,
        dtype: str = "float32",
        head_dtype: str | None = None,
    ) -> None:
        self._processor = AutoProcessor.from_pretrained(model_dir)
        model = load_model(Path(model_dir), dtype=getattr(torch, dtype), head_dtype=head_dtype)
        self._model = model.eval().to("cuda" if torch.cuda.is_available() else "cpu")
        self._max_model_len = max_model_len
        self._version = 0

    def stream(self, prompts: Sequence[Prompt], sampling: Sampling) -> Generator[tuple[int, list[Rollout]]]:
        """Sample one group after another; see `RolloutEngine.stream`."""
        if self._version == 0:
            raise RuntimeError("the engine has no weights yet; call push_weights before generate")
        for position, prompt in enumerate(prompts):
            yield position, self._group(prompt, sampling)

    def push_weights(self, version: int, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Copy the tensors into the model; every parameter must be among them."""
        parameters = dict(self._model.named_parameters())
        given = dict(tensors)
        if given.keys() != parameters.keys():
            raise ValueError(f"weights do not match: {sorted(given.keys() ^ parameters.keys())[:5]}")
        with torch.no_grad():
            for name, tensor in given.items():
                parameters[name].copy_(tensor)
        self._version = version

    def close(self) -> None:
        """Free the model."""
        del self._model

    @torch.no_grad()
    def _group(self, prompt: Prompt, sampling: Sampling) -> list[Rollout]:
        inputs = self._processor.encoded(prompt.token_ids, prompt.images, name=prompt.id).to(self._model.device)
        length = inputs["input_ids"].shape[1]
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(sampling.seed, prompt.id))
            output = self._model.generate(
                **inputs, **self._options(sampling, length), return_dict_in_generate=True, output_scores=True
            )
        logprobs = torch.stack([scores.float().log_softmax(-1).cpu() for scores in output.scores], dim=1)  # [G, C, V]
        return [
            self._rollout(prompt, sample, tokens, logprobs[sample])
            for sample, tokens in enumerate(output.sequences[:, length:].cpu())
        ]

    def _options(self, sampling: Sampling, prompt_length: int) -> dict[str, Any]:
        """Options of `generate` for plain sampling or greedy decoding; image tokens are banned."""
        distribution = {"temperature": sampling.temperature, "top_k": 0, "top_p": 1.0} if sampling.temperature else {}
        return distribution | {
            "do_sample": bool(sampling.temperature),
            "num_return_sequences": sampling.samples_per_prompt,
            "max_new_tokens": min(sampling.max_tokens, self._max_model_len - prompt_length),
            "suppress_tokens": self._processor.image_token_ids,
        }

    def _rollout(self, prompt: Prompt, sample: int, tokens: torch.Tensor, logprobs: torch.Tensor) -> Rollout:
        eos = self._processor.tokenizer.eos_token_id
        ends = (tokens == eos).nonzero()
        length = int(ends[0]) + 1 if len(ends) else len(tokens)
        kept: list[int] = tokens[:length].tolist()
        return Rollout(
            prompt_id=prompt.id,
            sample=sample,
            token_ids=kept,
            logprobs=logprobs[torch.arange(length), tokens[:length]].tolist(),
            text=self._processor.chat.decode(kept),
            stop_reason="stop" if len(ends) else "length",
            weights_version=self._version,
            control_tokens=self._processor.chat.control_count(kept),
        )
