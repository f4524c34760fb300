"""A `rollout_func` with which TRL's GRPOTrainer samples from our engines; it pushes weights before each batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sail_rl.contracts import Message, Prompt, RolloutEngine, Sampling
from sail_rl.messages import as_parts
from sail_rl.models import SailVLProcessor
from sail_rl.seeding import derive_seed


def make_rollout_func(engine: RolloutEngine, processor: SailVLProcessor) -> Callable[[list[Any], Any], dict[str, Any]]:
    """A function for `GRPOTrainer(rollout_func=…)` (TRL 1.16) that samples with `engine` and the trainer's weights.

    TRL alone can't use vLLM on a CPU, because its weight sync fails there. Leave TRL's own `use_vllm` off. Sampling
    uses `temperature` and `max_completion_length` of the trainer's arguments, without top-p or top-k.

    Args:
        engine: any rollout engine; it gets new weights after each step of the trainer.
        processor: the model's processor.
    """
    pushed: list[int] = []

    def rollout(prompts: list[list[Message]], trainer: Any) -> dict[str, Any]:
        step = trainer.state.global_step
        if pushed != [step]:
            model = trainer.accelerator.unwrap_model(trainer.model)
            engine.push_weights(step + 1, model.named_parameters())
            pushed[:] = [step]
        asked = [_prompt(f"{step}/{number}", messages, processor) for number, messages in enumerate(prompts)]
        sampling = Sampling(
            max_tokens=trainer.max_completion_length,
            temperature=trainer.temperature,
            seed=derive_seed(trainer.args.seed, step, trainer.accelerator.process_index),
        )
        rollouts = [group[0] for group in engine.generate(asked, sampling)]
        inputs = [processor.encoded(prompt.token_ids, prompt.images, name=prompt.id) for prompt in asked]
        return {
            "prompt_ids": [row["input_ids"][0].tolist() for row in inputs],
            "completion_ids": [rollout.token_ids for rollout in rollouts],
            "logprobs": [rollout.logprobs for rollout in rollouts],
        }

    return rollout


def _prompt(name: str, messages: list[Message], processor: SailVLProcessor) -> Prompt:
    """A `Prompt` from TRL's prompt, which carries its images in the messages."""
    parts = [part for message in messages for part in as_parts(message["content"])]
    images = [part["image"] for part in parts if part["type"] == "image"]
    rendered = processor.chat.render(messages)
    return Prompt(name, messages, rendered.text, images, token_ids=rendered.token_ids)
