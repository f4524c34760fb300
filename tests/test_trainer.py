"""The one trainer: its step doesn't depend on packing, ZeRO stage, offload or checkpointing, and survives bad steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import picture, question

from sail_rl.config.loading import load_recipe
from sail_rl.contracts import Rollout
from sail_rl.data.encoding import Encoder, Sample
from sail_rl.data.packing import collate
from sail_rl.maths.aggregation import Aggregation
from sail_rl.maths.losses import (
    ActorCriticLoss,
    ClippedSurrogate,
    LossFunction,
    PolicyLoss,
    PolicyOutput,
    TokenLoss,
    cross_entropy,
)
from sail_rl.maths.token_fields import TokenFields
from sail_rl.models import MODEL_DISTRIBUTION
from sail_rl.models.loading import load_model
from sail_rl.stages.arguments import training_arguments
from sail_rl.trainer.balance import router_coefficients
from sail_rl.trainer.batches import Learner, StepBatch
from sail_rl.trainer.distributed import join_process_group
from sail_rl.trainer.nonfinite import NonFiniteStepMonitor
from sail_rl.trainer.schedule import UpdateSchedule, decayed_parameters, set_critic_learning_rate
from sail_rl.trainer.trainer import Trainer
from sail_rl.trainer.weights import gathered_weights, start_critic

STEPS = 2


@dataclass
class Trained:
    """The weights after the last step, and the first step's loss and gradient norm (which Adam would hide)."""

    weights: dict[str, torch.Tensor]
    loss: float
    grad_norm: float | None
    log: list[dict[str, float]] = field(default_factory=list)


class FixedBatches:
    """The same samples in every step."""

    def __init__(self, samples: list[Sample], aggregation: Aggregation) -> None:
        self.distribution = MODEL_DISTRIBUTION
        for sample in samples:
            weight = aggregation.token_weight(sample.completion_length)
            sample.token_fields.weights = torch.full((sample.completion_length,), weight)
        self.batch = StepBatch(samples, sum(aggregation.denominator(sample.completion_length) for sample in samples))

    def batches(self, learner: Learner, *, start_step: int) -> Iterator[StepBatch]:
        for _ in count(start_step):
            yield self.batch


@pytest.fixture
def samples(encoder: Encoder) -> list[Sample]:
    """Seven samples of all kinds: text only, one image, two images, an image of two tiles with a thumbnail."""
    pictures = [[], [picture(0)], [picture(1), picture(2)], [picture(3, 112, 56)], [], [picture(4)], [picture(5)]]
    generator = torch.Generator().manual_seed(0)
    made = []
    for number, images in enumerate(pictures):
        tokens = torch.randint(20, 200, (3 + 5 * number % 11,), generator=generator).tolist()
        rollout = Rollout("p", 0, tokens, [-5.0] * len(tokens), "", "stop", 1)
        (sample,) = encoder.rollout_samples(question(encoder, str(number), images), [rollout])
        sample.token_fields.advantages = torch.full((len(tokens),), float(number - 3))
        made.append(sample)
    return made


@pytest.fixture
def train(tiny_dir: Callable[..., Path], encoder: Encoder, tmp_path: Path) -> Callable[..., Trained]:
    """`train(samples, …)`: two optimiser steps of a tiny model."""

    def run(
        samples: list[Sample],
        source: FixedBatches | None = None,
        *,
        overrides: tuple[str, ...] = (),
        loss: LossFunction | None = None,
        aggregation: str = "sequence_mean",
        steps: int = STEPS,
        llm: str = "qwen3",
        limit: int = 3,
        critic: str | None = None,
        dtype: str = "float32",
    ) -> Trained:
        join_process_group()
        recipe = load_recipe(
            Path("recipes/quickstart.yaml"),
            [
                f"stages.rlvr.steps={steps}",
                "stages.rlvr.optimizer.warmup_steps=0",
                "stages.rlvr.optimizer.learning_rate=1e-3",
                f"model.dtype={dtype}",
                *overrides,
            ],
        )
        config = recipe.stages[1]
        args = training_arguments(recipe, config, tmp_path)
        args.save_strategy = "no"
        torch.manual_seed(0)  # of the value head
        model = load_model(tiny_dir(llm), critic=critic, dtype=getattr(torch, dtype))
        trainer = Trainer(
            model,
            args,
            source=source or FixedBatches(samples, Aggregation(aggregation, 16)),  # type: ignore[arg-type]
            loss=loss or PolicyLoss(),
            encoder=encoder,
            pack_length=config.pack_length,
            monitor=NonFiniteStepMonitor(tmp_path, limit=limit),
            router=router_coefficients(model, aux=None, z=1e-3),
        )
        trainer.train()
        logged = trainer.state.log_history[0]
        weights = {name: tensor.clone() for name, tensor in gathered_weights(trainer.model, critic=True)}
        return Trained(weights, logged["loss"], logged.get("grad_norm"), trainer.state.log_history)

    return run


