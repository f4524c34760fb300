"""Folders given to commands: models and LoRA adapters are taken, everything else is described in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import perturb, picture
from peft import PeftModel
from safetensors.torch import load_file, save_file

from sail_rl.cli.main import main
from sail_rl.evaluation.sample import SampleOptions, sample
from sail_rl.models import merging
from sail_rl.models.adapters import LoRA, add_lora
from sail_rl.models.folder import model_folder, name_base
from sail_rl.models.loading import load_model
from sail_rl.models.merging import load_merged
from sail_rl.records.store import read_rollouts
from sail_rl.trainer.weights import save_merged


def _adapt(base: Path, run: Path, *, targets: tuple[str, ...] = ("llm", "adapter"), dtype: torch.dtype) -> Path:
    """RUN/stages/s with the `adapter` and the merged `model` that training would leave."""
    trainable = tuple(dict.fromkeys((*targets, "adapter")))
    model = add_lora(load_model(base, dtype=dtype), LoRA(4, 8.0, 0.0, targets), trainable=trainable)
    perturb(torch.nn.ParameterList([p for p in model.parameters() if p.requires_grad]), seed=3)
    stage = run / "stages/s"
    model.save_pretrained(stage / "adapter")
    name_base(stage / "adapter", base, place=stage / "adapter")
    save_merged(model, stage / "model")
    return stage


@pytest.fixture(scope="module")
def adapted_run(tiny_dir: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a base model, and a stage with an adapter of it."""
    run = tmp_path_factory.mktemp("adapted") / "run"
    shutil.copytree(tiny_dir(), run / "base")
    (run / "recipe.yaml").touch()
    _adapt(run / "base", run, dtype=torch.float32)
    return run


@pytest.fixture
def run(adapted_run: Path, tmp_path: Path) -> Path:
    """A copy of `adapted_run` for one test."""
    return shutil.copytree(adapted_run, tmp_path / "run")


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("targets", [("llm", "adapter"), ("llm",)])
@pytest.mark.parametrize("llm", ["qwen3", "qwen3_moe"])
def test_an_adapter_on_its_base_is_the_model_that_training_wrote(
    llm: str, targets: tuple[str, ...], dtype: torch.dtype, tiny_dir: Callable[..., Path], tmp_path: Path
) -> None:
    base = tmp_path / "base"
    load_model(tiny_dir(llm), dtype=dtype).save_pretrained(base)
    for path in tiny_dir(llm).glob("*tokenizer*.json"):
        shutil.copy(path, base)
    shutil.copy(tiny_dir(llm) / "processor_config.json", base)
    stage = _adapt(base, tmp_path / "run", targets=targets, dtype=dtype)
    (tmp_path / "run/recipe.yaml").write_text(f"model: {{path: {base}}}")
    merged = load_merged(model_folder(stage / "adapter"), dtype="auto")
    assert not isinstance(merged, PeftModel)
    own, trained = _weights(merged), _weights(load_model(stage / "model", dtype="auto"))
    assert own.keys() == trained.keys()
    assert all(torch.equal(own[name], trained[name]) for name in own)


def test_a_merged_weight_is_the_base_plus_the_scaled_product_by_hand(run: Path) -> None:
    factors = load_file(run / "stages/s/adapter/adapter_model.safetensors")
    layer = "model.language_model.layers.0.self_attn.q_proj"
    product = factors[f"base_model.model.{layer}.lora_B.weight"] @ factors[f"base_model.model.{layer}.lora_A.weight"]
    base, merged = load_model(run / "base"), load_merged(model_folder(run / "stages/s/adapter"))
    expected = _weights(base)[f"{layer}.weight"] + 8.0 / 4 * product
    torch.testing.assert_close(_weights(merged)[f"{layer}.weight"], expected)
    assert not torch.equal(expected, _weights(base)[f"{layer}.weight"])


