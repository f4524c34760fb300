"""R3: the experts that vLLM chose are noted for every token, and the trainer's forward can use them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import perturb, picture, question

from rollouts.vllm_engine import VLLMEngine
from sail_rl.contracts import Prompt, Rollout, Sampling
from sail_rl.data.encoding import Encoder, Sample
from sail_rl.data.packing import collate
from sail_rl.models import Distribution, SailVLForConditionalGeneration
from sail_rl.models.loading import load_model
from sail_rl.models.routing import set_routed_experts

SAMPLING = Sampling(samples_per_prompt=3, max_tokens=10, temperature=1.0, seed=5, routed_experts=True)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def noted(
    tiny_dir: Callable[..., Path], vllm_engine_at: Callable[..., VLLMEngine]
) -> tuple[SailVLForConditionalGeneration, VLLMEngine]:
    """A perturbed MoE in float32 and an engine that holds it and notes its routing."""
    folder = tiny_dir("qwen3_moe", True)
    model = load_model(folder).eval()
    perturb(model, seed=3)
    engine = vllm_engine_at(folder, capture_routed_experts=True)
    engine.push_weights(1, model.named_parameters())
    return model, engine


@pytest.fixture
def prompts(encoder: Encoder) -> list[Prompt]:
    return [question(encoder, f"prompt {n}", [picture(n)] * n) for n in range(3)]


def samples_of(encoder: Encoder, prompts: list[Prompt], groups: list[list[Rollout]]) -> list[Sample]:
    return [s for p, group in zip(prompts, groups, strict=True) for s in encoder.rollout_samples(p, group)]


def own_experts(model: SailVLForConditionalGeneration, encoder: Encoder, sample: Sample) -> torch.Tensor:
    """The experts [T, layers, k] that the model itself chooses, in order of their probability."""
    with torch.no_grad():
        output = model(**collate([sample], filler=encoder.filler()).model_inputs(CPU) | {"routed_experts": None})
    k = model.config.text_config.num_experts_per_tok
    return torch.stack([logits.topk(k).indices for logits in output.router_logits], dim=1)[: len(sample)]


@pytest.mark.slow
def test_vllm_notes_the_experts_that_transformers_chooses_for_every_position(
    noted: tuple[SailVLForConditionalGeneration, VLLMEngine], encoder: Encoder, prompts: list[Prompt]
) -> None:
    model, engine = noted
    for sampling in (SAMPLING, Sampling(samples_per_prompt=1, max_tokens=6, seed=1, routed_experts=True)):
        groups = engine.generate(prompts, sampling)
        for sample in samples_of(encoder, prompts, groups):
            assert sample.routed_experts is not None
            assert sample.routed_experts.shape == (len(sample), model.config.text_config.num_hidden_layers, 2)
            ours, theirs = own_experts(model, encoder, sample)[:-1], sample.routed_experts[:-1].long()
            assert torch.equal(ours.sort().values, theirs.sort().values)
            assert (sample.routed_experts[-1] == -1).all(), "the last token was never fed"
    assert not engine._recorder._recorded, "nothing is kept of requests that are over"


@pytest.mark.slow
def test_in_bfloat16_replay_takes_away_the_gaps_that_come_from_other_experts(
    vllm_engine_at: Callable[..., VLLMEngine],
    moe: SailVLForConditionalGeneration,
    encoder: Encoder,
    tmp_path: Path,
) -> None:
    perturb(moe, seed=3)
    moe.save_pretrained(tmp_path)  # its config says float32, for the vision tower too
    encoder.processor.save_pretrained(tmp_path)
    model = load_model(tmp_path, dtype=torch.bfloat16).eval()
    engine = vllm_engine_at(tmp_path, dtype="bfloat16", capture_routed_experts=True)
    engine.push_weights(1, model.named_parameters())
    prompts = [question(encoder, f"prompt {n}", [picture(n)]) for n in range(24)]
    samples = samples_of(encoder, prompts, engine.generate(prompts, SAMPLING))
    gaps: dict[bool, torch.Tensor] = {}
    with torch.no_grad():
        for replayed in (False, True):
            batch = collate(samples, filler=encoder.filler())
            inputs = batch.model_inputs(CPU) | ({} if replayed else {"routed_experts": None})
            output = model(
                **inputs, distribution=Distribution(banned_token_ids=tuple(encoder.processor.image_token_ids))
            )
            gaps[replayed] = (output.logprobs - batch.token_fields.rollout_logprobs).abs()
    assert gaps[True].max() < 0.06
    assert gaps[True].max() < 0.5 * gaps[False].max()
    assert gaps[True].mean() < 0.7 * gaps[False].mean()


def test_replaying_a_models_own_choice_changes_nothing_and_another_choice_does(
    moe: SailVLForConditionalGeneration, encoder: Encoder
) -> None:
    prompt = question(encoder, "p", [picture(1)])
    (sample,) = encoder.rollout_samples(prompt, [Rollout("p", 0, [5, 6, 7, 8], [0.0] * 4, "", "length", 1)])
    batch = collate([sample], filler=sample)
    free = moe(**batch.model_inputs(CPU))
    sample.routed_experts = own_experts(moe, encoder, sample).to(torch.int16)
    replayed = moe(**collate([sample], filler=sample).model_inputs(CPU))
    torch.testing.assert_close(replayed.logprobs, free.logprobs)
    experts = moe.config.text_config.num_experts
    sample.routed_experts = (sample.routed_experts + 1) % experts
    shifted = moe(**collate([sample], filler=sample).model_inputs(CPU))
    assert (shifted.logprobs - free.logprobs).abs().max() > 1e-4
    again = moe(**batch.model_inputs(CPU))
    torch.testing.assert_close(again.logprobs, free.logprobs), "a forward pass without routed experts replays none"


def test_the_router_learns_under_replay_with_and_without_gradient_checkpointing(
    moe: SailVLForConditionalGeneration, encoder: Encoder
) -> None:
    prompt = question(encoder, "p", [picture(1)])
    (sample,) = encoder.rollout_samples(prompt, [Rollout("p", 0, [5, 6, 7, 8], [0.0] * 4, "", "length", 1)])
    sample.routed_experts = ((own_experts(moe, encoder, sample) + 1) % moe.config.text_config.num_experts).to(
        torch.int16
    )
    inputs = collate([sample], filler=sample).model_inputs(CPU)
    router = moe.model.language_model.layers[0].mlp.gate.weight
    gradients = []
    for checkpointing in (False, True):
        moe.train()
        if checkpointing:
            moe.gradient_checkpointing_enable()
        moe.zero_grad()
        moe(**inputs).logprobs.sum().backward()
        gradients.append(router.grad.clone())
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(gradients[0], gradients[1])


def test_samples_with_and_without_routes_share_a_row(moe: SailVLForConditionalGeneration, encoder: Encoder) -> None:
    prompt = question(encoder, "p", [picture(1)])
    rollouts = [Rollout("p", n, [5, 6 + n, 7], [0.0] * 3, "", "length", 1) for n in range(2)]
    first, second = encoder.rollout_samples(prompt, rollouts)
    first.routed_experts = ((own_experts(moe, encoder, first) + 1) % moe.config.text_config.num_experts).to(torch.int16)
    together = moe(**collate([first, second], filler=first).model_inputs(CPU)).logprobs
    alone = [moe(**collate([sample], filler=first).model_inputs(CPU)).logprobs for sample in (first, second)]
    torch.testing.assert_close(together, torch.cat(alone))


def test_routed_experts_of_another_model_are_refused(moe: SailVLForConditionalGeneration) -> None:
    with pytest.raises(ValueError, match="routed_experts has 7 layers, but the model has"):
        set_routed_experts(moe.model.language_model, torch.zeros(4, 7, 2))