def assert_equal(left: Trained, right: Trained) -> None:
    """Equal weights on average; single ones may differ more: Adam's first steps amplify tiny gradients' signs."""
    assert left.loss == pytest.approx(right.loss, abs=1e-6)
    if left.grad_norm is not None:  # DeepSpeed reports none without ZeRO
        assert left.grad_norm == pytest.approx(right.grad_norm, rel=1e-5)
    assert left.weights.keys() == right.weights.keys()
    gaps = torch.cat([(left.weights[name] - right.weights[name]).abs().flatten() for name in left.weights])
    assert gaps.mean().item() <= 1e-7
    assert gaps.max().item() <= 1e-3, "the learning rate"


@pytest.mark.parametrize(
    "aggregation", ["token_mean", "sequence_mean", pytest.param("fixed_length", marks=pytest.mark.slow)]
)
def test_results_don_t_depend_on_the_packing(
    aggregation: str, train: Callable[..., Any], samples: list[Sample]
) -> None:
    """Micro-batches of one sample, of a few and of all samples give the same weights after two steps."""
    runs = [
        train(samples, aggregation=aggregation, overrides=(f"stages.rlvr.pack_length={tokens}",))
        for tokens in (1, 80, 4096)
    ]
    assert_equal(runs[0], runs[1])
    assert_equal(runs[0], runs[2])


def test_the_step_equals_plain_autograd_on_one_sample_at_a_time(
    train: Callable[..., Any], samples: list[Sample], tiny_dir: Callable[..., Path], encoder: Encoder
) -> None:
    """An independent AdamW loop in plain torch, unpacked, without the trainer."""
    model = load_model(tiny_dir())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0)
    rates = [1e-3, 0.5e-3]  # cosine over two steps
    losses, norms = [], []
    tokens = sum(sample.completion_length for sample in samples)
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        losses.append(0.0)
        for sample in samples:
            logits = model(
                input_ids=sample.input_ids[None], pixel_values=sample.pixel_values, image_grid_thw=sample.image_grid_thw
            ).logits[0]
            logprobs = logits[sample.prompt_length - 1 : -1].log_softmax(-1)
            picked = logprobs.gather(1, sample.input_ids[sample.prompt_length :, None])
            loss = -picked.sum() / tokens
            loss.backward()
            losses[-1] += loss.item()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        optimizer.step()
    expected = Trained(dict(model.named_parameters()), losses[0], norms[0])
    assert_equal(train(samples, loss=cross_entropy, aggregation="token_mean"), expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ("deepspeed.zero_stage=0",),
        ("deepspeed.zero_stage=1",),
        ("deepspeed.zero_stage=3", "deepspeed.zero_options={stage3_param_persistence_threshold: 0}"),
        ("deepspeed.offload_optimizer=true",),
        ("stages.rlvr.gradient_checkpointing=true",),
    ],
    ids=lambda overrides: overrides[0],
)
def test_results_don_t_depend_on_how_memory_is_saved(
    overrides: tuple[str, ...], train: Callable[..., Any], samples: list[Sample]
) -> None:
    assert_equal(train(samples, overrides=overrides), train(samples))