def test_an_adapter_finds_its_base_after_its_run_has_moved_and_another_one_where_it_is_told(run: Path) -> None:
    named = json.loads((run / "stages/s/adapter/adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == "../../../base"
    moved = run.rename(run.with_name("moved"))
    adapter = moved / "stages/s/adapter"
    assert model_folder(adapter).model.resolve() == moved / "base"
    away = shutil.move(adapter, moved.parent / "away")
    with pytest.raises(ValueError, match=r"away: a LoRA adapter of the model \.\./\.\./\.\./base, which is not here"):
        model_folder(Path(away))
    assert model_folder(Path(away), base=moved / "base").model == moved / "base"
    with pytest.raises(ValueError, match=r"its base model .*nowhere doesn't exist; give .* with --base"):
        model_folder(Path(away), base=moved / "nowhere")
    with pytest.raises(ValueError, match=r"--base is .*, but .*base is not a LoRA adapter"):
        model_folder(moved / "base", base=moved / "base")


def test_an_adapter_that_doesn_t_fit_or_isn_t_plain_lora_is_refused(
    run: Path, tiny_dir: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = run / "stages/s/adapter"
    with pytest.raises(ValueError, match=r"the adapter doesn't fit its base model .*; give the right one with --base"):
        load_merged(model_folder(adapter, base=tiny_dir("qwen3_moe")))
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file(dict(list(tensors.items())[1:]), adapter / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"doesn't fit its base model .* is only in the model \(1 such tensors\)"):
        load_merged(model_folder(adapter))
    config = json.loads((adapter / "adapter_config.json").read_text())
    monkeypatch.setattr(merging, "load_model", lambda *_, **__: pytest.fail("loaded a model"))
    for change, said in (
        ({"bias": "all"}, "bias is 'all'"),
        ({"use_dora": True}, "use_dora is set, which isn't plain LoRA"),
        ({"peft_type": "LOHA"}, "LOHA"),
    ):
        (adapter / "adapter_config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=said):
            load_merged(model_folder(adapter))


def _copy(source: Path, to: Path, *, without: tuple[str, ...] = ()) -> Path:
    return shutil.copytree(source, to, ignore=lambda _, names: [name for name in names if name in without])


def _truncated(source: Path, to: Path) -> Path:
    shutil.copytree(source, to)
    with (to / "model.safetensors").open("r+b") as file:
        file.truncate(5000)
    return to


def _other_architecture(source: Path, to: Path) -> Path:
    shutil.copytree(source, to)
    (to / "config.json").write_text('{"model_type": "llava", "architectures": ["LlavaForCausalLM"]}')
    return to


def _sharded(source: Path, to: Path) -> Path:
    shutil.copytree(source, to)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model.safetensors"}}
    (to / "model.safetensors.index.json").write_text(json.dumps(index))
    return to


def _states(source: Path, to: Path) -> Path:
    to.mkdir()
    (to / "zero_pp_rank_0_mp_rank_00_optim_states.pt").touch()
    return to


def _made(*names: str) -> Callable[[Path, Path], Path]:
    def make(source: Path, to: Path) -> Path:
        to.mkdir()
        for name in names:
            (to / name).touch()
        return to

    return make


FOLDERS: dict[str, tuple[Callable[[Path, Path], Path], str]] = {
    "nothing": (lambda source, to: to, "doesn't exist"),
    "file": (lambda source, to: source / "config.json", "config.json is a file"),
    "empty": (_made(), "is an empty folder"),
    "run": (
        lambda base, to: base.parent,
        "is the folder of a run with the models {run}/stages/s/model",
    ),
    "new run": (_made("recipe.yaml"), "is the folder of a run, which has no model yet"),
    "stage": (
        lambda base, to: base.parent / "stages/s",
        "is the folder of a stage with the models {run}/stages/s/",
    ),
    "states": (_states, "holds DeepSpeed's states of a checkpoint, not a model"),
    "tokenizer": (_made("tokenizer.json"), "has a tokenizer, but no config.json and no weights"),
    "pictures": (_made("a.png", "b.png", "c.png", "d.png"), "has no config.json, but a.png, b.png, c.png and more"),
    "no weights": (lambda s, to: _copy(s, to, without=("model.safetensors",)), "has a config.json, but no weights"),
    "no tokenizer": (lambda s, to: _copy(s, to, without=("tokenizer.json",)), "has weights, but no tokenizer"),
    "no processor": (
        lambda s, to: _copy(s, to, without=("processor_config.json",)),
        "has weights, but no processor_config.json",
    ),
    "truncated": (_truncated, "model.safetensors (5000 bytes) is not a whole safetensors file"),
    "shards": (_sharded, "lacks model-00001-of-00002.safetensors (1 of the 2 files of its weights are missing)"),
    "another": (_other_architecture, "holds a model of type 'llava' (LlavaForCausalLM), not 'sailvl'"),
    "not JSON": (_made("adapter_config.json", "adapter_model.safetensors"), "is not a whole safetensors file"),
    "half": (_made("adapter_config.json"), "a LoRA adapter without adapter_model.safetensors"),
}


@pytest.fixture
def commands(tmp_path: Path) -> dict[str, list[str]]:
    """Every command that takes a model, without the model, which comes at FOLDER."""
    (tmp_path / "d.jsonl").write_text('{"prompt": "1+1?", "answer": "2"}\n')
    data, out = str(tmp_path / "d.jsonl"), str(tmp_path / "out")
    return {
        "eval": ["eval", "FOLDER", data],
        "sample": ["sample", "FOLDER", data, "--out", out],
        "export": ["export", "FOLDER", out],
        "soup": ["model", "soup", out, "FOLDER", "FOLDER"],
        "convert": ["model", "convert", "FOLDER", out],
        "probe": ["moe", "probe", "FOLDER", f"d={data}"],
        "show": ["data", "show", data, "--model", "FOLDER"],
        "check": ["check", "quickstart", "model.path=FOLDER", f"output_dir={out}"],
    }


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_that_is_no_model_is_described_in_one_line_before_anything_loads(
    kind: str,
    run: Path,
    commands: dict[str, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers import PreTrainedModel

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", lambda *_, **__: pytest.fail("loaded a model"))
    make, said = FOLDERS[kind]
    folder = make(run / "base", tmp_path / "given")
    for name in ("eval", "sample", "export", "soup"):
        assert main([word.replace("FOLDER", str(folder)) for word in commands[name]]) == 2
        shown = capsys.readouterr().err.splitlines()[-1]
        assert said.format(run=run) in shown, (name, shown)
        assert shown.startswith(f"sail-rl: {folder}"), (name, shown)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["convert", "probe", "show", "check"])
def test_other_commands_take_no_adapters_and_say_how_to_merge_them(
    name: str, run: Path, commands: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = run / "stages/s/adapter"
    assert main([word.replace("FOLDER", str(adapter)) for word in commands[name]]) == 2
    shown = capsys.readouterr().err.splitlines()[-1]
    assert f"{adapter} is a LoRA adapter (`sail-rl export` merges it onto its base); give the folder of a" in shown
    assert ("model.path: " in shown) == (name == "check")


def test_an_exported_adapter_is_the_exported_model(run: Path, tmp_path: Path) -> None:
    stage = run / "stages/s"
    lineage = {"stage": "s", "parents": [{"stage": "base"}], "data": {"d": {"hash": "x"}}, "settings": {"kind": "sft"}}
    (stage / "adapter/lineage.json").write_text(json.dumps(lineage | {"metrics": {}}))
    assert main(["export", str(stage / "adapter"), str(tmp_path / "out")]) == 0
    own, trained = _weights(load_model(tmp_path / "out")), _weights(load_model(stage / "model"))
    assert all(torch.equal(own[name], trained[name]) for name in trained)
    assert model_folder(tmp_path / "out").adapter is None
    assert "| s | sft | base | d |" in (tmp_path / "out/README.md").read_text()


def test_an_adapter_is_evaluated_and_averaged_as_its_merged_model(run: Path, tmp_path: Path) -> None:
    picture(1).save(tmp_path / "1.png")
    (tmp_path / "d.jsonl").write_text('{"prompt": "What is the sum?", "images": ["1.png"], "answer": "7"}\n' * 3)
    stage = run / "stages/s"
    for path in (run / "base").glob("*"):
        if not (stage / "model" / path.name).exists():
            shutil.copy(path, stage / "model")

    def sampled(model: Path, out: str) -> list[list[int]]:
        options = SampleOptions(model, tmp_path / "d.jsonl", tmp_path / out, n=2, engine="rollouts.hf:HFEngine")
        sample(SampleOptions(**{name: getattr(options, name) for name in options.__slots__} | {"max_tokens": 4}))
        return [stored.rollout.token_ids for stored in read_rollouts(tmp_path / out)]

    assert sampled(stage / "adapter", "adapter") == sampled(stage / "model", "model") != sampled(run / "base", "base")
    assert main(["model", "soup", str(tmp_path / "soup"), str(stage / "adapter"), str(run / "base"), "--force"]) == 0
    soup, base, merged = (_weights(load_model(path)) for path in (tmp_path / "soup", run / "base", stage / "model"))
    for name, tensor in soup.items():
        torch.testing.assert_close(tensor, (base[name] + merged[name]) / 2)
