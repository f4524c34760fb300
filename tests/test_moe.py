"""Balance of the experts: router losses by hand, over any packing, over ranks, through checkpointing and DeepSpeed."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import picture, question
from launching import finish_ranks
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from sail_rl.data.encoding import Encoder, Sample
from sail_rl.data.packing import collate, pack
from sail_rl.maths import balance
from sail_rl.models import SailVLForConditionalGeneration
from sail_rl.models.adapters import LoRA, prepare_parameters
from sail_rl.models.loading import load_model
from sail_rl.records.schema import is_known
from sail_rl.trainer.balance import (
    ExpertBalance,
    RouterCoefficients,
    balance_metrics,
    router_coefficients,
)

CPU = torch.device("cpu")
LOGITS = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 3.0, 2.0, 1.0]])  # tokens choose experts {0, 1} and {1, 2}


def samples_of(encoder: Encoder, number: int = 5) -> list[Sample]:
    """Samples of different lengths: text-only ones, some with one image, some with two."""
    samples = []
    for n in range(number):
        prompt_ids, pixels = encoder.prompt_inputs(question(encoder, str(n), [picture(i) for i in range(n % 3)]))
        tokens = (torch.arange(4 + 5 * n) * 7 + n) % 200 + 20
        samples.append(Sample(torch.cat([prompt_ids, tokens]), len(prompt_ids), **pixels))
    return samples


def no_ranks(values: torch.Tensor) -> torch.Tensor:
    return values


def router_of(model: torch.nn.Module) -> list[torch.Tensor]:
    return [layer.mlp.gate.weight for layer in model.model.language_model.layers]


# The mathematics


def test_sums_by_hand() -> None:
    sums = balance.router_sums([LOGITS], torch.tensor([True, True]), experts_per_token=2)
    assert sums.counts.tolist() == [[1, 2, 1, 0]]
    partition = math.exp(3) + math.exp(2) + math.e + 1
    first = [math.exp(3) / partition, math.exp(2) / partition, math.e / partition, 1 / partition]
    second = [first[3], *first[:3]]
    expected = [a + b for a, b in zip(first, second, strict=True)]
    assert sums.probabilities[0].tolist() == pytest.approx(expected)
    assert sums.squares.tolist() == pytest.approx([2 * math.log(partition) ** 2])


def test_a_masked_position_is_neither_counted_nor_differentiated() -> None:
    logits = LOGITS.clone().requires_grad_()
    sums = balance.router_sums([logits], torch.tensor([True, False]), experts_per_token=2)
    assert sums.counts.tolist() == [[1, 1, 0, 0]]
    (sums.probabilities[0, 0] + sums.squares.sum()).backward()
    assert logits.grad is not None
    assert logits.grad[0].abs().min() > 0
    assert not logits.grad[1].any()


def test_losses_by_hand() -> None:
    shares = torch.tensor([[0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]])
    means = torch.tensor([[0.7, 0.1, 0.1, 0.1], [1.0, 0.0, 0.0, 0.0], [0.6, 0.2, 0.1, 0.1]])
    losses = balance.load_balancing_loss(shares, means * 10, tokens=10)
    assert losses.tolist() == pytest.approx([1.0, 4.0, 4 * 0.5 * 0.8])
    assert balance.router_z_loss(torch.tensor([8.0, 2.0]), tokens=4).tolist() == [2.0, 0.5]


def test_the_load_balancing_loss_is_transformers_own_on_each_layer_divided_by_k() -> None:
    layers = [torch.randn(50, 6, generator=torch.Generator().manual_seed(n)) for n in range(3)]
    sums = balance.router_sums(layers, torch.ones(50, dtype=torch.bool), experts_per_token=2)
    losses = balance.load_balancing_loss(balance.expert_shares(sums.counts), sums.probabilities, tokens=50)
    expected = [load_balancing_loss_func((layer,), 6, 2) / 2 for layer in layers]
    torch.testing.assert_close(losses, torch.stack(expected))


def test_the_z_loss_pulls_the_partition_function_towards_one() -> None:
    logits = torch.full((3, 4), 2.0, requires_grad=True)
    sums = balance.router_sums([logits], torch.ones(3, dtype=torch.bool), experts_per_token=1)
    balance.router_z_loss(sums.squares, tokens=3).sum().backward()
    # d/dx_i of log²(Z) = 2 log(Z) softmax_i, over 3 tokens: log Z = 2 + log 4
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.full((3, 4), 2 * (2 + math.log(4)) / 4 / 3))


def test_load_statistics_by_hand() -> None:
    shares = torch.tensor([[0.25, 0.25, 0.25, 0.25], [0.5, 0.48, 0.02, 0.0]])
    assert balance.load_entropy(shares)[0].item() == pytest.approx(math.log(4))
    assert balance.max_violation(shares).tolist() == pytest.approx([0.0, 1.0])
    assert balance.dead_experts(shares).tolist() == [0, 2]  # below 0.1 x 0.25
    metrics = balance_metrics(shares, aux_losses=torch.tensor([1.0, 2.0]), z_losses=torch.tensor([4.0, 6.0]))
    assert metrics["moe/load_max_violation"] == pytest.approx(1.0)
    assert metrics["moe/load_max_violation/0"] == pytest.approx(0.0)
    assert metrics["moe/dead_experts"] == 2
    assert metrics["moe/aux_loss"] == 1.5
    assert metrics["moe/z_loss/1"] == 6.0
    assert metrics["moe/load/1/0"] == 0.5
    assert all(is_known(name) for name in metrics)


# Rows of a step


def test_only_positions_of_samples_with_labels_are_scored(encoder: Encoder) -> None:
    text, *_ = samples_of(encoder, 3)
    filler = encoder.filler()
    batch = collate([text], filler=filler)
    assert batch.uses.tolist() == [1] * len(text) + [0] * len(filler)
    assert not batch.unlabelled().uses.any()


def test_losses_of_a_packed_step_equal_transformers_on_all_its_tokens(
    moe: SailVLForConditionalGeneration, encoder: Encoder
) -> None:
    samples = samples_of(encoder)
    pictures = [{"pixel_values": s.pixel_values, "image_grid_thw": s.image_grid_thw} for s in samples]
    alone = [
        moe.model(input_ids=s.input_ids[None], output_router_logits=True, **images)
        for s, images in zip(samples, pictures, strict=True)
    ]
    layers = [torch.cat(parts) for parts in zip(*(output.router_logits for output in alone), strict=True)]
    aux = torch.stack([load_balancing_loss_func((layer,), 8, 2) / 2 for layer in layers])
    z = torch.stack([layer.logsumexp(-1).square().mean() for layer in layers])
    tokens = sum(len(sample) for sample in samples)
    assert len(layers[0]) == tokens
    for pack_length in (60, 120, 1000):
        _, batches = pack(samples, pack_length=pack_length, filler=encoder.filler())
        batches.append(batches[0].unlabelled())
        step = ExpertBalance(RouterCoefficients(0.5, 0.25), experts_per_token=2, tokens=tokens, all_sum=no_ranks)
        step.count_ahead(moe, batches, CPU)
        total = sum(step.loss(batch, moe(**batch.model_inputs(CPU))).item() for batch in batches)
        assert total == pytest.approx(0.5 * aux.mean().item() + 0.25 * z.mean().item(), abs=2e-6)
        metrics = step.metrics()
        assert [metrics[f"moe/aux_loss/{n}"] for n in range(4)] == pytest.approx(aux.tolist(), abs=2e-6)
        assert [metrics[f"moe/z_loss/{n}"] for n in range(4)] == pytest.approx(z.tolist(), abs=2e-6)
        assert sum(metrics[f"moe/load/2/{expert}"] for expert in range(8)) == pytest.approx(1)


def test_only_rows_after_the_first_are_counted_ahead_and_none_without_the_loss(
    moe: SailVLForConditionalGeneration, encoder: Encoder
) -> None:
    forwards = []
    moe.register_forward_hook(lambda *_: forwards.append(torch.is_grad_enabled()))
    _, batches = pack(samples_of(encoder), pack_length=60, filler=encoder.filler())
    for coefficients, expected in (
        (RouterCoefficients(0.1, 0.1), len(batches) - 1),
        (RouterCoefficients(0.0, 0.1), 0),
    ):
        forwards.clear()
        step = ExpertBalance(coefficients, experts_per_token=2, tokens=1, all_sum=no_ranks)
        step.count_ahead(moe, batches, CPU)
        assert forwards == [False] * expected


@pytest.mark.parametrize("coefficients", [RouterCoefficients(1.0, 0.0), RouterCoefficients(0.0, 1.0)])
def test_each_loss_alone_reaches_every_router_through_checkpointing(
    coefficients: RouterCoefficients, tiny_dir: Callable[..., Path], encoder: Encoder
) -> None:
    _, batches = pack(samples_of(encoder), pack_length=120, filler=encoder.filler())
    gradients = []
    for checkpointing in (False, True):
        model = load_model(tiny_dir("qwen3_moe")).train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": True})
        step = ExpertBalance(coefficients, experts_per_token=2, tokens=100, all_sum=no_ranks)
        step.count_ahead(model, batches, CPU)
        for batch in batches:
            step.loss(batch, model(**batch.model_inputs(CPU))).backward()
        gradients.append([weight.grad for weight in router_of(model)])
    assert all(gradient.abs().max() > 1e-5 for gradient in gradients[0])
    torch.testing.assert_close(gradients[0], gradients[1])


def test_coefficients_are_the_recipe_s_or_the_model_s_and_none_for_a_dense_model(
    tiny_dir: Callable[..., Path],
) -> None:
    dense, sparse = (load_model(tiny_dir(llm)) for llm in ("qwen3", "qwen3_moe"))
    assert router_coefficients(dense, aux=0.1, z=0.1) is None
    assert router_coefficients(sparse, aux=None, z=0.1) == RouterCoefficients(0.01, 0.1)
    assert router_coefficients(sparse, aux=0.0, z=0.0) == RouterCoefficients(0.0, 0.0)


@pytest.mark.parametrize("targets", [None, ("llm", "adapter")])
def test_frozen_routers_have_no_losses(targets: tuple[str, ...] | None, tiny_dir: Callable[..., Path]) -> None:
    lora = LoRA(r=2, alpha=4.0, dropout=0.0, targets=targets) if targets else None
    model = prepare_parameters(load_model(tiny_dir("qwen3_moe")), targets or ("adapter",), lora, seed=0)
    assert router_coefficients(model, aux=0.1, z=0.1) == RouterCoefficients(0.0, 0.0)


def test_without_coefficients_there_is_a_balance_but_neither_a_gradient_nor_a_forward_pass(
    moe: SailVLForConditionalGeneration, encoder: Encoder
) -> None:
    _, batches = pack(samples_of(encoder), pack_length=60, filler=encoder.filler())
    step = ExpertBalance(RouterCoefficients(0.0, 0.0), experts_per_token=2, tokens=100, all_sum=no_ranks)
    forwards: list[int] = []
    moe.register_forward_hook(lambda *_: forwards.append(1))
    step.count_ahead(moe, batches, CPU)
    losses = [step.loss(batch, moe(**batch.model_inputs(CPU))) for batch in batches]
    assert len(forwards) == len(batches)
    assert not any(loss.requires_grad or loss.item() for loss in losses)
    assert step.metrics()["moe/aux_loss"] > 0


# Whole steps of the trainer


@pytest.fixture(scope="module")
def reference(tiny_dir: Callable[..., Path], encoder: Encoder) -> dict[str, torch.Tensor]:
    """Gradients of one step by plain autograd on unpacked samples with transformers' own functions."""
    model, samples = load_model(tiny_dir("qwen3_moe")).train(), samples_of(encoder, 6)
    outputs = [
        model(
            input_ids=s.input_ids[None],
            pixel_values=s.pixel_values,
            image_grid_thw=s.image_grid_thw,
            output_router_logits=True,
        )
        for s in samples
    ]
    scored = [
        output.logits[0, s.prompt_length - 1 : -1].log_softmax(-1).gather(1, s.input_ids[s.prompt_length :, None])
        for output, s in zip(outputs, samples, strict=True)
    ]
    layers = [torch.cat(parts) for parts in zip(*(output.router_logits for output in outputs), strict=True)]
    aux = torch.stack([load_balancing_loss_func((layer,), 8, 2) / 2 for layer in layers]).mean()
    z = torch.stack([layer.logsumexp(-1).square().mean() for layer in layers]).mean()
    (-torch.cat(scored).mean() + 0.5 * aux + 0.1 * z).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_same_gradients(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, gradient in left.items():
        torch.testing.assert_close(gradient, right[name], atol=2e-6, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "zero_stage", "pack_length", "checkpointing"),
    [(1, 2, 60, False), (1, 2, 1000, True), (2, 2, 60, True), (2, 2, 1000, False), (2, 3, 60, True)],
)
def test_a_step_under_deepspeed_has_the_gradients_of_plain_autograd(
    ranks: int,
    zero_stage: int,
    pack_length: int,
    checkpointing: bool,
    reference: dict[str, torch.Tensor],
    tiny_dir: Callable[..., Path],
    tmp_path: Path,
) -> None:
    options = [str(tiny_dir("qwen3_moe")), str(tmp_path), str(zero_stage), str(pack_length), str(int(checkpointing))]
    finish_ranks(["tests/moe_step.py", *options], ranks=ranks)
    assert_same_gradients(torch.load(tmp_path / "gradients.pt"), reference)