GOLDEN = {
    ("qwen3", "ce"): (6.003083, 12.52186),
    ("qwen3", "grpo"): (0.2866701, 7.039339),
    ("qwen3_moe", "grpo"): (0.3140882, 5.653870),
}


@pytest.mark.parametrize(("llm", "name"), GOLDEN)
def test_a_seeded_step_gives_the_numbers_it_always_gave(
    llm: str, name: str, train: Callable[..., Trained], samples: list[Sample]
) -> None:
    """Guards refactors: the first step's loss and gradient norm. If mathematics changes on purpose, change them."""
    loss = {"ce": cross_entropy, "grpo": PolicyLoss(ClippedSurrogate(0.2, 0.28))}[name]
    trained = train(samples, loss=loss, llm=llm, steps=1)
    assert (trained.loss, trained.grad_norm) == pytest.approx(GOLDEN[llm, name], rel=1e-4)


class SignalInSomeSteps(FixedBatches):
    """The samples only in the given steps, counted from 1. The others have nothing but a denominator, if any."""

    def __init__(self, samples: list[Sample], *useful: int, denominator: float) -> None:
        super().__init__(samples, Aggregation("sequence_mean"))
        self.useful, self.denominator = useful, denominator

    def batches(self, learner: Learner, *, start_step: int) -> Iterator[StepBatch]:
        for step in count(start_step + 1):
            yield self.batch if step in self.useful else StepBatch([], self.denominator)


