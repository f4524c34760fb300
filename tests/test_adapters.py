"""LoRA: merged weights are what vLLM gets, adapters are what is saved, and a resumed training is the same training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import perturb, picture, question
from peft import PeftModel
from safetensors.torch import load_file
from test_engines import SAMPLING, gap
from test_run import run
from training import SameBatch, recipe_of, samples_of, train, weights_of
from transformers import AutoProcessor

from rollouts.vllm_engine import VLLMEngine
from sail_rl.data.encoding import Encoder
from sail_rl.data.packing import collate
from sail_rl.models import SailVLForConditionalGeneration
from sail_rl.models.adapters import LoRA, add_lora, describe_trainable, part_of
from sail_rl.models.loading import load_model
from sail_rl.plan.policy import check_lora
from sail_rl.records.jsonl import read_jsonl
from sail_rl.trainer.annotate import policy_without_adapters
from sail_rl.trainer.batches import Learner, StepBatch
from sail_rl.trainer.distributed import zero3_disabled
from sail_rl.trainer.weights import gathered_weights, save_merged

slow = pytest.mark.slow
EVERYTHING = ("llm", "adapter", "vision")
LORA = {"r": 4, "alpha": 16, "targets": ["llm", "adapter"]}
IDS = torch.arange(20, 40)[None]


def loaded(folder: Path, **kwargs: Any) -> SailVLForConditionalGeneration:
    with zero3_disabled():  # an earlier test's ZeRO-3 may not have been collected yet
        return load_model(folder, **kwargs).eval()


def with_lora(folder: Path, targets: tuple[str, ...] = EVERYTHING, **kwargs: Any) -> PeftModel:
    """LoRA with noise in every parameter that learns, as training would leave it."""
    model = add_lora(loaded(folder), LoRA(4, 8.0, 0.0, targets), trainable=EVERYTHING, **kwargs).eval()
    perturb(torch.nn.ParameterList([p for p in model.parameters() if p.requires_grad]), seed=3)
    return model


@pytest.mark.parametrize("targets", [EVERYTHING, ("llm",)])
@pytest.mark.parametrize("llm", ["qwen3", "qwen3_moe"])
def test_merged_weights_are_those_that_peft_merges_and_leave_the_model_alone(
    llm: str, targets: tuple[str, ...], tiny_dir: Callable[..., Path]
) -> None:
    model = with_lora(tiny_dir(llm), targets)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merged = dict(gathered_weights(model))
    expected = dict(copy.deepcopy(model).merge_and_unload().named_parameters())
    assert merged.keys() == expected.keys() == {name for name, _ in loaded(tiny_dir(llm)).named_parameters()}
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, expected[name].detach(), atol=1e-7, rtol=1e-6)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_before_the_first_step_a_model_with_lora_computes_what_it_did(tiny_dir: Callable[..., Path]) -> None:
    model = add_lora(loaded(tiny_dir()), LoRA(4, 8.0, 0.0, EVERYTHING), trainable=EVERYTHING)
    assert torch.equal(model(input_ids=IDS).logits, loaded(tiny_dir())(input_ids=IDS).logits)


def test_adapters_depend_on_their_seed_alone(tiny_dir: Callable[..., Path]) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = with_lora(tiny_dir(), seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    same, other = with_lora(tiny_dir(), seed=5), with_lora(tiny_dir(), seed=6)
    assert torch.equal(one(input_ids=IDS).logits, same(input_ids=IDS).logits)
    assert not torch.equal(one(input_ids=IDS).logits, other(input_ids=IDS).logits)


@pytest.mark.parametrize("llm", ["qwen3", "qwen3_moe"])
def test_router_embeddings_head_and_norms_never_learn(llm: str, tiny_dir: Callable[..., Path]) -> None:
    """By hand: r = 4, attention 4 x (192 + 256 | 128 | 128 | 256) and so on, in each of the four layers."""
    model = add_lora(loaded(tiny_dir(llm)), LoRA(4, 8.0, 0.0, ("llm",)), trainable=("llm",))
    learning = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in learning)
    attention = 4 * ((192 + 256) + 2 * (192 + 128) + (256 + 192))
    mlp = 4 * 3 * (192 + 512) if llm == "qwen3" else 8 * 4 * ((192 + 384) + (192 + 192))
    assert sum(learning.values()) == 4 * (attention + mlp)


def test_parts_without_lora_learn_whole_and_a_critic_always(tiny_dir: Callable[..., Path], tmp_path: Path) -> None:
    model = add_lora(
        loaded(tiny_dir(), critic="model"), LoRA(4, 8.0, 0.0, ("llm",)), trainable=("adapter", "llm"), seed=0
    )
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {part_of(name) for name in learning} == {"adapter", "llm", "critic"}
    assert all("lora_" in name for name in learning if part_of(name) == "llm")
    assert not any("lora_" in name for name in learning if part_of(name) != "llm")
    assert "adapter 136,576 of 136,576" in describe_trainable(model)
    assert "vision 0 of" in describe_trainable(model)
    critic = model.get_base_model().critic
    assert all(parameter.requires_grad for parameter in critic.parameters())
    names = {name for name, _ in gathered_weights(model, critic=True)}
    assert names == {name for name, _ in loaded(tiny_dir(), critic="model").named_parameters()}
    critic.normalise(0.7, 0.3)
    save_merged(model, tmp_path)
    merged = loaded(tmp_path, critic="model").critic
    assert [merged.mean.item(), merged.deviation.item()] == pytest.approx([0.7, 0.3])


@slow
@pytest.mark.parametrize(
    ("llm", "targets", "tied"),
    [
        ("qwen3", ["llm", "adapter"], True),
        ("qwen3", ["llm"], False),
        ("qwen3_moe", ["llm", "adapter", "vision"], True),
        ("qwen3_moe", ["llm"], False),
    ],
)
def test_a_trained_policy_has_equal_logprobs_in_vllm(
    llm: str,
    targets: list[str],
    tied: bool,
    tiny_dir: Callable[..., Path],
    vllm_engine: Callable[..., VLLMEngine],
    encoder: Encoder,
    tmp_path: Path,
) -> None:
    engine = vllm_engine(llm, tied)
    lora = LORA | {"targets": targets}
    recipe = recipe_of(tmp_path, steps=3, optimizer={"learning_rate": 2e-2}, lora=lora, trainable="all")
    trainer = train(recipe, tiny_dir(llm, tied))
    model = trainer.model.eval()
    prompts = [question(encoder, str(n), [picture(m) for m in range(n)]) for n in range(3)]
    trainer.push_weights(engine)
    assert gap(model, encoder, prompts, engine.generate(prompts, SAMPLING)) < 1e-5

    # The measure would notice adapters that are left out.
    engine.push_weights(9, loaded(tiny_dir(llm, tied)).named_parameters())
    assert gap(model, encoder, prompts, engine.generate(prompts, SAMPLING)) > 1e-2


@slow
@pytest.mark.parametrize(
    ("llm", "zero_stage"), [("qwen3", 0), ("qwen3", 1), ("qwen3", 2), ("qwen3", 3), ("qwen3_moe", 2)]
)
def test_checkpoints_hold_adapters_only_and_resume_exactly(
    llm: str, zero_stage: int, tiny_dir: Callable[..., Path], tmp_path: Path
) -> None:
    settings = {"lora": LORA | {"dropout": 0.1 if llm == "qwen3" else 0.0}, "trainable": ["llm", "adapter"], "steps": 4}
    recipe = recipe_of(tmp_path, zero_stage=zero_stage, save_every=2, **settings)
    straight = train(recipe, tiny_dir(llm))
    checkpoint = tmp_path / "checkpoint-2"
    resumed = train(recipe, tiny_dir(llm), resume=checkpoint)
    expected, got = weights_of(straight), weights_of(resumed)
    assert all(torch.equal(tensor, got[name]) for name, tensor in expected.items())

    saved = load_file(checkpoint / "adapter_model.safetensors")
    assert saved
    assert all(".lora_" in name for name in saved)
    assert not (checkpoint / "model.safetensors").exists()
    whole = sum(path.stat().st_size for path in tiny_dir(llm).glob("*.safetensors"))
    states = sum(path.stat().st_size for path in checkpoint.rglob("*.pt"))
    assert states < whole, "adapters with their moments, and no frozen weight"

    base = loaded(tiny_dir(llm))
    reloaded = PeftModel.from_pretrained(base, tmp_path / "checkpoint-4").eval()
    merged = dict(gathered_weights(reloaded))
    for name, tensor in expected.items():
        torch.testing.assert_close(merged[name], tensor, atol=1e-7, rtol=1e-6)

    save_merged(resumed.model, tmp_path / "model")
    plain = dict(loaded(tmp_path / "model").named_parameters())
    assert all(torch.equal(plain[name], tensor) for name, tensor in expected.items())


@slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_results_don_t_depend_on_the_zero_stage(
    checkpointing: bool, tiny_dir: Callable[..., Path], tmp_path: Path
) -> None:
    """With one part that learns whole beside the adapters."""
    lora = LORA | {"targets": ["llm"]}
    settings = {"lora": lora, "trainable": ["llm", "adapter"], "optimizer": {"learning_rate": 1e-3}}
    expected = weights_of(train(recipe_of(tmp_path, zero_stage=0, **settings), tiny_dir()))
    for zero_stage in (2, 3):
        recipe = recipe_of(tmp_path, zero_stage=zero_stage, gradient_checkpointing=checkpointing, **settings)
        got = weights_of(train(recipe, tiny_dir()))
        assert got.keys() == expected.keys()
        for name, tensor in expected.items():
            assert (tensor - got[name]).abs().mean() < 1e-6, name


class ReferenceBeforeEachStep(SameBatch):
    """The same batch in every step; before each step, log-probs are computed with the adapters switched off."""

    reference: list[torch.Tensor]

    def batches(self, learner: Learner, *, start_step: int) -> Iterator[StepBatch]:
        for batch in super().batches(learner, start_step=start_step):
            found = policy_without_adapters(learner, batch.samples)
            self.reference = [output.logprobs for output in found]
            yield batch


@pytest.mark.parametrize(("llm", "zero_stage"), [("qwen3", 2), pytest.param("qwen3", 3, marks=slow), ("qwen3_moe", 2)])
def test_the_policy_without_its_adapters_is_the_parent_and_training_goes_on_as_if_nothing_had_happened(
    llm: str, zero_stage: int, tiny_dir: Callable[..., Path], encoder: Encoder, tmp_path: Path
) -> None:
    """With one part that trains fully beside the adapters."""
    settings = {"lora": LORA | {"targets": ["llm"]}, "trainable": ["llm", "adapter"], "steps": 3}
    recipe = recipe_of(tmp_path, zero_stage=zero_stage, optimizer={"learning_rate": 2e-2}, **settings)
    source = ReferenceBeforeEachStep(samples_of(encoder))
    trained = train(recipe, tiny_dir(llm), source=source)
    parent, samples = loaded(tiny_dir(llm)), source.batch.samples
    for sample, found in zip(samples, source.reference, strict=True):
        expected = parent(**collate([sample], filler=encoder.filler()).model_inputs(torch.device("cpu"))).logprobs
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    own = [output.logprobs for output in trained.compute_logprobs(samples)]
    assert max((a - b).abs().max() for a, b in zip(own, source.reference, strict=True)) > 0.1
    plain = weights_of(train(recipe, tiny_dir(llm)))
    assert all(torch.equal(tensor, plain[name]) for name, tensor in weights_of(trained).items())


@pytest.mark.parametrize("llm", ["qwen3", "qwen3_moe"])
def test_the_merged_model_is_a_plain_one_with_the_same_numbers(
    llm: str, tiny_dir: Callable[..., Path], tmp_path: Path
) -> None:
    model = with_lora(tiny_dir(llm), ("llm",))
    save_merged(model, tmp_path)
    torch.testing.assert_close(
        loaded(tmp_path)(input_ids=IDS).logits, model(input_ids=IDS).logits, atol=2e-5, rtol=1e-5
    )


@pytest.mark.parametrize("llm", ["qwen3", "qwen3_moe"])
def test_lora_on_a_published_folder_saves_what_it_has(llm: str, tiny_dir: Callable[..., Path], tmp_path: Path) -> None:
    """PEFT reads the conversions that the published names are loaded with; it must not apply them to adapters."""
    published = tmp_path / "published"
    loaded(tiny_dir(llm)).save_pretrained(published, save_original_format=True)
    AutoProcessor.from_pretrained(tiny_dir(llm)).tokenizer.save_pretrained(published)
    model = with_lora(published, ("llm",))
    model.save_pretrained(tmp_path / "adapter")
    save_merged(model, tmp_path / "model")
    expected = {name: tensor.clone() for name, tensor in gathered_weights(model)}
    again = PeftModel.from_pretrained(loaded(published), tmp_path / "adapter")
    for found in (dict(gathered_weights(again)), dict(loaded(tmp_path / "model").named_parameters())):
        assert found.keys() == expected.keys()
        lora = [name for name in expected if "language_model" in name]
        assert all(torch.equal(found[name], expected[name]) for name in lora)


# What is refused, and when


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora": {"r": 0}}, r"lora\.r"),
        ({"lora": {}, "trainable": ["llm"]}, "stage s: lora.targets has adapter, which `trainable` freezes"),
        ({"lora": {"targets": ["adapter"]}, "trainable": "all"}, "stage s: `trainable` has llm, but lora.targets"),
        ({"lora": {"quantize": "int3"}}, "quantize"),
    ],
)
def test_settings_that_contradict_each_other_are_named(settings: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        recipe_of(tmp_path, **settings)


@pytest.mark.parametrize(
    ("lora", "zero_stage", "message"),
    [
        ({"dropout": 0.1}, 2, "stage s: lora.dropout is 0.1, but an MoE's experts"),
        ({}, 3, "set deepspeed.zero_stage to 2"),
        ({"quantize": "nf4"}, 2, "stage s: lora.quantize reaches linear layers only"),
    ],
)
def test_what_lora_can_t_do_with_an_moe_is_said_before_it_loads(
    lora: Any, zero_stage: int, message: str, tiny_dir: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = recipe_of(tmp_path, zero_stage=zero_stage, path=tiny_dir("qwen3_moe"), lora=lora)
    with pytest.raises(ValueError, match=message):
        check_lora(recipe)
    adapter_only = lora | {"targets": ["adapter"], "quantize": None}
    check_lora(recipe_of(tmp_path, zero_stage=zero_stage, path=tiny_dir("qwen3_moe"), lora=adapter_only))


def test_a_quantised_base_needs_its_package_and_a_gpu(
    tiny_dir: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(tmp_path, path=tiny_dir(), lora={"quantize": "nf4"})
    monkeypatch.setattr("sail_rl.plan.policy.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"stage s: lora.quantize needs bitsandbytes; pip install -e '.\[qlora\]'"):
        check_lora(recipe)
    monkeypatch.setattr("sail_rl.plan.policy.find_spec", lambda name: object())
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match=r"stage s: lora\.quantize needs a GPU"):
        check_lora(recipe)


# A whole run


@slow
def test_a_run_with_lora_in_both_stages_leaves_adapters_and_merged_models(tmp_path: Path) -> None:
    """SFT with LoRA everywhere, then RL with LoRA and a whole adapter MLP, both from the model before them."""
    folder = tmp_path / "run"
    overrides = [
        "stages.longcot_sft.lora={r: 8, alpha: 16, targets: [llm, adapter, vision]}",
        "stages.rlvr.lora={r: 4, targets: [llm]}",
        "stages.rlvr.trainable=[llm, adapter]",
        "stages.rlvr.loss.kl={coef: 1.0e-3}",
        "stages.rlvr.optimizer.learning_rate=1e-2",
    ]
    run(folder, *overrides)
    records = [record for record in read_jsonl(folder / "metrics.jsonl") if record["stage"] == "rlvr"]
    assert all(record["mismatch/max"] < 1e-4 for record in records if record["step"])
    assert records[-1]["kl/reference"] > 0
    parent = folder / "base"
    for stage in ("longcot_sft", "rlvr"):
        done = folder / "stages" / stage
        merged = dict(gathered_weights(PeftModel.from_pretrained(loaded(parent), done / "adapter").eval()))
        plain = dict(loaded(done / "model").named_parameters())
        assert merged.keys() == plain.keys()
        for name, tensor in plain.items():
            torch.testing.assert_close(merged[name], tensor.detach(), atol=1e-6, rtol=1e-5)
        frozen = {name for name, p in loaded(parent).named_parameters() if torch.equal(p, plain[name])}
        learned = {part_of(name) for name in plain.keys() - frozen}
        assert learned == ({"llm", "adapter", "vision"} if stage == "longcot_sft" else {"llm", "adapter"})
        assert not list(done.glob("checkpoint-*/model*.safetensors"))
        parent = done / "model"
