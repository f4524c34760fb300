"""Converts prompts to vLLM's requests, and its outputs to rollouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sail_rl.contracts import Prompt, Rollout, Sampling, StopReason
from sail_rl.models.processing import SailVLProcessor, check_placeholders
from sail_rl.seeding import derive_seed

if TYPE_CHECKING:
    import numpy as np
    from vllm import RequestOutput, SamplingParams

BANNED = -100.0  # logit bias of banned tokens: exp(-100) vanishes in any float32 sum


@dataclass(frozen=True, slots=True)
class Request:
    """One request: a prompt's whole group, or one partial rollout of it to continue.

    `position` is the prompt's position in the call; `inputs` and `params` are vLLM's arguments.
    """

    position: int
    prompt: Prompt
    partial: Rollout | None
    inputs: dict[str, Any]
    params: SamplingParams


class RequestMaker:
    """Makes requests and reads their outputs.

    Args:
        processor: the model's; its image tokens are never sampled.
        max_model_len: limit of prompt and completion tokens together.
    """

    def __init__(self, processor: SailVLProcessor, *, max_model_len: int) -> None:
        self._processor = processor
        self._banned = dict.fromkeys(processor.image_token_ids, BANNED)
        self._max_model_len = max_model_len

    def requests(self, position: int, prompt: Prompt, sampling: Sampling) -> list[Request]:
        """The requests of one prompt."""
        return [
            Request(position, prompt, partial, self._inputs(prompt, partial), self._params(prompt, sampling, partial))
            for partial in prompt.partial_rollouts or (None,)
        ]

    def rollouts(
        self,
        request: Request,
        output: RequestOutput,
        sampling: Sampling,
        *,
        version: int,
        routed_experts: dict[int, np.ndarray] | None,
    ) -> list[Rollout]:
        """The complete rollouts of a finished request, in order, with the tokens of earlier rounds."""
        partial = request.partial or Rollout(request.prompt.id, 0, [], [], "", "unfinished", version)
        rollouts = []
        for completion in sorted(output.outputs, key=lambda completion: completion.index):
            new, steps = list(completion.token_ids), completion.logprobs
            tokens = partial.token_ids + new
            full = len(output.prompt_token_ids or ()) + len(new) >= self._max_model_len
            reason: StopReason = "stop" if completion.finish_reason == "stop" else "length"
            if reason == "length" and len(tokens) < sampling.max_tokens and not full:
                reason = "unfinished"
            rollouts.append(
                Rollout(
                    prompt_id=request.prompt.id,
                    sample=partial.sample + completion.index,
                    token_ids=tokens,
                    logprobs=partial.logprobs + [step[t].logprob for step, t in zip(steps, new, strict=True)],
                    text=self._processor.chat.decode(tokens),
                    stop_reason=reason,
                    weights_version=version,
                    earlier=partial.token_versions,
                    control_tokens=self._processor.chat.control_count(tokens),
                    routed_experts=routed_experts[completion.index] if routed_experts else None,
                )
            )
        return rollouts

    def _inputs(self, prompt: Prompt, partial: Rollout | None) -> dict[str, Any]:
        """The prompt's tokens, with ONE placeholder for each image, which vLLM expands, and its images."""
        # vLLM would accept a placeholder without an image silently.
        check_placeholders(prompt.token_ids, prompt.images, self._processor.image_token_id, name=prompt.id)
        ids = [*prompt.token_ids, *(partial.token_ids if partial else ())]
        return {"prompt_token_ids": ids} | ({"multi_modal_data": {"image": prompt.images}} if prompt.images else {})

    def _params(self, prompt: Prompt, sampling: Sampling, partial: Rollout | None) -> SamplingParams:
        from vllm import SamplingParams

        left = sampling.max_tokens - (len(partial.token_ids) if partial else 0)
        return SamplingParams(
            n=1 if partial else sampling.samples_per_prompt,
            temperature=sampling.temperature,
            max_tokens=min(left, sampling.max_new_tokens_per_round or left),
            # Sample i gets this seed + i, whether it is requested alone or with its group.
            seed=derive_seed(sampling.seed, prompt.id) + (partial.sample if partial else 0),
            logprobs=0,
            logit_bias=self._banned,
            detokenize=False,
        )