@pytest.mark.parametrize("zero_stage", [0, 2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("llm", "denominator"), [("qwen3", 0.0), ("qwen3", 7.0), ("qwen3_moe", 7.0)])
def test_steps_without_a_signal_change_neither_weights_nor_optimiser_nor_schedule(
    llm: str, denominator: float, zero_stage: int, train: Callable[..., Trained], samples: list[Sample]
) -> None:
    """Two updates with momentum, before and after empty steps, equal two updates in a row."""
    overrides = (f"deepspeed.zero_stage={zero_stage}", "stages.rlvr.optimizer.schedule=linear")
    trained = train(
        samples, SignalInSomeSteps(samples, 1, 4, denominator=denominator), llm=llm, steps=5, overrides=overrides
    )
    plain = train(samples, SignalInSomeSteps(samples, 1, 2, denominator=0.0), llm=llm, steps=5, overrides=overrides)
    assert all(torch.equal(plain.weights[name], weight) for name, weight in trained.weights.items())
    rates = [entry["learning_rate"] for entry in trained.log if "learning_rate" in entry]
    assert rates == pytest.approx([1e-3, 0.8e-3, 0.8e-3, 0.8e-3, 0.6e-3])
    assert [entry["train/empty_step"] for entry in trained.log if "loss" in entry] == [0, 1, 1, 0, 1]
    assert all(entry["grad_norm"] == 0 for entry in trained.log if entry.get("train/empty_step"))


# bfloat16


class OneAndCrumbs(FixedBatches):
    """A sample of weight 1, and again with a weight of 1/1024, in `crumbs` further micro-batches of one step."""

    def __init__(self, sample: Sample, crumbs: int) -> None:
        tokens = sample.completion_length
        weights = [1.0] + [1 / 1024] * crumbs
        samples = [replace(sample, token_fields=TokenFields(weights=torch.full((tokens,), w))) for w in weights]
        self.distribution = MODEL_DISTRIBUTION
        self.batch = StepBatch(samples, float(tokens), layout=[[number] for number in range(len(samples))])


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_gradients_of_micro_batches_add_up_in_float32(
    zero_stage: int, train: Callable[..., Trained], samples: list[Sample]
) -> None:
    """A bfloat16 sum has 8 binary digits: it loses a 1024th of itself, however often it is added."""
    overrides = (f"deepspeed.zero_stage={zero_stage}",)
    settings = {"loss": cross_entropy, "steps": 1, "dtype": "bfloat16", "overrides": overrides}
    one, crumbs = (train(samples, OneAndCrumbs(samples[0], number), **settings) for number in (0, 32))
    assert crumbs.grad_norm / one.grad_norm == pytest.approx(1 + 32 / 1024, rel=2e-3)


def test_only_matrices_decay(tiny_dir: Callable[..., Path]) -> None:
    """Neither biases nor norms do, whatever their names: the vision encoder's are called rms_norm1 and rms_norm2."""
    model = load_model(tiny_dir())
    decaying = decayed_parameters(model)
    assert "model.language_model.layers.0.self_attn.q_proj.weight" in decaying
    norms = {name for name, module in model.named_modules() if "norm" in type(module).__name__.lower()}
    assert {name.rpartition(".")[2] for name in norms} >= {"rms_norm1", "rms_norm2", "q_norm", "input_layernorm"}
    assert not [name for name in decaying if name.rpartition(".")[0] in norms or name.endswith("bias")]


# The critic's warm-up


class WarmUp(FixedBatches):
    """The same samples in every step; the first `steps` train the critic alone."""

    def __init__(self, samples: list[Sample], steps: int) -> None:
        for sample in samples:
            sample.token_fields.old_values = torch.zeros(sample.completion_length)
            sample.token_fields.returns = torch.ones(sample.completion_length)
        super().__init__(samples, Aggregation("token_mean"))
        self.steps = steps

    def batches(self, learner: Learner, *, start_step: int) -> Iterator[StepBatch]:
        for step in count(start_step):
            yield replace(self.batch, critic_only=step < self.steps)


@pytest.mark.parametrize(
    ("llm", "critic", "zero_stage"),
    [
        ("qwen3", "head", 0),
        ("qwen3", "head", 2),
        ("qwen3_moe", "head", 2),
        pytest.param("qwen3", "head", 3, marks=pytest.mark.slow),
        pytest.param("qwen3", "model", 2, marks=pytest.mark.slow),
    ],
)
def test_the_critic_s_warm_up_leaves_every_weight_of_the_policy_as_it_was(
    llm: str, critic: str, zero_stage: int, train: Callable[..., Trained], samples: list[Sample], tiny_dir: Any
) -> None:
    """Even with weight decay, an entropy bonus and router losses; the next step trains the policy."""
    settings = {
        "loss": ActorCriticLoss(PolicyLoss(entropy_coef=0.1)),
        "llm": llm,
        "critic": critic,
        "overrides": (f"deepspeed.zero_stage={zero_stage}", "stages.rlvr.optimizer.weight_decay=0.1"),
    }
    before = dict(load_model(tiny_dir(llm)).named_parameters())
    for steps, trains in ((2, False), (3, True)):
        trained = train(samples, WarmUp(samples, 2), steps=steps, **settings).weights
        policy = [name for name in trained if not name.startswith("critic.")]
        assert any(not torch.equal(before[name], trained[name]) for name in policy) == trains
        assert trained["critic.value_head.weight"].abs().max() > 0


def test_the_policy_s_learning_rate_starts_after_the_critic_s_warm_up(
    train: Callable[..., Trained], samples: list[Sample]
) -> None:
    settings = {"loss": ActorCriticLoss(PolicyLoss()), "critic": "head", "steps": 4}
    overrides = ("stages.rlvr.optimizer.warmup_steps=2", "stages.rlvr.optimizer.schedule=constant_with_warmup")
    log = train(samples, WarmUp(samples, 2), overrides=overrides, **settings).log
    rates = [entry["learning_rate"] for entry in log if "learning_rate" in entry]
    assert rates == pytest.approx([0.0, 0.0, 0.0, 5e-4])  # a schedule's first step has the rate 0


def test_the_critic_has_a_constant_learning_rate_of_its_own(tiny_dir: Callable[..., Path]) -> None:
    model = load_model(tiny_dir(), critic="head")
    decaying = {name: name in decayed_parameters(model) for name, _ in model.named_parameters()}
    groups = [
        {"params": [w for name, w in model.named_parameters() if decaying[name] == decays], "weight_decay": decay}
        for decays, decay in ((True, 0.1), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    set_critic_learning_rate(optimizer, model, 0.02)
    schedule = UpdateSchedule.of(torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 10))
    found = [weight for group in optimizer.param_groups for weight in group["params"]]
    assert sorted(map(id, found)) == sorted(map(id, model.parameters()))
    for updated, rate in ((True, 1e-4), (False, 1e-4), (True, 2e-4)):
        schedule.updated = updated
        optimizer.step()
        schedule.step()
        *policy, critic = optimizer.param_groups
        assert [group["lr"] for group in policy] == pytest.approx([rate] * 2)
        assert critic["lr"] == 0.02
        assert critic["params"] == [model.critic.value_head.weight]
        assert critic["weight_decay"] == 0.1


def test_a_critic_starts_at_the_mean_of_the_first_returns_and_keeps_their_scale(
    tiny_dir: Callable[..., Path], samples: list[Sample], encoder: Encoder, tmp_path: Path
) -> None:
    model = load_model(tiny_dir(), critic="head")
    inputs = collate(samples, filler=encoder.filler()).model_inputs(torch.device("cpu"))
    plain = model(**inputs).values
    model.critic.normalise(0.7, 0.0)  # equal returns have no scale
    assert torch.equal(model(**inputs).values, plain)
    for mean, deviation in ((0.7, 0.3), (0.9, 0.1)):  # the second batch changes nothing
        model.critic.normalise(mean, deviation)
        torch.testing.assert_close(model(**inputs).values, 0.7 + 0.3 * plain)
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, critic="head")
    torch.testing.assert_close(loaded(**inputs).values, 0.7 + 0.3 * plain)
    start_critic(loaded)
    assert torch.equal(loaded(**inputs).values, torch.zeros_like(plain))


def test_in_the_warm_up_the_value_loss_reaches_the_value_head_alone(
    tiny_dir: Callable[..., Path], samples: list[Sample], encoder: Encoder
) -> None:
    """The gradient of the trunk had a norm of 74.4 once."""
    model = load_model(tiny_dir(), critic="head")
    torch.nn.init.normal_(model.critic.value_head.weight)
    inputs = collate(samples, filler=encoder.filler()).model_inputs(torch.device("cpu"))
    plain = model(**inputs)
    output = model(**inputs, critic_only=True)
    assert torch.equal(output.logprobs, plain.logprobs)
    assert torch.equal(output.values, plain.values)
    (output.values.square().sum() + output.logprobs.sum() + output.entropies.sum()).backward()
    moved = [name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()]
    assert moved == ["critic.value_head.weight"]
    assert all(weight.grad is not None for weight in model.parameters()), "ZeRO needs all gradients"


# Bad steps


class NaNInSomeSteps:
    """Cross-entropy that is NaN in the given steps, counted from 1; each step of these tests has one micro-batch."""

    def __init__(self, *bad: int) -> None:
        self.bad = bad
        self.calls = 0

    def __call__(self, output: PolicyOutput, fields: TokenFields, segments: torch.Tensor) -> TokenLoss:
        self.calls += 1
        return TokenLoss(-output.logprobs * (float("nan") if self.calls in self.bad else 1.0))


@pytest.mark.parametrize("zero_stage", [0, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_step_that_is_not_finite_is_skipped_counted_and_saved(
    zero_stage: int, train: Callable[..., Any], samples: list[Sample], tmp_path: Path
) -> None:
    stage = f"deepspeed.zero_stage={zero_stage}"
    constant = ("stages.rlvr.optimizer.schedule=constant", stage)
    skipped = train(samples, loss=NaNInSomeSteps(1), steps=2, overrides=constant).weights
    plain = train(samples, loss=cross_entropy, steps=1, overrides=constant).weights
    assert all(torch.equal(skipped[name], plain[name]) for name in plain)
    saved = torch.load(tmp_path / "nonfinite/step-1-rank-0.pt", weights_only=False)
    assert [sample.input_ids.tolist() for sample in saved.samples] == [s.input_ids.tolist() for s in samples]


def test_after_a_few_such_steps_in_a_row_the_run_stops(train: Callable[..., Any], samples: list[Sample]) -> None:
    with pytest.raises(FloatingPointError, match="2 steps in a row had a non-finite gradient"):
        train(samples, loss=NaNInSomeSteps(1, 3, 4), steps=6, limit=2)
