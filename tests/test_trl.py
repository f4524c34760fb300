"""TRL's GRPOTrainer trains SAIL-VL2 with rollouts of our vLLM engine, images included, on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import picture
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from rollouts.trl import make_rollout_func
from rollouts.vllm_engine import VLLMEngine
from sail_rl.models import SailVLProcessor
from sail_rl.models.loading import load_model

pytestmark = pytest.mark.slow


def test_trl_trains_with_our_engine_and_its_logprobs_are_the_trainer_s(
    tiny_dir: Callable[..., Path],
    vllm_engine: Callable[..., VLLMEngine],
    processor: SailVLProcessor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    engine, gaps, lengths = vllm_engine(), [], []

    def length(completion_ids: list[list[int]], **_: Any) -> list[float]:
        lengths.extend(len(ids) for ids in completion_ids)
        return [sum(ids) % 7 / 7 for ids in completion_ids]

    class Watched(GRPOTrainer):
        """Compares the trainer's log-probs of the tokens in its batch with the engine's."""

        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
            batch = super()._generate_and_score_completions(inputs)
            images = {name: batch[name] for name in ("pixel_values", "image_grid_thw")}
            ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
            mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
            with torch.no_grad():
                logits = self.model(input_ids=ids, attention_mask=mask, **images).logits
            logits[..., processor.image_token_ids] = float("-inf")  # the engine can't sample them
            logprobs = logits[:, batch["prompt_ids"].shape[1] - 1 : -1].log_softmax(-1)
            found = logprobs.gather(2, batch["completion_ids"][..., None]).squeeze(2)
            gap = (found - batch["sampling_per_token_logps"]).abs() * batch["completion_mask"]
            gaps.append(gap.max().item())
            return batch

    rows = {
        "prompt": [[{"role": "user", "content": f"What is in picture {n}?"}] for n in range(4)],
        "images": [[picture(n)] for n in range(4)],
    }
    model = load_model(tiny_dir())
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    args = GRPOConfig(
        output_dir=str(tmp_path),
        max_steps=3,
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=6,
        learning_rate=1e-3,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        bf16=False,
        logging_steps=1,
    )
    trainer = Watched(
        model=model,
        reward_funcs=length,
        args=args,
        train_dataset=Dataset.from_dict(rows),
        processing_class=processor,
        rollout_func=make_rollout_func(engine, processor),
    )
    trainer.train()
    assert trainer.state.global_step == 3
    assert any(not torch.equal(before[name], weight) for name, weight in model.named_parameters())
    assert lengths
    assert len(gaps) >= 3
    assert max(gaps) < 1e-4
